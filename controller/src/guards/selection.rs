//! Which hosts a policy set applies to at all.

use policy::{HostName, HostPolicy, Mode, Tier};

use crate::{compiled::Compiled, state::State};

/// How much of a policy set applies to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Nothing: the host is open.
    Nothing,
    /// Only what is observed: the host is open, and what would be denied is reported.
    Observed,
    /// Something that is enforced; also a quarantine.
    Enforced,
}

impl Selection {
    /// How much of its set a host's policy is. Exceptions select nobody.
    pub fn of(policy: &HostPolicy) -> Self {
        let selecting = |mode| {
            policy.rules.iter().any(|rule| {
                let selects = matches!(
                    rule.tier,
                    Tier::Quarantine | Tier::Guardrail | Tier::Policy | Tier::Baseline
                );
                selects && rule.mode == mode
            })
        };
        if selecting(Mode::Enforce) {
            Self::Enforced
        } else if selecting(Mode::Observe) {
            Self::Observed
        } else {
            Self::Nothing
        }
    }
}

/// The hosts that a compiled set leaves open, sorted, and how many others there are. A host whose
/// policy does not fit counts as selected: it does not become open.
pub fn selection<'a>(state: &'a State, compiled: &Compiled) -> (usize, Vec<&'a HostName>) {
    let mut open: Vec<&HostName> = state
        .hosts()
        .map(|host| &host.name)
        .filter(|name| {
            compiled.publication(name).is_some_and(|publication| {
                Selection::of(&publication.policy) != Selection::Enforced
            })
        })
        .collect();
    open.sort_unstable();
    (state.hosts().count() - open.len(), open)
}
