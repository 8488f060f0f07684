//! Exceptions end in the kernel: these tests load the programs, and fail without root.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up shall fail"
)]

use std::sync::atomic::{AtomicU64, Ordering};

use policy::{Action, HostPolicy, Origin, Rule, Tier};

use super::{beginning::closed_policy, *};
use crate::{
    enforcer::tests::{Bpffs, attaching::ip},
    kernel::testing::in_own_namespace,
};

mod crashes;

/// When the exception ends, in milliseconds since the Unix epoch.
const END: u64 = 1_800_000_000_000;

/// A host with a policy on disk: an exception lets everything in, and nothing else does.
pub struct Host {
    pub bpffs: Bpffs,
    pub state: Arc<StateDir>,
    /// What its clock shows, in milliseconds.
    clock: Arc<AtomicU64>,
    _directory: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        let host = Self::bare();
        let store = PolicyStore::new(&host.state);
        store.stage(&with_exception()).unwrap();
        store.promote().unwrap();
        host
    }

    /// One that never had a policy.
    pub fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        Self {
            bpffs: Bpffs::new(),
            state: state.into(),
            clock: AtomicU64::new(0).into(),
            _directory: directory,
        }
    }

    fn start(&self) -> EnforcementTask {
        self.start_with(None)
    }

    /// As the agent's start, with this setting of `rollback_after`; nobody else reaches the task.
    pub fn start_with(&self, rollback_after: Option<Duration>) -> EnforcementTask {
        self.started(rollback_after).task
    }

    /// As [`Host::start_with`], with all that a start brings.
    pub fn started(&self, rollback_after: Option<Duration>) -> Started {
        let clock = Arc::clone(&self.clock);
        let clock = Clock::new(move || Duration::from_millis(clock.load(Ordering::Relaxed)));
        let local = LocalTiers::default();
        let state = Arc::clone(&self.state);
        EnforcementTask::start(self.bpffs.enforcer(), state, local, clock, rollback_after).unwrap()
    }

    fn set_clock(&self, milliseconds: u64) {
        self.clock.store(milliseconds, Ordering::Relaxed);
    }
}

fn with_exception() -> EncodedPolicy {
    let mut policy: HostPolicy = closed_policy();
    let exception = Rule {
        tier: Tier::Exception,
        action: Action::Allow,
        expires: Some(Timestamp(END / 1000)),
        origin: Arc::new(Origin::unwritten("vendor-debug")),
        ..policy.rules[0].clone()
    };
    policy.rules.insert(0, exception);
    EncodedPolicy::encode(policy)
}

fn generation(task: &EnforcementTask) -> u32 {
    task.enforcer.live().unwrap().unwrap().generation
}

#[test]
fn an_exception_ends_to_the_second_and_no_clock_brings_it_back() {
    let host = Host::new();
    host.set_clock(END - 250);
    let mut task = host.start();
    let first = generation(&task);
    task.look_after(&Changed::anything());
    assert!(task.enforcer.lets_in());
    assert_eq!(task.until_next_end(), Some(Duration::from_millis(250)));
    host.set_clock(END - 1);
    task.look_after(&Changed::anything());
    assert!(task.enforcer.lets_in());
    assert_eq!(generation(&task), first);

    host.set_clock(END);
    task.look_after(&Changed::anything());
    assert!(!task.enforcer.lets_in());
    assert_eq!(generation(&task), first + 1, "one flip");
    assert_eq!(task.until_next_end(), None);

    host.set_clock(END - 60_000);
    task.look_after(&Changed::anything());
    task.install(with_exception(), Source::Controller).unwrap();
    assert!(!task.enforcer.lets_in());
    assert_eq!(generation(&task), first + 1);
}

#[test]
fn nobody_claims_an_address_of_this_host_whatever_interface_holds_it() {
    in_own_namespace(|| {
        let host = Host::bare();
        let mut task = host.start();
        assert!(task.enforcer.lets_in());
        ip("link set lo up");
        ip("addr add 10.0.0.2/32 dev lo");
        task.look_after(&Changed::anything());
        assert!(!task.enforcer.lets_in());
        assert!(task.facts.borrow().addresses.is_empty());
        drop(task);
        let mut task = host.start();
        assert!(!task.enforcer.lets_in(), "from the start");
        ip("addr del 10.0.0.2/32 dev lo");
        task.look_after(&Changed::anything());
        assert!(task.enforcer.lets_in());
    });
}

#[test]
fn a_clock_that_is_set_forward_is_noticed_at_the_next_look() {
    let host = Host::new();
    host.set_clock(END - 3_600_000);
    let mut task = host.start();
    assert!(task.enforcer.lets_in());
    host.set_clock(END + 3_600_000);
    task.look_after(&Changed::anything());
    assert!(!task.enforcer.lets_in());
}

#[test]
fn what_ended_while_the_agent_was_away_is_cut_at_its_start() {
    let host = Host::new();
    host.set_clock(END - 1);
    let mut task = host.start();
    assert!(task.enforcer.lets_in());
    let first = generation(&task);
    drop(task);

    // The kernel enforces a policy of this digest, and yet not what the policy says now.
    host.set_clock(END);
    for _ in 0..2 {
        let mut task = host.start();
        assert!(!task.enforcer.lets_in());
        assert_eq!(generation(&task), first + 1);
    }
}
