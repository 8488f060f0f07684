//! What a start enforces: the policy from before, or one of the agent's own.

use std::sync::Arc;

use policy::{
    Action, Direction, HostPolicy, Identity, Mode, Origin, PeerMatch, Revision, Rule, Tier,
};
use proto::Sha256Digest;
use tracing::{error, info, warn};

use super::{Applied, EnforcementTask, Source, amended, log_disk_trouble};
use crate::{
    enforcer::EnforceError,
    error::with_causes,
    plan::NO_DIGEST,
    state::{
        policy_store::{EncodedPolicy, PolicyStore, Recovered},
        rolled_back::RolledBack,
    },
};

/// The digest of tables that are of no policy.
const BETWEEN_POLICIES: Sha256Digest = NO_DIGEST;

/// What a host enforces that has never had a policy: everything is allowed, and says so.
#[must_use]
pub fn bootstrap_policy() -> HostPolicy {
    own_policy(Action::Allow, "default")
}

/// What a host enforces whose policy is lost: it may have been in quarantine, so nothing is allowed
/// but what the host adds on its own account, the way to the controllers and the failsafe.
#[must_use]
pub fn closed_policy() -> HostPolicy {
    own_policy(Action::Deny, "policy-lost")
}

/// Those that are never on disk.
#[must_use]
pub fn own_policies() -> [EncodedPolicy; 2] {
    [bootstrap_policy(), closed_policy()].map(EncodedPolicy::encode)
}

fn own_policy(action: Action, rule: &str) -> HostPolicy {
    let origin = Arc::new(Origin::unwritten(rule));
    let rules = Direction::ALL.map(|direction| Rule {
        direction,
        tier: Tier::Default,
        action,
        mode: Mode::Enforce,
        peers: PeerMatch::Any,
        ports: Vec::new(),
        log: false,
        expires: None,
        origin: Arc::clone(&origin),
    });
    HostPolicy {
        revision: Revision::default(),
        identity: Identity::UNMANAGED,
        rules: rules.into(),
        addresses: Default::default(),
    }
}

/// What a start does.
pub(super) struct Beginning {
    /// The policies to try, the first that the kernel takes being enforced; none: what the kernel
    /// enforces stays.
    pub policies: Vec<(EncodedPolicy, Source)>,
    /// What a policy on trial would go back to.
    pub before: Option<(EncodedPolicy, Source)>,
}

impl From<Vec<(EncodedPolicy, Source)>> for Beginning {
    fn from(policies: Vec<(EncodedPolicy, Source)>) -> Self {
        let before = None;
        Self { policies, before }
    }
}

/// Chooses what to enforce. `live` names what the kernel enforces; `rolled_back` is what the host went
/// back from.
pub(super) fn choose(
    store: PolicyStore<'_>,
    live: Option<Sha256Digest>,
    rolled_back: Option<&RolledBack>,
) -> Beginning {
    let bootstrap = EncodedPolicy::encode(bootstrap_policy());
    let closed = EncodedPolicy::encode(closed_policy());
    let was_closed = live == Some(closed.digest());
    // A policy of the agent's own says nothing of what the host was given.
    let given =
        live.filter(|live| ![bootstrap.digest(), closed.digest(), BETWEEN_POLICIES].contains(live));
    // An agent that died while it changed one address leaves tables that the last good policy takes the
    // place of, and no other of the agent's own.
    let stays = given.is_some() || live == Some(BETWEEN_POLICIES);
    match store.recover(given) {
        Ok(Recovered::Trial(policy, good)) => {
            let before = match good {
                Some(good) => (good, Source::Disk),
                None => (bootstrap, Source::Own),
            };
            let is_barred = rolled_back.is_some_and(|barred| barred.digest == policy.digest());
            if is_barred {
                // What it has in quarantine stays there.
                let (good, source) = &before;
                let before = amended(good, *source, policy.policy()).unwrap_or(before);
                // The agent was ended on its way back.
                warn!(
                    "the host goes on to the policy before the one that it could not reach its controller with"
                );
                return vec![before, (closed, Source::Own)].into();
            }
            let policies = if stays {
                vec![(policy, Source::Trial)]
            } else {
                vec![
                    (policy, Source::Trial),
                    before.clone(),
                    (closed, Source::Own),
                ]
            };
            Beginning {
                policies,
                before: Some(before),
            }
        }
        // The kernel enforces it: there is nothing to fall back to.
        Ok(Recovered::Good(policy)) if stays => vec![(policy, Source::Disk)].into(),
        Ok(Recovered::Good(policy)) => vec![(policy, Source::Disk), (closed, Source::Own)].into(),
        Ok(Recovered::Nothing) if stays => {
            warn!(
                "what the kernel enforces stays; its policy is not on disk, so the controller has to send it"
            );
            Vec::new().into()
        }
        Ok(Recovered::Nothing) if was_closed => vec![(closed, Source::Own)].into(),
        Ok(Recovered::Nothing) => {
            info!("there is no policy yet: everything is allowed until the controller sends one");
            vec![(bootstrap, Source::Own)].into()
        }
        Ok(Recovered::Candidate(policy, damage)) => {
            // As if it came now: it is not the good one before the kernel enforces it.
            let candidate = (policy, Source::Controller);
            match damage {
                _ if stays => vec![candidate],
                None if was_closed => vec![candidate, (closed, Source::Own)],
                None => vec![candidate, (bootstrap, Source::Own)],
                Some(damage) => {
                    error!(
                        error = %with_causes(&damage),
                        "the last good policy cannot be used; the one that came after it is tried"
                    );
                    vec![candidate, (closed, Source::Own)]
                }
            }
            .into()
        }
        Err(damage) if stays => {
            error!(
                error = %with_causes(&damage),
                "the last good policy cannot be used; what the kernel enforces stays until the controller sends the policy"
            );
            Vec::new().into()
        }
        Err(damage) => {
            error!(
                error = %with_causes(&damage),
                "the policy of this host is lost: all but the way to the controllers and the failsafe is denied until the controller sends the policy"
            );
            vec![(closed, Source::Own)].into()
        }
    }
}

impl EnforcementTask {
    /// Goes on with the policy that the kernel enforces, or enforced before the reboot.
    pub(super) fn take_up(&mut self, live: Option<Sha256Digest>) -> Result<(), EnforceError> {
        let state = Arc::clone(&self.state);
        let rolled_back = RolledBack::load(&state).unwrap_or_else(|error| {
            error!(error = %with_causes(&error), "whether a policy was rolled back is not known");
            None
        });
        self.note_rolled_back(rolled_back.clone());
        let Beginning { policies, before } =
            choose(PolicyStore::new(&state), live, rolled_back.as_ref());
        // Another version's tables are better than any fallback; only its own policy takes their place.
        let policies = if self.enforcer.has_predecessor() {
            beside_predecessor(policies)
        } else {
            policies
        };
        let mut choice = policies.into_iter().peekable();
        while let Some((policy, source)) = choice.next() {
            let digest = policy.digest();
            match self.install(policy, source) {
                Ok(Applied {
                    revision,
                    generation,
                    ..
                }) => {
                    info!(%revision, generation, "the host enforces");
                    if source == Source::Trial {
                        self.go_on_with_trial(before, digest);
                    } else if rolled_back.is_some() {
                        log_disk_trouble(PolicyStore::new(&state).end_trial());
                    }
                    return Ok(());
                }
                Err(error) if choice.peek().is_some() => {
                    error!(error = %with_causes(&error), "the policy on disk is refused; the host falls back to another until the controller sends one");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Of the policies to try, the one that an agent of another version enforces; none where that is not on
/// disk. The predecessor's layout is not ours, so the disk alone can tell.
pub(super) fn beside_predecessor(
    policies: Vec<(EncodedPolicy, Source)>,
) -> Vec<(EncodedPolicy, Source)> {
    let first = policies.into_iter().next();
    let known = first
        .filter(|(_, source)| matches!(source, Source::Disk | Source::Trial | Source::Amended));
    if known.is_none() {
        warn!(
            "what an agent of another version enforces stays; its policy is not on disk, so the controller has to send it"
        );
    }
    known.into_iter().collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::{local_tiers::LocalTiers, state::StateDir};

    /// A host's disk with a good policy of revision 1 and, newer, a candidate of revision 2.
    struct Disk {
        _directory: tempfile::TempDir,
        state: StateDir,
    }

    impl Disk {
        fn empty() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let state = StateDir::open(directory.path()).unwrap();
            Self {
                _directory: directory,
                state,
            }
        }

        fn with_good() -> Self {
            let disk = Self::empty();
            disk.store().stage(&given(1)).unwrap();
            disk.store().promote().unwrap();
            disk
        }

        fn damaged() -> Self {
            let disk = Self::with_good();
            disk.state.replace("policy.good", b"junk").unwrap();
            disk
        }

        fn store(&self) -> PolicyStore<'_> {
            PolicyStore::new(&self.state)
        }

        fn choice(&self, live: Option<HostPolicy>) -> Vec<HostPolicy> {
            let live = live.map(|live| EncodedPolicy::encode(live).digest());
            let choice = choose(self.store(), live, None);
            choice
                .policies
                .into_iter()
                .map(|(policy, _)| policy.policy().clone())
                .collect()
        }
    }

    fn given(revision: u64) -> EncodedPolicy {
        EncodedPolicy::encode(HostPolicy {
            revision: Revision(revision),
            ..bootstrap_policy()
        })
    }

    #[test]
    fn everything_is_allowed_only_where_there_was_never_a_policy() {
        assert_eq!(Disk::empty().choice(None), [bootstrap_policy()]);
        assert_eq!(
            Disk::empty().choice(Some(bootstrap_policy())),
            [bootstrap_policy()]
        );
        for disk in [Disk::with_good(), Disk::damaged()] {
            for live in [None, Some(bootstrap_policy()), Some(closed_policy())] {
                assert!(!disk.choice(live).contains(&bootstrap_policy()));
            }
        }
    }

    #[test]
    fn a_damaged_policy_leaves_the_host_closed_and_the_controller_is_told_of_none() {
        for live in [None, Some(bootstrap_policy()), Some(closed_policy())] {
            let live = live.map(|live| EncodedPolicy::encode(live).digest());
            let disk = Disk::damaged();
            let choice = choose(disk.store(), live, None).policies;
            let [(policy, Source::Own)] = &choice[..] else {
                panic!("{} policies in place of the closed one", choice.len())
            };
            assert_eq!(*policy.policy(), closed_policy());
        }
        // Also when somebody removes the damaged file, as long as the kernel knows better.
        assert_eq!(
            Disk::empty().choice(Some(closed_policy())),
            [closed_policy()]
        );
    }

    #[test]
    fn a_policy_that_cannot_be_read_is_not_one_that_was_never_there() {
        let disk = Disk::empty();
        std::fs::create_dir(disk.state.file("policy.good")).unwrap();
        assert_eq!(disk.choice(None), [closed_policy()]);
    }

    #[test]
    fn the_candidate_stands_in_for_a_damaged_policy() {
        let disk = Disk::damaged();
        disk.store().stage(&given(2)).unwrap();
        assert_eq!(
            disk.choice(None),
            [given(2).policy().clone(), closed_policy()]
        );
    }

    #[test]
    fn what_the_kernel_enforces_stays_when_the_disk_is_damaged() {
        let live = given(1).policy().clone();
        assert_eq!(Disk::damaged().choice(Some(live)), []);
    }

    #[test]
    fn a_closed_host_still_hears_its_controllers_and_its_operators() {
        let policy = closed_policy();
        policy.check().unwrap();
        let local = LocalTiers {
            controllers: vec!["10.0.0.1:7443".parse().unwrap()],
            failsafe_subnets: vec!["10.9.0.0/24".parse().unwrap()],
            failsafe_tcp_ports: vec![22],
            ..LocalTiers::default()
        };
        let merged = local.merge(&policy);
        let (own, policy) = merged
            .rules
            .split_at(merged.rules.len() - policy.rules.len());
        for rule in own {
            let denies = rule.tier == Tier::AntiSpoofing;
            assert_eq!(rule.action == Action::Deny, denies, "{:?}", rule.origin);
        }
        for tier in [Tier::Lifeline, Tier::Failsafe] {
            assert!(own.iter().any(|rule| rule.tier == tier), "{tier}");
        }
        assert!(policy.iter().all(|rule| rule.action == Action::Deny));
    }
}
