//! A policy set made fit for files: valid names, priorities without ties, nothing that can match
//! nothing. The meaning stays.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    selector::{Requirement, Selector, Test},
    set::{OrderedPolicy, Peer, Peers, PolicySet, Ports, SegmentId, Side},
};

/// The longest name.
const MAX_NAME: usize = 63;
/// The last priority.
const MAX_PRIORITY: u32 = 65_535;
/// Words that no segment may be named.
const RESERVED: [&str; 5] = ["any", "world", "unmanaged", "controller", "quarantined"];

/// What became of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tidied {
    /// The set; where everything was in order, as it was.
    pub set: PolicySet,
    /// What was left out because it can match nothing, a sentence each.
    pub left_out: Vec<String>,
}

/// Tidies a set. Its segments may come in any order, with any names; an index into them is an id.
#[must_use]
pub fn tidy(mut set: PolicySet) -> Tidied {
    let mut left_out = Vec::new();
    let renumbered = segments(&mut set, &mut left_out);
    let ids = |ids: &mut Vec<SegmentId>| {
        *ids = ids
            .iter()
            .filter_map(|id| renumbered[id.0 as usize])
            .collect();
        ids.sort_unstable();
        ids.dedup();
    };
    for policy in &mut set.policies {
        ids(&mut policy.applies_to);
        for side in [&mut policy.ingress, &mut policy.egress] {
            let Some(Side { rules, .. }) = side else {
                continue;
            };
            rules.retain_mut(|rule| can_match(&mut rule.peers, &rule.ports, &renumbered));
        }
    }
    for policy in set.guardrails.iter_mut().chain(&mut set.baselines) {
        ids(&mut policy.applies_to);
        for rules in [&mut policy.ingress, &mut policy.egress] {
            rules.retain_mut(|rule| can_match(&mut rule.peers, &rule.ports, &renumbered));
        }
    }
    for exception in &mut set.exceptions {
        ids(&mut exception.from);
        ids(&mut exception.to);
    }
    for assertion in &mut set.assertions {
        ids(&mut assertion.from);
        ids(&mut assertion.to);
    }
    let mut keep = |kind: &str, name: &str, holds: bool, why: &str| {
        if !holds {
            left_out.push(format!("{kind} {name} is left out: it {why}"));
        }
        holds
    };
    set.policies.retain(|policy| {
        let selects = !policy.applies_to.is_empty();
        keep("Policy", &policy.name, selects, "selects nobody")
    });
    for (kind, policies) in [
        ("Guardrail", &mut set.guardrails),
        ("Baseline", &mut set.baselines),
    ] {
        policies.retain(|policy| {
            let has_rules = !(policy.ingress.is_empty() && policy.egress.is_empty());
            keep(
                kind,
                &policy.name,
                !policy.applies_to.is_empty(),
                "selects nobody",
            ) && keep(kind, &policy.name, has_rules, "has no rule that can match")
        });
    }
    set.exceptions.retain(|exception| {
        let matches = !exception.from.is_empty() && !exception.to.is_empty();
        keep(
            "Exception",
            &exception.name,
            matches && !is_nothing(&exception.ports),
            "allows nothing",
        )
    });
    set.assertions.retain(|assertion| {
        let speaks = !assertion.from.is_empty() && !assertion.to.is_empty();
        keep(
            "Assertion",
            &assertion.name,
            speaks && !is_nothing(&assertion.ports),
            "speaks of no flow",
        )
    });
    rename(&mut set.services, &[], |service| &mut service.name);
    set.services.sort_by(|a, b| a.name.cmp(&b.name));
    rename(&mut set.policies, &[], |policy| &mut policy.name);
    set.policies.sort_by(|a, b| a.name.cmp(&b.name));
    rename(&mut set.exceptions, &[], |exception| &mut exception.name);
    set.exceptions.sort_by(|a, b| a.name.cmp(&b.name));
    rename(&mut set.assertions, &[], |assertion| &mut assertion.name);
    set.assertions.sort_by(|a, b| a.name.cmp(&b.name));
    rename(&mut set.guardrails, &[], |policy| &mut policy.name);
    rename(&mut set.baselines, &[], |policy| &mut policy.name);
    untie(&mut set.guardrails);
    untie(&mut set.baselines);
    Tidied { set, left_out }
}

/// Simplifies and renames the segments and sorts them. Says where each went; nowhere if it can
/// match nobody.
fn segments(set: &mut PolicySet, left_out: &mut Vec<String>) -> Vec<Option<SegmentId>> {
    let mut kept: Vec<(usize, _)> = Vec::new();
    let count = set.segments.len();
    for (index, mut segment) in set.segments.drain(..).enumerate() {
        // A selector without requirements matches nobody, and so does an impossible one.
        segment.selector = simplified(&segment.selector).unwrap_or_default();
        if segment.selector.requirements.is_empty() && segment.subnets.is_empty() {
            left_out.push(format!(
                "Segment {} is left out: it matches nobody",
                segment.name
            ));
        } else {
            kept.push((index, segment));
        }
    }
    rename(&mut kept, &RESERVED, |(_, segment)| &mut segment.name);
    kept.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let mut renumbered = vec![None; count];
    for ((index, segment), id) in kept.into_iter().zip(0..) {
        renumbered[index] = Some(SegmentId(id));
        set.segments.push(segment);
    }
    renumbered
}

/// Whether a rule can match anything, its segments renumbered.
fn can_match(peers: &mut Peers, ports: &Ports, renumbered: &[Option<SegmentId>]) -> bool {
    let has_peers = match peers {
        Peers::Any => true,
        Peers::Of(peers) => {
            peers.retain_mut(|peer| match peer {
                Peer::Subnet(_) => true,
                Peer::Segment(id) => {
                    let new = renumbered[id.0 as usize];
                    *id = new.unwrap_or(*id);
                    new.is_some()
                }
            });
            !peers.is_empty()
        }
    };
    has_peers && !is_nothing(ports)
}

fn is_nothing(ports: &Ports) -> bool {
    matches!(ports, Ports::Of { spans, named } if spans.is_empty() && named.is_empty())
}

/// The same workloads with as few requirements as possible: of one key a set of values, or that it
/// has none of some values, or is there, or both, or is not there. None: nobody can match.
pub(crate) fn simplified(selector: &Selector) -> Option<Selector> {
    #[derive(Default)]
    struct Key<'a> {
        within: Option<BTreeSet<&'a String>>,
        without: BTreeSet<&'a String>,
        exists: bool,
        is_absent: bool,
    }
    let mut keys: BTreeMap<&String, Key<'_>> = BTreeMap::new();
    for Requirement { key, test } in &selector.requirements {
        let key = keys.entry(key).or_default();
        match test {
            Test::In(values) => {
                let values: BTreeSet<&String> = values.iter().collect();
                key.within = Some(match key.within.take() {
                    Some(within) => within.intersection(&values).copied().collect(),
                    None => values,
                });
            }
            Test::NotIn(values) => key.without.extend(values),
            Test::Exists => key.exists = true,
            Test::DoesNotExist => key.is_absent = true,
        }
    }
    let owned = |values: BTreeSet<&String>| values.into_iter().cloned().collect();
    let mut requirements = Vec::new();
    for (name, key) in keys {
        let mut require = |test| {
            requirements.push(Requirement {
                key: name.clone(),
                test,
            });
        };
        if key.is_absent {
            if key.exists || key.within.is_some() {
                return None;
            }
            require(Test::DoesNotExist);
        } else if let Some(mut within) = key.within {
            within.retain(|value| !key.without.contains(value));
            if within.is_empty() {
                return None;
            }
            require(Test::In(owned(within)));
        } else {
            if !key.without.is_empty() {
                require(Test::NotIn(owned(key.without)));
            }
            if key.exists {
                require(Test::Exists);
            }
        }
    }
    Some(requirements.into_iter().collect())
}

/// Gives each item a valid name of its own. Who has one keeps it, whatever the others are called.
fn rename<T>(items: &mut [T], taken: &[&str], name: impl Fn(&mut T) -> &mut String) {
    let mut taken: BTreeSet<String> = taken.iter().map(|&name| name.to_owned()).collect();
    let mut renamed = Vec::new();
    // The next number to try behind each stem, so that many equal names take no square time.
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for (index, item) in items.iter_mut().enumerate() {
        let name = name(item);
        if valid(name) != *name || !taken.insert(name.clone()) {
            renamed.push(index);
        }
    }
    for index in renamed {
        let name = name(&mut items[index]);
        let stem = valid(name);
        let mut candidate = stem.clone();
        let number = numbers.entry(stem.clone()).or_insert(2);
        while !taken.insert(candidate.clone()) {
            let suffix = format!("-{number}");
            candidate = shortened(&stem, MAX_NAME - suffix.len()) + &suffix;
            *number += 1;
        }
        *name = candidate;
    }
}

/// The text as a name: a `-` for each run of other characters, letters or digits at both ends.
fn valid(text: &str) -> String {
    let mut name = String::new();
    let mut gap = false;
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            if gap && !name.ends_with('-') && c != '-' {
                name.push('-');
            }
            name.push(c);
            gap = false;
        } else {
            gap = true;
        }
    }
    let name = name.trim_start_matches(['-', '_', '.']);
    let name = shortened(name, MAX_NAME);
    if name.is_empty() {
        "unnamed".to_owned()
    } else {
        name
    }
}

fn shortened(name: &str, longest: usize) -> String {
    let name = &name[..name.len().min(longest)];
    name.trim_end_matches(['-', '_', '.']).to_owned()
}

/// Gives policies that share a priority, or have one out of range, one of their own. Their order
/// stays.
fn untie(policies: &mut [OrderedPolicy]) {
    let mut next = 0;
    for policy in policies.iter_mut() {
        policy.priority = policy.priority.max(next);
        next = policy.priority.saturating_add(1);
    }
    if next > MAX_PRIORITY + 1 {
        for (policy, priority) in policies.iter_mut().zip(0..) {
            policy.priority = priority;
        }
    }
}
