//! Rules, and parts of rules, that no flow can match.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Kind, Warning,
    ranges::Ranges,
    rules::{Written, WrittenRule},
    segments::Members,
};
use crate::{
    host_policy::SubnetMatch,
    inventory::{Inventory, PORT_SCOPE},
    set::{NamedPort, Peer, Peers, PolicySet, Ports, SegmentId},
    words::Tier,
};

/// Policies that no host of the inventory is subject to, each once: all that one document wrote
/// has one name.
pub(super) fn applies_to_nobody(
    set: &PolicySet,
    written: &[Written<'_>],
    members: &Members,
) -> Vec<Warning> {
    let mut documents: BTreeMap<(Tier, &str), Vec<&Written<'_>>> = BTreeMap::new();
    for policy in written {
        let document = documents.entry((policy.tier, policy.name)).or_default();
        document.push(policy);
    }
    let warning = |(tier, name), document: Vec<&Written<'_>>| {
        let segments: BTreeSet<SegmentId> = document
            .iter()
            .flat_map(|policy| policy.applies_to)
            .copied()
            .collect();
        let origins = document.iter().filter_map(|policy| {
            let first = policy.rules.first().map(|rule| rule.origin);
            policy.origin.or(first)
        });
        let origin = origins.min_by_key(|origin| (&origin.file, origin.line))?;
        if segments.iter().any(|id| members.has_hosts(*id)) {
            return None;
        }
        let segments: Vec<SegmentId> = segments.into_iter().collect();
        Some(Warning {
            origin: origin.clone(),
            kind: Kind::NeverMatches,
            message: format!(
                "{tier} `{name}` applies to nobody: no host of the inventory is in {}",
                names(set, &segments)
            ),
            help: "check `appliesTo`, and the labels and addresses in the inventory".to_owned(),
        })
    };
    documents
        .into_iter()
        .filter_map(|(key, document)| warning(key, document))
        .collect()
}

/// Rules that name only peers or ports that cannot be, by number.
pub(super) fn never(
    set: &PolicySet,
    written: &[Written<'_>],
    inventory: Option<&Inventory>,
) -> Vec<(usize, Warning)> {
    let facts = Facts::new(set, inventory);
    let mut found = Vec::new();
    for rule in written.iter().flat_map(|policy| &policy.rules) {
        let dead = match rule.peers {
            Peers::Of(peers) if peers.iter().all(|peer| facts.is_dead(peer)) => {
                Some(facts.why_nobody(set, peers))
            }
            _ => None,
        };
        let dead = dead.or_else(|| match rule.ports {
            Ports::Of { spans, named }
                if spans.is_empty() && named.iter().all(|port| facts.is_unnamed(port)) =>
            {
                Some("no workload of the inventory has a port of these names".to_owned())
            }
            _ => None,
        });
        if let Some(why) = dead {
            found.push((rule.number, never_matches(rule, &why)));
        }
    }
    found
}

fn never_matches(rule: &WrittenRule<'_>, why: &str) -> Warning {
    Warning {
        origin: rule.origin.clone(),
        kind: Kind::NeverMatches,
        message: format!("`{}` can never match: {why}", rule.origin.rule),
        help: "correct what it names, or remove it".to_owned(),
    }
}

/// Subnets and named ports that cannot be, of rules that can match otherwise.
pub(super) fn dead_parts(
    set: &PolicySet,
    written: &[Written<'_>],
    inventory: Option<&Inventory>,
) -> Vec<Warning> {
    let facts = Facts::new(set, inventory);
    let mut found = Vec::new();
    for rule in written.iter().flat_map(|policy| &policy.rules) {
        let mut report = |message| {
            found.push(Warning {
                origin: rule.origin.clone(),
                kind: Kind::DeadPart,
                message,
                help: "correct it, or remove it from the rule".to_owned(),
            });
        };
        if let Peers::Of(peers) = rule.peers
            && !peers.iter().all(|peer| facts.is_dead(peer))
        {
            for peer in peers {
                if let Peer::Subnet(subnet) = peer
                    && is_wholly_excepted(subnet)
                {
                    let subnet = subnet.subnet;
                    let rule = &rule.origin.rule;
                    report(format!(
                        "all of {subnet} in `{rule}` is excepted: it names nobody"
                    ));
                }
            }
        }
        if let Ports::Of { spans, named } = rule.ports
            && !(spans.is_empty() && named.iter().all(|port| facts.is_unnamed(port)))
        {
            for NamedPort { slot, name } in named.iter().filter(|port| facts.is_unnamed(port)) {
                report(format!(
                    "no workload of the inventory has the port {slot}/{name} that `{}` names",
                    rule.origin.rule
                ));
            }
        }
    }
    found
}

/// What is known of the workloads; without an inventory nothing.
struct Facts {
    members: Option<Members>,
    subnets: Vec<bool>,
    /// The keys of all labels that give a named port its number.
    named: Option<BTreeSet<String>>,
}

impl Facts {
    fn new(set: &PolicySet, inventory: Option<&Inventory>) -> Self {
        let ports = |inventory: &Inventory| {
            let keys = inventory.hosts.iter().flat_map(|host| host.labels.keys());
            keys.filter(|key| key.starts_with(PORT_SCOPE))
                .cloned()
                .collect()
        };
        Self {
            members: inventory.map(|inventory| Members::new(set, inventory)),
            subnets: set
                .segments
                .iter()
                .map(|segment| !segment.subnets.is_empty())
                .collect(),
            named: inventory.map(ports),
        }
    }

    /// Whether it names no address, now and with these workloads.
    fn is_dead(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Subnet(subnet) => is_wholly_excepted(subnet),
            Peer::Segment(id) => {
                let members = self.members.as_ref();
                !self.subnets[id.0 as usize]
                    && members.is_some_and(|members| !members.has_labelled(*id))
            }
        }
    }

    fn is_unnamed(&self, NamedPort { slot, name }: &NamedPort) -> bool {
        let named = self.named.as_ref();
        named.is_some_and(|named| !named.contains(&format!("{PORT_SCOPE}{slot}/{name}")))
    }

    fn why_nobody(&self, set: &PolicySet, peers: &[Peer]) -> String {
        let segments: Vec<SegmentId> = peers
            .iter()
            .filter_map(|peer| match peer {
                Peer::Segment(id) => Some(*id),
                Peer::Subnet(_) => None,
            })
            .collect();
        if segments.len() < peers.len() {
            "all that it names is excepted or has no members".to_owned()
        } else {
            format!("no host of the inventory is in {}", names(set, &segments))
        }
    }
}

fn is_wholly_excepted(subnet: &SubnetMatch) -> bool {
    !subnet.except.is_empty() && Ranges::from_iter([subnet.clone()]).is_empty()
}

/// `segment a`, `segment a or b`.
fn names(set: &PolicySet, segments: &[SegmentId]) -> String {
    let names: Vec<&str> = segments
        .iter()
        .map(|id| set.segment(*id).name.as_str())
        .collect();
    format!("segment {}", names.join(" or "))
}
