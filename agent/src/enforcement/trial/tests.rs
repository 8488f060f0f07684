//! Going back, in the kernel and on disk: these tests load the programs, and fail without root.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up shall fail"
)]

use policy::Revision;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::enforcement::{
    Facts, Started,
    beginning::{bootstrap_policy, closed_policy},
    tests::Host,
};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

/// Lets everything in.
fn open(revision: u64) -> EncodedPolicy {
    EncodedPolicy::encode(HostPolicy {
        revision: Revision(revision),
        identity: Identity::FIRST,
        ..bootstrap_policy()
    })
}

/// Lets nothing in.
fn shut(revision: u64) -> EncodedPolicy {
    EncodedPolicy::encode(HostPolicy {
        revision: Revision(revision),
        identity: Identity::FIRST,
        ..closed_policy()
    })
}

fn take(task: &mut EnforcementTask, policy: EncodedPolicy) {
    task.take(policy).unwrap();
}

/// A host that enforces revision 1, which lets everything in, and has reached its controller with it.
fn settled(host: &Host) -> EnforcementTask {
    let mut task = host.start_with(PATIENCE);
    take(&mut task, open(1));
    task.reached(open(1).digest());
    assert!(task.trial.is_none());
    assert!(task.enforcer.lets_in());
    task
}

fn good(host: &Host) -> Option<Revision> {
    let good = PolicyStore::new(&host.state).good().unwrap();
    good.map(|good| good.policy().revision)
}

fn facts(task: &EnforcementTask) -> Facts {
    task.facts.borrow().clone()
}

#[test]
fn a_policy_without_a_controller_is_rolled_back_and_its_revision_not_taken_again() {
    let host = Host::new();
    let mut task = settled(&host);
    take(&mut task, shut(2));
    assert!(!task.enforcer.lets_in());
    assert_eq!(good(&host), Some(Revision(1)), "to go back to");
    assert_eq!(facts(&task).trial, Some(shut(2).digest()));
    task.roll_back();
    assert!(task.enforcer.lets_in());
    let Facts {
        applied,
        trial,
        rolled_back,
        ..
    } = facts(&task);
    assert_eq!(applied.unwrap().digest, open(1).digest());
    assert_eq!(trial, None);
    assert_eq!(rolled_back.unwrap().revision, Revision(2));

    for _ in 0..2 {
        for barred in [shut(2), open(2)] {
            let reason = task.take(barred).unwrap_err();
            assert!(reason.contains("revision 2"), "{reason}");
        }
        assert!(task.enforcer.lets_in());
        // As well after a restart.
        drop(task);
        task = host.start_with(PATIENCE);
        assert!(task.enforcer.lets_in());
        assert!(facts(&task).rolled_back.is_some());
    }
    take(&mut task, shut(3));
    assert!(!task.enforcer.lets_in());
    assert_eq!(facts(&task).rolled_back, None);
    task.reached(shut(3).digest());
    assert_eq!(good(&host), Some(Revision(3)));
    drop(task);
    assert_eq!(facts(&host.start_with(PATIENCE)).rolled_back, None);
}

#[test]
fn a_policy_with_which_the_controller_was_reached_once_stays() {
    let host = Host::new();
    let mut task = settled(&host);
    take(&mut task, shut(2));
    // A proof of another policy is none of this one.
    task.reached(open(1).digest());
    assert!(task.until_rollback().is_some());
    task.reached(shut(2).digest());
    assert_eq!(task.until_rollback(), None);
    task.roll_back();
    assert!(!task.enforcer.lets_in());
    assert_eq!(good(&host), Some(Revision(2)));
}

#[test]
fn a_trial_goes_on_after_a_restart_and_a_reboot() {
    let host = Host::new();
    let mut task = settled(&host);
    take(&mut task, shut(2));
    for reboot in [false, true] {
        drop(task);
        if reboot {
            crate::enforcer::Enforcer::detach(&host.bpffs.pin_dir()).unwrap();
        }
        task = host.start_with(PATIENCE);
        assert!(!task.enforcer.lets_in());
        assert!(task.until_rollback().is_some());
    }
    task.roll_back();
    assert!(task.enforcer.lets_in());
}

#[test]
fn an_agent_that_ends_on_its_way_back_goes_on_with_it() {
    let host = Host::new();
    let mut task = settled(&host);
    take(&mut task, shut(2));
    let rolled_back = RolledBack {
        revision: Revision(2),
        digest: shut(2).digest(),
        after_seconds: 30,
        at: Timestamp::UNIX_EPOCH,
    };
    rolled_back.save(&host.state).unwrap();
    drop(task);
    for _ in 0..2 {
        let mut task = host.start_with(PATIENCE);
        assert!(task.enforcer.lets_in());
        assert_eq!(task.until_rollback(), None);
        assert_eq!(facts(&task).rolled_back, Some(rolled_back.clone()));
    }
}

#[test]
fn of_policies_that_follow_each_other_unheard_none_is_what_the_host_goes_back_to() {
    let host = Host::new();
    let mut task = settled(&host);
    take(&mut task, shut(2));
    take(&mut task, shut(3));
    drop(task);
    let mut task = host.start_with(PATIENCE);
    task.roll_back();
    assert!(task.enforcer.lets_in());
    assert_eq!(facts(&task).applied.unwrap().revision, Revision(1));
}

#[test]
fn the_first_policy_goes_back_to_none() {
    let host = Host::bare();
    let mut task = host.start_with(PATIENCE);
    take(&mut task, shut(1));
    drop(task);
    let mut task = host.start_with(PATIENCE);
    assert!(!task.enforcer.lets_in());
    task.roll_back();
    assert!(task.enforcer.lets_in());
    assert_eq!(facts(&task).applied, None, "the controller sent none");
    drop(task);
    assert!(host.start_with(PATIENCE).enforcer.lets_in());
}

#[test]
fn quarantine_is_never_rolled_back_and_never_refused() {
    let host = Host::new();
    let mut task = settled(&host);
    take(&mut task, shut(2));
    task.roll_back();
    let quarantine = EncodedPolicy::encode(HostPolicy {
        revision: Revision(2),
        identity: Identity::QUARANTINED,
        ..closed_policy()
    });
    take(&mut task, quarantine);
    assert!(!task.enforcer.lets_in());
    assert_eq!(task.until_rollback(), None);
    // Nor is that of a peer.
    let peer = EncodedPolicy::encode(HostPolicy {
        addresses: [("10.0.0.9".parse().unwrap(), Identity::QUARANTINED)].into(),
        ..open(3).policy().clone()
    });
    assert!(!is_due(open(2).policy(), peer.policy()));
    assert!(is_due(open(2).policy(), open(3).policy()));
}

/// Has the peer in quarantine that `lets_in` comes from.
fn with_quarantine(policy: &EncodedPolicy) -> EncodedPolicy {
    let peers = [("10.0.0.2".parse().unwrap(), Identity::QUARANTINED)];
    let only = HostPolicy {
        addresses: peers.into(),
        ..closed_policy()
    };
    EncodedPolicy::encode(quarantine::with_those_of(policy.policy(), &only).unwrap())
}

#[test]
fn a_peer_in_quarantine_is_cut_also_by_a_revision_that_was_rolled_back() {
    let host = Host::new();
    let mut task = settled(&host);
    take(&mut task, shut(2));
    task.roll_back();
    for round in 0..3 {
        let reason = task.take(with_quarantine(&open(2))).unwrap_err();
        assert!(reason.contains("rolled back"), "{reason}");
        assert!(reason.ends_with("in quarantine are cut"), "{reason}");
        assert!(!task.enforcer.lets_in());
        assert_eq!(facts(&task).rolled_back.unwrap().revision, Revision(2));
        assert_eq!(facts(&task).applied.unwrap().revision, Revision(1));
        // After a restart and a reboot it is enforced from the start.
        drop(task);
        if round == 1 {
            crate::enforcer::Enforcer::detach(&host.bpffs.pin_dir()).unwrap();
        }
        task = host.start_with(PATIENCE);
        assert!(!task.enforcer.lets_in());
        assert_eq!(task.until_rollback(), None);
    }
    let reason = task.take(open(2)).unwrap_err();
    assert!(!reason.contains("quarantine"), "{reason}");
    take(&mut task, open(3));
    assert!(task.enforcer.lets_in());
    assert_eq!(facts(&task).rolled_back, None);
}

#[test]
fn a_quarantine_that_comes_with_other_rules_stays_when_they_are_rolled_back() {
    let host = Host::new();
    for is_ended_on_its_way in [false, true] {
        let mut task = settled(&host);
        let bundle = with_quarantine(&shut(2));
        take(&mut task, bundle.clone());
        assert_eq!(facts(&task).trial, Some(bundle.digest()));
        if is_ended_on_its_way {
            let rolled_back = RolledBack {
                revision: Revision(2),
                digest: bundle.digest(),
                after_seconds: 30,
                at: Timestamp::UNIX_EPOCH,
            };
            rolled_back.save(&host.state).unwrap();
            drop(task);
            task = host.start_with(PATIENCE);
        } else {
            task.roll_back();
        }
        for _ in 0..2 {
            assert_eq!(facts(&task).applied.unwrap().revision, Revision(1));
            assert!(!task.enforcer.lets_in());
            assert!(facts(&task).rolled_back.is_some());
            assert_eq!(task.until_rollback(), None);
            drop(task);
            task = host.start_with(PATIENCE);
        }
        // For the next round.
        take(&mut task, open(3));
        take(&mut task, open(1));
    }
}

#[test]
fn without_the_setting_nothing_is_rolled_back() {
    let host = Host::new();
    let mut task = host.start_with(None);
    take(&mut task, shut(2));
    assert_eq!(task.until_rollback(), None);
    assert_eq!(good(&host), Some(Revision(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_without_a_controller_runs_out_on_its_own() {
    let host = Host::new();
    let Started {
        mut task,
        enforcement: _reached_by,
        ..
    } = host.started(Some(Duration::from_millis(300)));
    take(&mut task, shut(2));
    let mut facts = task.facts.subscribe();
    let cancel = CancellationToken::new();
    let running = tokio::spawn(task.run(cancel.clone()));
    let went_back = facts.wait_for(|facts| facts.rolled_back.is_some());
    timeout(Duration::from_secs(20), went_back)
        .await
        .unwrap()
        .unwrap();
    cancel.cancel();
    running.await.unwrap().unwrap();
}
