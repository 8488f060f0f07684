//! Two policy sets as one.

use crate::{
    inventory::is_reserved_label,
    set::{OrderedPolicy, Peer, Peers, PolicySet, Segment, SegmentId},
};

/// A set and what manifests add to it: segments, guardrails, policies and baselines. The names of
/// the segments of the two do not meet.
pub(super) fn merge(mut set: PolicySet, mut manifests: PolicySet) -> PolicySet {
    // The schema is for segments that authors write: a selector of Kubernetes asks for any label.
    if let Some(schema) = &mut set.schema {
        let selectors = manifests.segments.iter().map(|segment| &segment.selector);
        for requirement in selectors.flat_map(|selector| &selector.requirements) {
            if !is_reserved_label(&requirement.key) {
                schema.keys.entry(requirement.key.clone()).or_default();
            }
        }
    }
    let count = set.segments.len();
    let mut segments: Vec<(usize, Segment)> = std::mem::take(&mut set.segments)
        .into_iter()
        .chain(std::mem::take(&mut manifests.segments))
        .enumerate()
        .collect();
    segments.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let mut ids = vec![SegmentId(0); segments.len()];
    for (id, (before, _)) in (0..).map(SegmentId).zip(&segments) {
        ids[*before] = id;
    }
    let (of_set, of_manifests) = ids.split_at(count);
    renumber(&mut set, of_set);
    renumber(&mut manifests, of_manifests);
    set.segments = segments.into_iter().map(|(_, segment)| segment).collect();
    set.policies.append(&mut manifests.policies);
    set.policies.sort_by(|a, b| a.name.cmp(&b.name));
    for (own, more) in [
        (&mut set.guardrails, manifests.guardrails),
        (&mut set.baselines, manifests.baselines),
    ] {
        own.extend(more);
        own.sort_by_key(|policy| policy.priority);
    }
    set
}

/// Gives every segment that the set speaks of the id at its old one's index.
fn renumber(set: &mut PolicySet, ids: &[SegmentId]) {
    let ordered = |policies: &mut [OrderedPolicy]| {
        for policy in policies {
            renumber_list(&mut policy.applies_to, ids);
            for rule in policy.ingress.iter_mut().chain(&mut policy.egress) {
                renumber_peers(&mut rule.peers, ids);
            }
        }
    };
    ordered(&mut set.guardrails);
    ordered(&mut set.baselines);
    for policy in &mut set.policies {
        renumber_list(&mut policy.applies_to, ids);
        let sides = [&mut policy.ingress, &mut policy.egress];
        for rule in sides.into_iter().flatten().flat_map(|side| &mut side.rules) {
            renumber_peers(&mut rule.peers, ids);
        }
    }
    for exception in &mut set.exceptions {
        renumber_list(&mut exception.from, ids);
        renumber_list(&mut exception.to, ids);
    }
    for assertion in &mut set.assertions {
        renumber_list(&mut assertion.from, ids);
        renumber_list(&mut assertion.to, ids);
    }
}

fn renumber_list(segments: &mut [SegmentId], ids: &[SegmentId]) {
    for segment in segments.iter_mut() {
        *segment = ids[segment.0 as usize];
    }
    segments.sort_unstable();
}

fn renumber_peers(peers: &mut Peers, ids: &[SegmentId]) {
    let Peers::Of(peers) = peers else {
        return;
    };
    for peer in peers {
        if let Peer::Segment(segment) = peer {
            *segment = ids[segment.0 as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::{parse, parse_mixed, set::LabelSchema, source::SourceFile};

    fn file(content: &str) -> [SourceFile; 1] {
        [SourceFile {
            path: "mixed.yaml".to_owned(),
            content: content.to_owned(),
        }]
    }

    const BULKHEAD: &str = "
apiVersion: bulkhead/v1
kind: Segment
name: zebra
match: { app: web }
---
apiVersion: bulkhead/v1
kind: Segment
name: ape
subnets: [10.0.0.0/8]
---
apiVersion: bulkhead/v1
kind: Policy
name: web
appliesTo: [zebra, ape]
ingress: [{ from: [ape], allow: [tcp/80] }]
";
    const MANIFESTS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: shop }
spec:
  podSelector: { matchLabels: { app: web } }
  ingress: [{ from: [{ podSelector: { matchLabels: { tier: db } } }] }]
";

    #[test]
    fn every_name_means_what_it_meant_before() {
        let set = parse_mixed(&file(&format!("{BULKHEAD}---{MANIFESTS}")))
            .unwrap()
            .set;
        assert!(set.segments.is_sorted_by(|a, b| a.name < b.name));
        let names: Vec<(Vec<&str>, Vec<&str>)> = set
            .policies
            .iter()
            .map(|policy| {
                let name = |id: &SegmentId| set.segment(*id).name.as_str();
                let rules = &policy.ingress.as_ref().unwrap().rules;
                let Peers::Of(peers) = &rules[0].peers else {
                    panic!("the rules name peers");
                };
                let peers = peers.iter().map(|peer| match peer {
                    Peer::Segment(id) => name(id),
                    Peer::Subnet(_) => panic!("the peers are segments"),
                });
                (
                    policy.applies_to.iter().map(name).collect(),
                    peers.collect(),
                )
            })
            .collect();
        assert_eq!(
            names,
            [
                (vec!["shop/(app: web)"], vec!["shop/(tier: db)"]),
                (vec!["ape", "zebra"], vec!["ape"]),
            ]
        );
    }

    #[test]
    fn a_label_schema_does_not_change_what_a_selector_means() {
        let mut set = parse(&file(BULKHEAD)).unwrap();
        let keys = [("env".to_owned(), None)].into();
        set.schema = Some(LabelSchema { keys });
        let manifests = parse_mixed(&file(MANIFESTS)).unwrap().set;
        let merged = merge(set, manifests);
        let keys: Vec<String> = merged.schema.unwrap().keys.into_keys().collect();
        assert_eq!(keys, ["app", "env", "tier"]);
    }
}
