//! What a set and a population are searched by, made once for all subjects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    compile::Subject,
    inventory::{Host, Labels},
    population::Population,
    selector::Test,
    set::{Exception, OrderedPolicy, Policy, PolicySet, SegmentId},
    words::{Direction, Identity},
};

/// Of a set: what applies to each segment, and which segments a workload can be in.
pub(crate) struct SetIndex {
    guardrails: Applying,
    policies: Applying,
    baselines: Applying,
    exceptions_from: Applying,
    exceptions_to: Applying,
    /// By a label that the selector needs: the one that the fewest segments need.
    by_label: HashMap<String, HashMap<String, Vec<SegmentId>>>,
    /// Those whose selector needs no label with a certain value.
    by_no_label: Vec<SegmentId>,
    by_subnet: HashMap<IpNet, Vec<SegmentId>>,
    /// The prefix lengths in `by_subnet`, of IPv4 and of IPv6.
    lengths: [BTreeSet<u8>; 2],
}

/// By segment, what applies to it: places in one of the set's lists, ascending.
#[derive(PartialEq, Eq)]
struct Applying(Vec<Vec<u32>>);

impl Applying {
    fn new<'a>(set: &PolicySet, lists: impl Iterator<Item = &'a Vec<SegmentId>>) -> Self {
        let mut places = vec![Vec::new(); set.segments.len()];
        for (place, segments) in (0..).zip(lists) {
            for segment in segments {
                places[segment.0 as usize].push(place);
            }
        }
        Self(places)
    }

    fn any(&self, segment: SegmentId) -> bool {
        !self.0[segment.0 as usize].is_empty()
    }

    /// The items of a list that apply to a subject, in the list's order.
    fn of<'a, T>(&self, items: &'a [T], subject: &Subject) -> Vec<&'a T> {
        let segments = subject.segments.iter();
        let mut places: Vec<u32> = segments
            .flat_map(|segment| &self.0[segment.0 as usize])
            .copied()
            .collect();
        places.sort_unstable();
        places.dedup();
        places
            .into_iter()
            .map(|place| &items[place as usize])
            .collect()
    }
}

/// Everything of a set that speaks of one subject, in order of precedence.
#[derive(PartialEq)]
pub(crate) struct Concerning<'a> {
    pub guardrails: Vec<&'a OrderedPolicy>,
    pub exceptions_from: Vec<&'a Exception>,
    pub exceptions_to: Vec<&'a Exception>,
    pub policies: Vec<&'a Policy>,
    pub baselines: Vec<&'a OrderedPolicy>,
}

impl<'a> Concerning<'a> {
    pub fn exceptions(&self, direction: Direction) -> &[&'a Exception] {
        match direction {
            Direction::Ingress => &self.exceptions_to,
            Direction::Egress => &self.exceptions_from,
        }
    }
}

impl SetIndex {
    pub fn new(set: &PolicySet) -> Self {
        let mut index = Self {
            guardrails: Applying::new(set, set.guardrails.iter().map(|it| &it.applies_to)),
            policies: Applying::new(set, set.policies.iter().map(|it| &it.applies_to)),
            baselines: Applying::new(set, set.baselines.iter().map(|it| &it.applies_to)),
            exceptions_from: Applying::new(set, set.exceptions.iter().map(|it| &it.from)),
            exceptions_to: Applying::new(set, set.exceptions.iter().map(|it| &it.to)),
            by_label: HashMap::new(),
            by_no_label: Vec::new(),
            by_subnet: HashMap::new(),
            lengths: [BTreeSet::new(), BTreeSet::new()],
        };
        index.add_selectors(set);
        for (id, segment) in (0..).map(SegmentId).zip(&set.segments) {
            for subnet in &segment.subnets {
                let subnet = subnet.trunc();
                index.lengths[usize::from(subnet.addr().is_ipv6())].insert(subnet.prefix_len());
                index.by_subnet.entry(subnet).or_default().push(id);
            }
        }
        index
    }

    fn add_selectors(&mut self, set: &PolicySet) {
        let needed = |id: SegmentId| {
            let requirements = &set.segment(id).selector.requirements;
            requirements
                .iter()
                .filter_map(|requirement| match &requirement.test {
                    Test::In(values) => Some((requirement.key.as_str(), values)),
                    _ => None,
                })
        };
        let ids = || (0..set.segments.len() as u32).map(SegmentId);
        let mut needing: HashMap<(&str, &str), usize> = HashMap::new();
        for (key, values) in ids().flat_map(needed) {
            for value in values {
                *needing.entry((key, value)).or_default() += 1;
            }
        }
        for id in ids() {
            let shared = |key, values: &BTreeSet<String>| -> usize {
                values.iter().map(|value| needing[&(key, &**value)]).sum()
            };
            match needed(id).min_by_key(|(key, values)| shared(*key, values)) {
                Some((key, values)) => {
                    let by_value = self.by_label.entry(key.to_owned()).or_default();
                    for value in values {
                        by_value.entry(value.clone()).or_default().push(id);
                    }
                }
                None => self.by_no_label.push(id),
            }
        }
    }

    /// Whether something applies to a segment.
    pub fn is_subject(&self, segment: SegmentId) -> bool {
        [
            &self.guardrails,
            &self.policies,
            &self.baselines,
            &self.exceptions_from,
            &self.exceptions_to,
        ]
        .into_iter()
        .any(|applying| applying.any(segment))
    }

    /// The segments whose selector means these labels, in no order.
    pub fn labelled(&self, set: &PolicySet, labels: &Labels) -> Vec<SegmentId> {
        let by_label = labels
            .iter()
            .filter_map(|(key, value)| self.by_label.get(key)?.get(value))
            .flatten();
        by_label
            .chain(&self.by_no_label)
            .copied()
            .filter(|id| set.segment(*id).selector.matches(labels))
            .collect()
    }

    /// The segments with a subnet that holds an address, in no order.
    fn holding(&self, address: IpAddr) -> impl Iterator<Item = SegmentId> {
        self.lengths[usize::from(address.is_ipv6())]
            .iter()
            .filter_map(move |length| {
                let subnet = IpNet::new(address, *length).ok()?.trunc();
                self.by_subnet.get(&subnet)
            })
            .flatten()
            .copied()
    }

    /// As [`PolicySet::subject`], of a host whose identity is known.
    pub fn subject(
        &self,
        set: &PolicySet,
        host: &Host,
        labels: &Labels,
        identity: Identity,
    ) -> Subject {
        if host.quarantined {
            return Subject {
                identity: Identity::QUARANTINED,
                segments: Vec::new(),
            };
        }
        let mut segments = self.labelled(set, labels);
        let addresses = host.addresses.iter();
        segments.extend(addresses.flat_map(|address| self.holding(*address)));
        segments.retain(|id| self.is_subject(*id));
        segments.sort_unstable();
        segments.dedup();
        Subject { identity, segments }
    }

    /// Everything that speaks of a subject.
    pub fn concerning<'a>(&self, set: &'a PolicySet, subject: &Subject) -> Concerning<'a> {
        Concerning {
            guardrails: self.guardrails.of(&set.guardrails, subject),
            exceptions_from: self.exceptions_from.of(&set.exceptions, subject),
            exceptions_to: self.exceptions_to.of(&set.exceptions, subject),
            policies: self.policies.of(&set.policies, subject),
            baselines: self.baselines.of(&set.baselines, subject),
        }
    }
}

/// Of a population as a set sees it: who is in each segment, and what each identity holds.
#[derive(Clone, Default)]
pub(crate) struct Members {
    /// By segment, sorted: the identities that its selector means.
    of_segment: Vec<Vec<Identity>>,
    held: BTreeMap<Identity, BTreeSet<IpAddr>>,
}

impl Members {
    pub fn new(set: &PolicySet, index: &SetIndex, population: &Population) -> Self {
        let mut members = Self {
            of_segment: vec![Vec::new(); set.segments.len()],
            held: BTreeMap::new(),
        };
        for (identity, labels) in &population.labels {
            for segment in index.labelled(set, labels) {
                members.of_segment[segment.0 as usize].push(*identity);
            }
        }
        for (address, identity) in &population.addresses {
            members.hold(*address, *identity);
        }
        members
    }

    pub fn of(&self, segment: SegmentId) -> &[Identity] {
        &self.of_segment[segment.0 as usize]
    }

    /// The addresses of an identity, sorted.
    pub fn held(&self, identity: Identity) -> impl Iterator<Item = IpAddr> {
        self.held.get(&identity).into_iter().flatten().copied()
    }

    pub fn any_quarantined(&self) -> bool {
        self.held.contains_key(&Identity::QUARANTINED)
    }

    pub fn hold(&mut self, address: IpAddr, identity: Identity) {
        self.held.entry(identity).or_default().insert(address);
    }

    pub fn let_go(&mut self, address: IpAddr, identity: Identity) {
        if let Some(held) = self.held.get_mut(&identity) {
            held.remove(&address);
            if held.is_empty() {
                self.held.remove(&identity);
            }
        }
    }

    /// Takes an identity into some segments, or out of them.
    pub fn change(&mut self, identity: Identity, segments: &[SegmentId], is_member: bool) {
        for segment in segments {
            let members = &mut self.of_segment[segment.0 as usize];
            match (members.binary_search(&identity), is_member) {
                (Err(place), true) => members.insert(place, identity),
                (Ok(place), false) => drop(members.remove(place)),
                _ => {}
            }
        }
    }
}
