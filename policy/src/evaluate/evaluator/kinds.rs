//! The addresses that hosts hold, in kinds that no rule of a set tells apart.
//!
//! Rules name held addresses by identity and by subnet. Two with one identity and the same subnets
//! around them are alike; the same subnets are around them if the innermost is the same. So tables
//! need one address of each kind.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    classify::PeerClass,
    population::Population,
    set::{Peer, Peers, PolicySet, Side},
    words::Identity,
};

/// Dense from 0, in the order of their examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind(u32);

pub(super) struct Kinds {
    /// The lowest address of each kind; sorted.
    examples: Vec<IpAddr>,
    of_identity: HashMap<Identity, Vec<Kind>>,
}

impl Kinds {
    /// And the kind of each address of a population.
    pub fn new(set: &PolicySet, population: &Population) -> (Self, HashMap<IpAddr, Kind>) {
        let mut kinds = Self {
            examples: Vec::new(),
            of_identity: HashMap::new(),
        };
        let mut known: HashMap<(Identity, Option<IpNet>), Kind> = HashMap::new();
        let mut kind_of_address = HashMap::with_capacity(population.addresses.len());
        let mut subnets = subnets(set).into_iter().peekable();
        // Those around the address, and maybe some before it, the innermost last.
        let mut around: Vec<IpNet> = Vec::new();
        for (address, identity) in &population.addresses {
            let own = IpNet::from(*address);
            while let Some(subnet) = subnets.next_if(|subnet| *subnet <= own) {
                while around.pop_if(|outer| !outer.contains(&subnet)).is_some() {}
                around.push(subnet);
            }
            while around.pop_if(|outer| !outer.contains(address)).is_some() {}
            let kind = known.entry((*identity, around.last().copied()));
            let kind = *kind.or_insert_with(|| {
                // There are not more kinds than addresses.
                let kind = Kind(kinds.examples.len() as u32);
                kinds.examples.push(*address);
                kinds.of_identity.entry(*identity).or_default().push(kind);
                kind
            });
            kind_of_address.insert(*address, kind);
        }
        (kinds, kind_of_address)
    }

    /// An address book of examples.
    pub fn book(&self, named: &[Identity]) -> BTreeMap<IpAddr, Identity> {
        let examples_of = |identity: &Identity| {
            let identity = *identity;
            let kinds = self.of_identity.get(&identity).into_iter().flatten();
            kinds.map(move |kind| (self.examples[kind.0 as usize], identity))
        };
        named.iter().flat_map(examples_of).collect()
    }

    /// Takes the classes of the examples out of those of all addresses; sorted by kind.
    pub fn take(&self, classes: &mut BTreeMap<IpAddr, PeerClass>) -> Vec<(Kind, PeerClass)> {
        let mut taken = Vec::with_capacity(classes.len());
        classes.retain(
            |address, class| match self.examples.binary_search(address) {
                Ok(place) => {
                    taken.push((Kind(place as u32), *class));
                    false
                }
                Err(_) => true,
            },
        );
        taken
    }
}

/// Every subnet that a set names, also to except it; sorted, those around others first.
fn subnets(set: &PolicySet) -> BTreeSet<IpNet> {
    let ordered = set.guardrails.iter().chain(&set.baselines);
    let ordered = ordered.flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
    let sides = set
        .policies
        .iter()
        .flat_map(|policy| [&policy.ingress, &policy.egress]);
    let allows = sides.flatten().flat_map(|side: &Side| &side.rules);
    let peers = ordered
        .map(|rule| &rule.peers)
        .chain(allows.map(|allow| &allow.peers))
        .filter_map(|peers| match peers {
            Peers::Any => None,
            Peers::Of(peers) => Some(peers),
        });
    let matches = peers.flatten().filter_map(|peer| match peer {
        Peer::Subnet(matched) => Some(matched),
        // All segments follow.
        Peer::Segment(_) => None,
    });
    let segments = set.segments.iter().flat_map(|segment| &segment.subnets);
    matches
        .flat_map(|matched| matched.except.iter().chain([&matched.subnet]))
        .chain(segments)
        .map(IpNet::trunc)
        .collect()
}
