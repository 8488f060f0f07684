//! A policy set: everything that one apply brings, with every name resolved.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    host_policy::{Origin, SubnetMatch},
    inventory::Labels,
    selector::Selector,
    service::{PortSpan, ProtocolSlot},
    words::{Action, Direction, Mode, Timestamp},
};

/// Everything that one apply brings: parsed, checked and resolved. The default is the empty set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// Sorted by name; a [`SegmentId`] is an index.
    pub segments: Vec<Segment>,
    /// Sorted by name. Rules carry their ports; this is for showing.
    pub services: Vec<Service>,
    /// In order of precedence: by priority, and within one document as it was written.
    pub guardrails: Vec<OrderedPolicy>,
    /// Sorted by name.
    pub exceptions: Vec<Exception>,
    /// Sorted by name, which is their order of precedence.
    pub policies: Vec<Policy>,
    /// As the guardrails.
    pub baselines: Vec<OrderedPolicy>,
    /// Sorted by name.
    pub assertions: Vec<Assertion>,
    /// Which labels make identity; none: all.
    pub schema: Option<LabelSchema>,
}

/// Where a segment stands in [`PolicySet::segments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u32);

/// A named set of workloads: those with the labels, and those in the subnets; either matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub name: String,
    /// Workloads by their labels.
    pub selector: Selector,
    /// Sorted, without duplicates.
    pub subnets: Vec<IpNet>,
    /// Where it was written.
    pub origin: Arc<Origin>,
}

/// Named protocols and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What it stands for.
    pub ports: Ports,
}

/// What a rule says about protocols and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every protocol and port.
    Any,
    /// Any of these.
    Of {
        /// Sorted and merged.
        spans: Vec<PortSpan>,
        /// Sorted, without duplicates.
        named: Vec<NamedPort>,
    },
}

/// A port that each destination gives a number of its own, such as `tcp/http`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    /// TCP, UDP or SCTP.
    pub slot: ProtocolSlot,
    /// Its name.
    pub name: String,
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
    /// Protocols and ports.
    pub ports: Ports,
    /// Whether the flows that it allows are reported too.
    pub log: bool,
    /// The line of the rule's item in the list.
    pub origin: Arc<Origin>,
}

/// A guardrail or a baseline: rules that are asked in order, the first that matches acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedPolicy {
    /// Its name. What one `kind: Isolation` stands for are several, all of its name.
    pub name: String,
    /// Lower comes first. Equal only within what one document stands for.
    pub priority: u32,
    /// Whom it speaks of: workloads in any of these; sorted, without duplicates.
    pub applies_to: Vec<SegmentId>,
    /// In order of precedence.
    pub ingress: Vec<OrderedRule>,
    /// In order of precedence.
    pub egress: Vec<OrderedRule>,
    /// Whether it acts or is only observed.
    pub mode: Mode,
}

/// One rule of a guardrail or baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedRule {
    /// What it does.
    pub action: Action,
    /// The other end.
    pub peers: Peers,
    /// Protocols and ports.
    pub ports: Ports,
    /// Whether the flows that it allows are reported too.
    pub log: bool,
    /// The line of the rule's item in the list.
    pub origin: Arc<Origin>,
}

/// What is allowed until a moment, on both sides: a workload in `from` may open flows to `to`, and
/// one in `to` accepts them from `from`. It selects nobody: where nothing is denied it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its name.
    pub name: String,
    /// Who answers for it.
    pub owner: String,
    /// Why it is needed.
    pub reason: String,
    /// From this moment on it allows nothing.
    pub expires: Timestamp,
    /// Who opens; sorted, without duplicates.
    pub from: Vec<SegmentId>,
    /// Who accepts; sorted, without duplicates.
    pub to: Vec<SegmentId>,
    /// Protocols and ports.
    pub ports: Ports,
    /// The line of its name.
    pub origin: Arc<Origin>,
}

/// What must hold for every possible flow between two sets of workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// Its name.
    pub name: String,
    /// What must hold.
    pub claim: Claim,
    /// Who opens; sorted, without duplicates.
    pub from: Vec<SegmentId>,
    /// Who accepts; sorted, without duplicates.
    pub to: Vec<SegmentId>,
    /// Protocols and ports.
    pub ports: Ports,
    /// The line of `never` or `always`.
    pub origin: Arc<Origin>,
}

/// What an assertion claims of its flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    /// None of them passes.
    Never,
    /// All of them pass.
    Always,
}

/// Which label keys make identity, and which values they may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSchema {
    /// The allowed values of each key; none: any value.
    pub keys: BTreeMap<String, Option<BTreeSet<String>>>,
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

    /// Whether any segment or rule names subnets.
    #[must_use]
    pub fn has_subnets(&self) -> bool {
        let names = |peers: &Peers| matches!(peers, Peers::Of(peers) if peers.iter().any(|peer| matches!(peer, Peer::Subnet(_))));
        let ordered = |policy: &OrderedPolicy| {
            let mut rules = policy.ingress.iter().chain(&policy.egress);
            rules.any(|rule| names(&rule.peers))
        };
        let allows = |policy: &Policy| {
            let sides = [&policy.ingress, &policy.egress].into_iter().flatten();
            sides
                .flat_map(|side| &side.rules)
                .any(|allow| names(&allow.peers))
        };
        self.segments
            .iter()
            .any(|segment| !segment.subnets.is_empty())
            || self.guardrails.iter().chain(&self.baselines).any(ordered)
            || self.policies.iter().any(allows)
    }

    /// The set without the exceptions that have expired at a moment.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        self.exceptions.retain(|exception| now < exception.expires);
        self
    }

    /// Of some labels, those that make identity: the keys of the schema, and what is not an
    /// author's to choose (see [`crate::inventory::is_reserved_label`]).
    #[must_use]
    pub fn identity_labels(&self, labels: &Labels) -> Labels {
        let makes_identity = |key: &str| {
            self.schema
                .as_ref()
                .is_none_or(|schema| schema.keys.contains_key(key))
                || crate::inventory::is_reserved_label(key)
        };
        labels
            .iter()
            .filter(|(key, _)| makes_identity(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
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

impl OrderedPolicy {
    /// What it says about a direction, in order of precedence.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[OrderedRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl Ports {
    /// These spans and no named ports.
    #[must_use]
    pub const fn spans(spans: Vec<PortSpan>) -> Self {
        Self::Of {
            spans,
            named: Vec::new(),
        }
    }
}
