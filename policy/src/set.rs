//! A policy set: segments, services and policies with every name resolved.

use std::sync::Arc;

use ipnet::IpNet;

use crate::{
    host_policy::{Origin, SubnetMatch},
    inventory::Labels,
    service::PortSpan,
    words::{Direction, Mode},
};

/// Everything that one apply brings: parsed, checked and resolved. The default is the empty set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// Sorted by name; a [`SegmentId`] is an index.
    pub segments: Vec<Segment>,
    /// Sorted by name. Policies carry their ports; this is for showing.
    pub services: Vec<Service>,
    /// Sorted by name, which is their order of precedence.
    pub policies: Vec<Policy>,
}

/// Where a segment stands in [`PolicySet::segments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u32);

/// A named set of workloads: those with the labels, and those in the subnets; either matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub name: String,
    /// Matches a workload that has all of these; empty matches none.
    pub labels: Labels,
    /// Sorted, without duplicates.
    pub subnets: Vec<IpNet>,
}

/// Named protocols and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Sorted and merged; empty is every protocol and port.
    pub ports: Vec<PortSpan>,
}

/// Who may talk to the workloads of some segments, and to whom they may talk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Whom it selects: workloads in any of these; sorted, without duplicates.
    pub applies_to: Vec<SegmentId>,
    /// Absent: the policy does not select in this direction.
    pub ingress: Option<Side>,
    /// Absent: the policy does not select in this direction.
    pub egress: Option<Side>,
    /// Whether it acts or is only observed.
    pub mode: Mode,
}

/// One direction of a policy. Without rules it selects and allows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The line of the `ingress:` or `egress:` key: where the deny comes from.
    pub origin: Arc<Origin>,
    /// In the order of the file.
    pub rules: Vec<Allow>,
}

/// One thing that a policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// The other end.
    pub peers: Peers,
    /// Sorted and merged; empty is every protocol and port.
    pub ports: Vec<PortSpan>,
    /// Whether the flows that it allows are reported too.
    pub log: bool,
    /// The line of the rule's item in the list.
    pub origin: Arc<Origin>,
}

/// The other end of a flow, as the author names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Every address.
    Any,
    /// What any of these names.
    Of(Vec<Peer>),
}

/// One item of `from` or `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A segment.
    Segment(SegmentId),
    /// A subnet with exceptions.
    Subnet(SubnetMatch),
}

impl PolicySet {
    /// The segment of an id of this set.
    #[must_use]
    pub fn segment(&self, id: SegmentId) -> &Segment {
        &self.segments[id.0 as usize]
    }
}

impl Segment {
    /// Whether a workload with these labels is in the segment by its labels.
    #[must_use]
    pub fn matches_labels(&self, labels: &Labels) -> bool {
        !self.labels.is_empty()
            && self
                .labels
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl Policy {
    /// What the policy says about a direction.
    #[must_use]
    pub fn side(&self, direction: Direction) -> Option<&Side> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}
