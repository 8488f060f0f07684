//! What covers what: provable from the words of the set alone, whoever exists.
//!
//! An answer of `true` holds for every inventory. An answer of `false` means only that it could
//! not be shown, or that there was no more time to show it.

use std::collections::BTreeSet;

use super::ranges::Ranges;
use crate::{
    host_policy::SubnetMatch,
    selector::{Requirement, Selector, Test},
    service::{PortSpan, ProtocolSlot},
    set::{Peer, Peers, PolicySet, Ports, SegmentId},
};

/// Steps that all comparisons of one set may take: rules, or items of their lists. A set that
/// would need more, of many thousands of policies, gets fewer warnings, and gets them soon.
pub(super) const BUDGET: usize = 30_000_000;

/// Compares parts of rules of one set.
pub(super) struct Cover<'a> {
    set: &'a PolicySet,
    budget: usize,
}

impl<'a> Cover<'a> {
    pub(super) fn new(set: &'a PolicySet) -> Self {
        Self {
            set,
            budget: BUDGET,
        }
    }

    /// Takes some steps, if as many are left.
    pub(super) fn spend(&mut self, steps: usize) -> bool {
        let left = self.budget.checked_sub(steps);
        self.budget = left.unwrap_or(0);
        left.is_some()
    }

    /// Whether there is time for no more comparisons.
    pub(super) fn is_spent(&self) -> bool {
        self.budget == 0
    }

    /// Whether every workload and address in the inner segments is in the outer ones, too.
    pub(super) fn segments(&mut self, outer: &[SegmentId], inner: &[SegmentId]) -> bool {
        self.peer_lists(&as_peers(outer), &as_peers(inner))
    }

    /// Whether every address that the inner peers name is named by the outer ones, too.
    pub(super) fn peers(&mut self, outer: &Peers, inner: &Peers) -> bool {
        match (outer, inner) {
            (Peers::Any, _) => self.spend(1),
            (Peers::Of(outer), Peers::Any) => {
                self.spend(1 + outer.len()) && self.ranges(outer).is_everything()
            }
            (Peers::Of(outer), Peers::Of(inner)) => self.peer_lists(outer, inner),
        }
    }

    fn peer_lists(&mut self, outer: &[Peer], inner: &[Peer]) -> bool {
        let set = self.set;
        if !self.spend((1 + outer.len()).saturating_mul(1 + inner.len())) {
            return false;
        }
        let selector = |peer: &Peer| match peer {
            Peer::Segment(id) => Some(&set.segment(*id).selector),
            Peer::Subnet(_) => None,
        };
        let is_implied = |inner: &Selector| {
            let mut outer = outer.iter().filter_map(selector);
            outer.any(|outer| implies(inner, outer))
        };
        let new = || inner.iter().filter(|peer| !outer.contains(peer));
        let are_implied = new().filter_map(selector).all(is_implied);
        let (outer_subnets, new_subnets) = (self.subnet_count(outer), self.subnet_count(new()));
        if are_implied && new_subnets == 0 {
            return true;
        }
        if outer_subnets == 0 || !self.spend(outer_subnets + new_subnets) {
            return false;
        }
        let ranges = self.ranges(outer);
        (are_implied || ranges.is_everything()) && ranges.covers(&self.ranges(new()))
    }

    fn subnet_count<'p>(&self, peers: impl IntoIterator<Item = &'p Peer>) -> usize {
        let count = |peer: &Peer| match peer {
            Peer::Segment(id) => self.set.segment(*id).subnets.len(),
            Peer::Subnet(subnet) => 1 + subnet.except.len(),
        };
        peers.into_iter().map(count).sum()
    }

    /// The addresses that peers name whoever holds them.
    pub(super) fn ranges<'p>(&self, peers: impl IntoIterator<Item = &'p Peer>) -> Ranges {
        peers
            .into_iter()
            .flat_map(|peer| match peer {
                Peer::Segment(id) => {
                    let subnets = &self.set.segment(*id).subnets;
                    subnets.iter().copied().map(SubnetMatch::from).collect()
                }
                Peer::Subnet(subnet) => vec![subnet.clone()],
            })
            .collect()
    }

    /// Whether no workload can be in segments of both lists.
    pub(super) fn are_disjoint(&mut self, one: &[SegmentId], other: &[SegmentId]) -> bool {
        let set = self.set;
        self.spend(one.len().saturating_mul(other.len()))
            && one.iter().all(|one| {
                let one = set.segment(*one);
                other.iter().all(|other| {
                    let other = set.segment(*other);
                    // A workload with addresses in a subnet may have any labels.
                    one.subnets.is_empty()
                        && other.subnets.is_empty()
                        && excludes(&one.selector, &other.selector)
                })
            })
    }
}

/// The segments as the other end of a flow.
pub(super) fn as_peers(segments: &[SegmentId]) -> Vec<Peer> {
    segments.iter().copied().map(Peer::Segment).collect()
}

/// Whether every flow to an inner port is one to an outer port, too.
pub(super) fn ports_cover(outer: &Ports, inner: &Ports) -> bool {
    let Ports::Of {
        spans: outer,
        named: outer_named,
    } = outer
    else {
        return true;
    };
    match inner {
        Ports::Any => ProtocolSlot::ALL
            .iter()
            .all(|slot| holds_slot(outer, *slot)),
        Ports::Of { spans, named } => {
            let covered = |inner: &PortSpan| {
                outer.iter().any(|outer| {
                    outer.slot == inner.slot
                        && outer.first <= inner.first
                        && inner.last <= outer.last
                })
            };
            spans.iter().all(covered)
                && named.iter().all(|port| {
                    outer_named.binary_search(port).is_ok() || holds_slot(outer, port.slot)
                })
        }
    }
}

/// Whether no flow is to a port of both.
pub(super) fn ports_are_disjoint(one: &Ports, other: &Ports) -> bool {
    let (
        Ports::Of { spans, named },
        Ports::Of {
            spans: others,
            named: others_named,
        },
    ) = (one, other)
    else {
        return false;
    };
    // A named port may have any number.
    let slots = |spans: &[PortSpan]| spans.iter().map(|span| span.slot).collect::<BTreeSet<_>>();
    let apart = |one: &PortSpan| {
        others
            .iter()
            .all(|other| one.slot != other.slot || one.last < other.first || other.last < one.first)
    };
    let (slots, others_slots) = (slots(spans), slots(others));
    spans.iter().all(apart)
        && named.iter().all(|port| {
            !others_slots.contains(&port.slot)
                && others_named.iter().all(|other| other.slot != port.slot)
        })
        && others_named.iter().all(|port| !slots.contains(&port.slot))
}

/// Whether some spans hold all keys of a protocol.
pub(super) fn holds_slot(spans: &[PortSpan], slot: ProtocolSlot) -> bool {
    spans
        .iter()
        .any(|span| (span.slot, span.first, span.last) == (slot, 0, slot.last_key()))
}

/// Whether a workload that the first selects is always one that the second selects.
fn implies(inner: &Selector, outer: &Selector) -> bool {
    let met = |wanted: &Requirement| {
        inner
            .requirements
            .iter()
            .any(|given| given.key == wanted.key && test_implies(&given.test, &wanted.test))
    };
    inner.requirements.is_empty()
        || (!outer.requirements.is_empty() && outer.requirements.iter().all(met))
}

fn test_implies(given: &Test, wanted: &Test) -> bool {
    match (given, wanted) {
        (Test::In(given), Test::In(wanted)) => given.is_subset(wanted),
        (Test::In(given), Test::NotIn(wanted)) => given.is_disjoint(wanted),
        (Test::NotIn(given), Test::NotIn(wanted)) => wanted.is_subset(given),
        (Test::In(_) | Test::Exists, Test::Exists) => true,
        (Test::DoesNotExist, Test::DoesNotExist | Test::NotIn(_)) => true,
        _ => false,
    }
}

/// Whether no workload can meet both.
fn excludes(one: &Selector, other: &Selector) -> bool {
    one.requirements.is_empty()
        || other.requirements.is_empty()
        || one.requirements.iter().any(|one| {
            other.requirements.iter().any(|other| {
                one.key == other.key
                    && (test_excludes(&one.test, &other.test)
                        || test_excludes(&other.test, &one.test))
            })
        })
}

fn test_excludes(one: &Test, other: &Test) -> bool {
    match (one, other) {
        (Test::In(one), Test::In(other)) => one.is_disjoint(other),
        (Test::In(one), Test::NotIn(other)) => one.is_subset(other),
        (Test::In(_) | Test::Exists, Test::DoesNotExist) => true,
        _ => false,
    }
}
