//! All addresses there are, in classes that no rule tells apart: few enough to ask about each pair.

mod prefixes;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    inventory::{Host, Inventory, Labels, PORT_SCOPE},
    reach::{
        TooMany,
        rulebook::{Rulebook, Term, count},
        space::prefixes::Prefixes,
    },
    selector::Test,
    set::{PolicySet, SegmentId},
};

/// Addresses of one family that are alike as peers, and whose holders are alike as subjects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub v4: bool,
    pub holder: Holder,
    /// What the addresses are in, as peers; sorted.
    pub terms: Arc<[Term]>,
    /// The segments of the addresses and of the hosts that hold them; sorted.
    pub members: Arc<[SegmentId]>,
    /// The numbers of named ports: an index into [`Space::profiles`].
    pub profile: u32,
}

/// Who judges at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// No host holds it: nobody does.
    Nobody,
    /// A host in quarantine.
    Quarantined,
    /// A host: an index into [`Space::subjects`].
    Host(u32),
}

/// What of a host decides its rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Judge {
    /// Of the segments that something applies to; sorted.
    pub segments: Vec<SegmentId>,
    /// As [`Class::profile`].
    pub profile: u32,
}

/// An address that a host holds, or one of those that stand for all that no host holds between
/// the same prefixes: two, where there are two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    pub address: IpAddr,
    /// An index into the inventory.
    pub host: Option<u32>,
    pub class: u32,
}

pub(super) struct Space {
    pub classes: Vec<Class>,
    /// Sorted by address, but that those of a prefix come after what is in it. The same prefixes
    /// and hosts give the same addresses, whatever the set makes of them.
    pub spots: Vec<Spot>,
    pub subjects: Vec<Judge>,
    /// The segments of each host of the inventory; sorted. A host in quarantine is in none.
    pub members: Vec<Arc<[SegmentId]>>,
    /// Labels of named ports.
    pub profiles: Vec<Labels>,
}

impl Space {
    /// `marks` are terms behind those of the rulebook; `cuts` only keep addresses apart.
    pub fn new(
        set: &PolicySet,
        inventory: &Inventory,
        book: &Rulebook<'_>,
        marks: &[IpNet],
        cuts: &[IpNet],
    ) -> Result<Self, TooMany> {
        let mut prefixes = Prefixes::default();
        for (segment, of) in (0..).zip(&set.segments) {
            for subnet in &of.subnets {
                prefixes.enter(*subnet, segment);
            }
        }
        let first = count(set.segments.len());
        for (term, matched) in (first..).zip(&book.matches) {
            prefixes.enter_match(matched, term);
        }
        for (term, subnet) in (first + count(book.matches.len())..).zip(marks) {
            prefixes.enter(*subnet, term);
        }
        for subnet in cuts {
            prefixes.cut(*subnet);
        }
        for (host, of) in (0..).zip(&inventory.hosts) {
            for address in &of.addresses {
                prefixes.hold(*address, host);
            }
        }
        let found = prefixes.walk()?;

        let mut kinds = Kinds::new(set);
        let kind_of_host: Vec<u32> = inventory.hosts.iter().map(|host| kinds.of(host)).collect();
        let mut members: Vec<Vec<SegmentId>> = kind_of_host
            .iter()
            .map(|kind| kinds.kinds[*kind as usize].segments.clone())
            .collect();
        for spot in &found {
            if let Some(host) = spot.host {
                members[host as usize].extend(segments_of(&spot.terms, first));
            }
        }
        let subject_segments = book.subjects();
        let mut subjects = Numbers::default();
        let hosts: Vec<(Arc<[SegmentId]>, u32)> = members
            .into_iter()
            .zip(&kind_of_host)
            .zip(&inventory.hosts)
            .map(|((mut members, kind), host)| {
                members.retain(|_| !host.quarantined);
                members.sort_unstable();
                members.dedup();
                let mut segments = members.clone();
                segments.retain(|id| subject_segments.binary_search(id).is_ok());
                let profile = kinds.kinds[*kind as usize].profile;
                (members.into(), subjects.number(Judge { segments, profile }))
            })
            .collect();

        let mut classes = Numbers::default();
        let spots = found
            .into_iter()
            .map(|spot| {
                let v4 = spot.address.is_ipv4();
                let class = match spot.host {
                    None => Class {
                        v4,
                        holder: Holder::Nobody,
                        members: segments_of(&spot.terms, first).collect(),
                        terms: spot.terms,
                        profile: 0,
                    },
                    Some(host) if inventory.hosts[host as usize].quarantined => Class {
                        v4,
                        holder: Holder::Quarantined,
                        terms: Arc::new([]),
                        members: Arc::new([]),
                        profile: 0,
                    },
                    Some(host) => {
                        let kind = &kinds.kinds[kind_of_host[host as usize] as usize];
                        let labelled = kind.segments.iter().map(|id| id.0);
                        let mut terms: Vec<Term> =
                            spot.terms.iter().copied().chain(labelled).collect();
                        terms.sort_unstable();
                        terms.dedup();
                        let (members, subject) = &hosts[host as usize];
                        Class {
                            v4,
                            holder: Holder::Host(*subject),
                            terms: terms.into(),
                            members: Arc::clone(members),
                            profile: kind.profile,
                        }
                    }
                };
                Spot {
                    address: spot.address,
                    host: spot.host,
                    class: classes.number(class),
                }
            })
            .collect();
        Ok(Self {
            classes: classes.items,
            spots,
            subjects: subjects.items,
            members: hosts.into_iter().map(|(members, _)| members).collect(),
            profiles: kinds.profiles.items,
        })
    }
}

/// The segments among sorted terms.
fn segments_of(terms: &[Term], segments: u32) -> impl Iterator<Item = SegmentId> + '_ {
    let segments = terms.partition_point(|term| *term < segments);
    terms[..segments].iter().copied().map(SegmentId)
}

/// Distinct sets of labels, and the segments that each is in by them.
struct Kinds<'a> {
    set: &'a PolicySet,
    numbers: BTreeMap<Labels, u32>,
    kinds: Vec<Kind>,
    profiles: Numbers<Labels>,
    /// The segments that ask for a label with a value.
    asking: HashMap<(&'a str, &'a str), Vec<SegmentId>>,
    /// The segments that ask for no value.
    others: Vec<SegmentId>,
}

struct Kind {
    segments: Vec<SegmentId>,
    profile: u32,
}

impl<'a> Kinds<'a> {
    fn new(set: &'a PolicySet) -> Self {
        let mut asking: HashMap<_, Vec<_>> = HashMap::new();
        let mut others = Vec::new();
        for (id, segment) in (0..).map(SegmentId).zip(&set.segments) {
            let mut requirements = segment.selector.requirements.iter();
            let valued = requirements.find_map(|requirement| match &requirement.test {
                Test::In(values) => Some((requirement.key.as_str(), values)),
                _ => None,
            });
            match valued {
                Some((key, values)) => {
                    for value in values {
                        asking.entry((key, value.as_str())).or_default().push(id);
                    }
                }
                None => others.push(id),
            }
        }
        let mut profiles = Numbers::default();
        // That of those who name no ports.
        profiles.number(Labels::new());
        Self {
            set,
            numbers: BTreeMap::new(),
            kinds: Vec::new(),
            profiles,
            asking,
            others,
        }
    }

    fn of(&mut self, host: &Host) -> u32 {
        let labels = self.set.identity_labels(&host.labels);
        if let Some(known) = self.numbers.get(&labels) {
            return *known;
        }
        let asked = labels
            .iter()
            .filter_map(|(key, value)| self.asking.get(&(key.as_str(), value.as_str())));
        let mut segments: Vec<SegmentId> = asked.flatten().chain(&self.others).copied().collect();
        segments.retain(|id| self.set.segment(*id).selector.matches(&labels));
        segments.sort_unstable();
        segments.dedup();
        let ports = labels.iter().filter(|(key, _)| key.starts_with(PORT_SCOPE));
        let ports = ports.map(|(key, value)| (key.clone(), value.clone()));
        let profile = self.profiles.number(ports.collect());
        self.kinds.push(Kind { segments, profile });
        let number = count(self.kinds.len()) - 1;
        self.numbers.insert(labels, number);
        number
    }
}

/// Numbers for distinct values, from 0 in the order in which they come.
pub(super) struct Numbers<T> {
    numbers: HashMap<T, u32>,
    pub items: Vec<T>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            items: Vec::new(),
        }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Numbers<T> {
    pub fn number(&mut self, item: T) -> u32 {
        if let Some(known) = self.numbers.get(&item) {
            return *known;
        }
        let number = count(self.items.len());
        self.items.push(item.clone());
        self.numbers.insert(item, number);
        number
    }
}
