//! Segments that nothing names, and segments in which nobody is.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Kind, Warning};
use crate::{
    inventory::{Inventory, Labels},
    set::{Peer, Peers, PolicySet, Segment, SegmentId},
    words::Direction,
};

/// Who is in the segments of a set. A host in quarantine is in those of its labels: it will be back.
pub(super) struct Members {
    labelled: Vec<bool>,
    addressed: Vec<bool>,
}

impl Members {
    pub(super) fn new(set: &PolicySet, inventory: &Inventory) -> Self {
        let hosts = &inventory.hosts;
        let labels: BTreeSet<Labels> = hosts
            .iter()
            .map(|host| set.identity_labels(&host.labels))
            .collect();
        let addresses: BTreeSet<IpAddr> = hosts
            .iter()
            .flat_map(|host| &host.addresses)
            .copied()
            .collect();
        let is_labelled =
            |segment: &Segment| labels.iter().any(|labels| segment.selector.matches(labels));
        let is_addressed = |segment: &Segment| {
            segment.subnets.iter().any(|net| {
                let mut inside = addresses.range(net.network()..=net.broadcast());
                inside.next().is_some()
            })
        };
        Self {
            labelled: set.segments.iter().map(is_labelled).collect(),
            addressed: set.segments.iter().map(is_addressed).collect(),
        }
    }

    /// Whether some host has the labels.
    pub(super) fn has_labelled(&self, id: SegmentId) -> bool {
        self.labelled[id.0 as usize]
    }

    /// Whether some host is in the segment, by labels or by an address.
    pub(super) fn has_hosts(&self, id: SegmentId) -> bool {
        self.has_labelled(id) || self.addressed[id.0 as usize]
    }
}

/// Segments that name no subnets, and labels that nobody has.
pub(super) fn empty(set: &PolicySet, members: &Members) -> Vec<Warning> {
    let ids = (0..).map(SegmentId);
    ids.zip(&set.segments)
        .filter(|(id, segment)| segment.subnets.is_empty() && !members.has_labelled(*id))
        .map(|(_, segment)| Warning {
            origin: segment.origin.clone(),
            kind: Kind::EmptySegment,
            message: format!(
                "segment `{}` selects nobody: no host of the inventory has {}",
                segment.name, segment.selector
            ),
            help: "check the labels for spelling, here and in the inventory".to_owned(),
        })
        .collect()
}

/// Segments that no rule and no assertion names.
pub(super) fn unused(set: &PolicySet) -> Vec<Warning> {
    let mut used: BTreeSet<SegmentId> = BTreeSet::new();
    let mut name_peers = |peers: &Peers| {
        let Peers::Of(peers) = peers else { return };
        used.extend(peers.iter().filter_map(|peer| match peer {
            Peer::Segment(id) => Some(*id),
            Peer::Subnet(_) => None,
        }));
    };
    for direction in Direction::ALL {
        for policy in set.guardrails.iter().chain(&set.baselines) {
            for rule in policy.rules(direction) {
                name_peers(&rule.peers);
            }
        }
        for side in set.policies.iter().filter_map(|it| it.side(direction)) {
            for rule in &side.rules {
                name_peers(&rule.peers);
            }
        }
    }
    let ordered = set.guardrails.iter().chain(&set.baselines);
    used.extend(ordered.flat_map(|policy| &policy.applies_to));
    used.extend(set.policies.iter().flat_map(|policy| &policy.applies_to));
    used.extend(
        set.exceptions
            .iter()
            .flat_map(|it| it.from.iter().chain(&it.to)),
    );
    used.extend(
        set.assertions
            .iter()
            .flat_map(|it| it.from.iter().chain(&it.to)),
    );
    if used.is_empty() {
        // A set without any rule says so once, and not for each segment.
        return Vec::new();
    }
    (0..)
        .map(SegmentId)
        .zip(&set.segments)
        .filter(|(id, _)| !used.contains(id))
        .map(|(_, segment)| Warning {
            origin: segment.origin.clone(),
            kind: Kind::UnusedSegment,
            message: format!("no rule names segment `{}`", segment.name),
            help: "remove it, or check the names in the rules".to_owned(),
        })
        .collect()
}
