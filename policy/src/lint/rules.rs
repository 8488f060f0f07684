//! The rules of a set in one form, whatever kind of document wrote them.

use std::sync::Arc;

use super::cover::as_peers;
use crate::{
    host_policy::Origin,
    set::{OrderedPolicy, Peers, PolicySet, Ports, SegmentId},
    words::{Action, Direction, Mode, Tier},
};

/// One direction of one policy, guardrail or baseline.
pub(super) struct Written<'a> {
    pub name: &'a str,
    pub tier: Tier,
    pub direction: Direction,
    pub mode: Mode,
    pub applies_to: &'a [SegmentId],
    /// The same, as peers.
    pub subjects: Peers,
    /// Where the direction itself was written; none: only its rules know their places.
    pub origin: Option<&'a Arc<Origin>>,
    /// In order of precedence.
    pub rules: Vec<WrittenRule<'a>>,
}

pub(super) struct WrittenRule<'a> {
    /// Where it stands among all rules of the set.
    pub number: usize,
    pub action: Action,
    pub peers: &'a Peers,
    pub ports: &'a Ports,
    pub log: bool,
    pub origin: &'a Arc<Origin>,
}

/// In order of precedence within each direction.
pub(super) fn written(set: &PolicySet) -> Vec<Written<'_>> {
    let mut all = Vec::new();
    for direction in Direction::ALL {
        ordered(&set.guardrails, Tier::Guardrail, direction, &mut all);
        for policy in &set.policies {
            let Some(side) = policy.side(direction) else {
                continue;
            };
            let rules = side.rules.iter().map(|rule| WrittenRule {
                number: 0,
                action: Action::Allow,
                peers: &rule.peers,
                ports: &rule.ports,
                log: rule.log,
                origin: &rule.origin,
            });
            all.push(Written {
                name: &policy.name,
                tier: Tier::Policy,
                direction,
                mode: policy.mode,
                applies_to: &policy.applies_to,
                subjects: Peers::Of(as_peers(&policy.applies_to)),
                origin: Some(&side.origin),
                rules: rules.collect(),
            });
        }
        ordered(&set.baselines, Tier::Baseline, direction, &mut all);
    }
    let rules = all.iter_mut().flat_map(|policy| &mut policy.rules);
    for (number, rule) in rules.enumerate() {
        rule.number = number;
    }
    all
}

fn ordered<'a>(
    policies: &'a [OrderedPolicy],
    tier: Tier,
    direction: Direction,
    all: &mut Vec<Written<'a>>,
) {
    for policy in policies {
        let rules = policy.rules(direction).iter().map(|rule| WrittenRule {
            number: 0,
            action: rule.action,
            peers: &rule.peers,
            ports: &rule.ports,
            log: rule.log,
            origin: &rule.origin,
        });
        all.push(Written {
            name: &policy.name,
            tier,
            direction,
            mode: policy.mode,
            applies_to: &policy.applies_to,
            subjects: Peers::Of(as_peers(&policy.applies_to)),
            origin: None,
            rules: rules.collect(),
        });
    }
}
