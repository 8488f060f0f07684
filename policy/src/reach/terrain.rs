//! The addresses of an inventory as one or two policy sets see them, and what of them is asked about.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    inventory::{HostName, Inventory},
    reach::{
        End, Question, TooMany,
        atlas::Atlas,
        examples::{example, examples},
        keys::Keys,
        rulebook::Rulebook,
        space::{Holder, Numbers, Spot},
    },
    set::{PolicySet, Ports, SegmentId},
};

/// Hosts that no segment has.
const OTHER: &str = "(other)";
/// Addresses that nobody holds and no segment has.
const WORLD: &str = "world";

/// Addresses in *kinds*: those that are of one class in every atlas.
pub(super) struct Terrain<'a> {
    pub atlases: Vec<Atlas<'a>>,
    /// The class of each kind in each atlas.
    pub kinds: Vec<Vec<u32>>,
    /// With kinds for classes.
    spots: Vec<Spot>,
    /// See [`examples`]; by kind.
    examples: Vec<Vec<Spot>>,
    sets: Vec<&'a PolicySet>,
    inventory: &'a Inventory,
    ends: [Option<&'a End>; 2],
    service: Option<&'a Ports>,
    /// What the service stands for at a class of destinations in an atlas.
    asked: HashMap<(usize, u32), Keys>,
    /// The marks of each end: numbers of marked subnets.
    marks: [Option<u32>; 2],
}

/// A host, or addresses that nobody holds and that are alike.
pub(super) struct Place {
    pub name: HostName,
    host: Option<u32>,
    spots: Vec<Spot>,
}

/// Both ends of what is asked about.
pub(super) struct Places {
    from: Vec<Arc<Place>>,
    to: Vec<Arc<Place>>,
}

/// Members of a segment.
pub(super) struct Group {
    pub name: String,
    /// Sorted.
    pub kinds: Vec<u32>,
}

impl<'a> Terrain<'a> {
    pub fn new(
        sets: &[&'a PolicySet],
        inventory: &'a Inventory,
        question: &'a Question,
    ) -> Result<Self, TooMany> {
        let ends = [question.from.as_ref(), question.to.as_ref()];
        let mut subnets: Vec<IpNet> = Vec::new();
        let marks = ends.map(|end| match end {
            Some(End::Subnet(subnet)) => {
                subnets.push(*subnet);
                u32::try_from(subnets.len() - 1).ok()
            }
            _ => None,
        });
        // A host is asked about by name: its addresses are of no class of others.
        let named = inventory.hosts.iter().filter(|host| {
            let is_it = |end: &&End| matches!(end, End::Named(name) if *name == host.name.0);
            ends.iter().flatten().any(is_it)
        });
        subnets.extend(
            named
                .flat_map(|host| &host.addresses)
                .map(|at| IpNet::from(*at)),
        );
        let cuts: Vec<IpNet> = match sets {
            [_] => Vec::new(),
            _ => sets.iter().flat_map(|set| prefixes(set)).collect(),
        };
        let atlases = sets
            .iter()
            .map(|set| Atlas::new(set, inventory, &subnets, &cuts))
            .collect::<Result<Vec<_>, _>>()?;
        let mut kinds: Numbers<Vec<u32>> = Numbers::default();
        let spots: Vec<Spot> = (0..atlases[0].space.spots.len())
            .map(|at| {
                let classes = atlases.iter().map(|atlas| atlas.space.spots[at].class);
                let class = kinds.number(classes.collect());
                Spot {
                    class,
                    ..atlases[0].space.spots[at]
                }
            })
            .collect();
        Ok(Self {
            examples: examples(&spots, kinds.items.len()),
            spots,
            kinds: kinds.items,
            atlases,
            sets: sets.to_vec(),
            inventory,
            ends,
            service: question.service.as_ref(),
            asked: HashMap::new(),
            marks,
        })
    }

    /// The keys that pass from one kind to another, of those asked about.
    pub fn passing(&mut self, atlas: usize, from: u32, to: u32) -> Keys {
        let passing = {
            let [from, to] = [from, to].map(|kind| self.kinds[kind as usize][atlas]);
            self.atlases[atlas].passing(from, to)
        };
        match self.asked(atlas, to) {
            None => passing,
            Some(asked) => self.atlases[atlas].keys.meet(passing, asked),
        }
    }

    /// The keys that are asked about at a kind of destinations; none: all.
    pub fn asked(&mut self, atlas: usize, to: u32) -> Option<Keys> {
        let service = self.service?;
        let class = self.kinds[to as usize][atlas];
        let of = &mut self.atlases[atlas];
        let keys = self.asked.entry((atlas, class));
        Some(*keys.or_insert_with(|| of.keys_of(service, class)))
    }

    pub fn is_v4(&self, kind: u32) -> bool {
        self.atlases[0].class(self.kinds[kind as usize][0]).v4
    }

    /// Whether there are flows between two kinds that some host judges.
    pub fn is_judged(&self, from: u32, to: u32) -> bool {
        let is_held = |kind: u32| self.holder(kind) != Holder::Nobody;
        let [a, b] = [from, to].map(|kind| &self.examples[kind as usize][..]);
        (is_held(from) || is_held(to)) && example(a, b).is_some()
    }

    fn holder(&self, kind: u32) -> Holder {
        self.atlases[0].class(self.kinds[kind as usize][0]).holder
    }

    /// The segments that any of the sets has an address in; by name.
    fn segments(&self, kind: u32) -> BTreeSet<&'a str> {
        let sets = self
            .sets
            .iter()
            .zip(&self.atlases)
            .zip(&self.kinds[kind as usize]);
        sets.flat_map(|((set, atlas), class)| {
            let members = atlas.class(*class).members.iter();
            members.map(move |id| set.segment(*id).name.as_str())
        })
        .collect()
    }

    /// Whether an address is at an end of what is asked about.
    fn is_at(&self, end: usize, spot: &Spot) -> bool {
        match self.ends[end] {
            None => true,
            Some(End::Subnet(subnet)) => match (spot.host, self.marks[end]) {
                (None, Some(mark)) => {
                    let class = self.kinds[spot.class as usize][0];
                    self.atlases[0].is_marked(class, mark)
                }
                _ => subnet.contains(&spot.address),
            },
            Some(End::Named(name)) => {
                spot.host.is_some_and(|host| self.is_host(host, name))
                    || self.segments(spot.class).contains(name.as_str())
            }
        }
    }

    fn is_host(&self, host: u32, name: &str) -> bool {
        self.inventory.hosts[host as usize].name.0 == name
    }

    /// Whether a host without addresses is meant.
    fn is_meant(&self, end: usize, host: u32) -> bool {
        let in_segment = |name: &str| {
            let mut sets = self.sets.iter().zip(&self.atlases);
            sets.any(|(set, atlas)| {
                let is_it = |id: &SegmentId| set.segment(*id).name == name;
                atlas.space.members[host as usize].iter().any(is_it)
            })
        };
        match self.ends[end] {
            None => true,
            Some(End::Subnet(_)) => false,
            Some(End::Named(name)) => self.is_host(host, name) || in_segment(name),
        }
    }

    /// Hosts as the inventory has them, then what nobody holds of the ends that were asked about.
    pub fn places(&self) -> Places {
        let [from, to] = [0, 1].map(|end| {
            let mut of_host: Vec<Vec<Spot>> = vec![Vec::new(); self.inventory.hosts.len()];
            let mut unheld: BTreeMap<u32, Spot> = BTreeMap::new();
            for spot in self.spots.iter().filter(|spot| self.is_at(end, spot)) {
                match spot.host {
                    Some(host) => of_host[host as usize].push(*spot),
                    None => {
                        unheld.entry(spot.class).or_insert(*spot);
                    }
                }
            }
            let hosts = (0..).zip(&self.inventory.hosts).zip(of_host);
            let mut places: Vec<Place> = hosts
                .filter(|((host, of), spots)| {
                    !spots.is_empty() || of.addresses.is_empty() && self.is_meant(end, *host)
                })
                .map(|((host, of), mut spots)| {
                    // In the order of the inventory.
                    let place =
                        |spot: &Spot| of.addresses.iter().position(|at| *at == spot.address);
                    spots.sort_by_key(place);
                    Place {
                        name: of.name.clone(),
                        host: Some(host),
                        spots,
                    }
                })
                .collect();
            if let Some(end) = self.ends[end] {
                places.extend(unheld.into_values().map(|spot| {
                    let (name, like) = (end.to_string(), spot.address.to_string());
                    Place {
                        name: HostName(if name == like {
                            name
                        } else {
                            format!("{name} like {like}")
                        }),
                        host: None,
                        spots: vec![spot],
                    }
                }));
            }
            places.into_iter().map(Arc::new).collect()
        });
        Places { from, to }
    }

    /// The pairs of addresses of two places that can have flows.
    pub fn flows<'p>(from: &'p Place, to: &'p Place) -> impl Iterator<Item = (&'p Spot, &'p Spot)> {
        from.spots.iter().flat_map(|a| {
            let of_family = to
                .spots
                .iter()
                .filter(|b| a.address.is_ipv4() == b.address.is_ipv4());
            of_family.map(move |b| (a, b))
        })
    }

    /// Both ends by segment, those with members: by name, then the other hosts, then the world.
    pub fn groups(&self) -> [Vec<Group>; 2] {
        [0, 1].map(|end| {
            let kinds: BTreeSet<u32> = self
                .spots
                .iter()
                .filter(|spot| self.is_at(end, spot))
                .map(|spot| spot.class)
                .filter(|kind| self.holder(*kind) != Holder::Quarantined)
                .collect();
            let mut segments: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
            let (mut other, mut world) = (Vec::new(), Vec::new());
            for kind in kinds {
                let names = self.segments(kind);
                if names.is_empty() {
                    match self.holder(kind) {
                        Holder::Nobody => world.push(kind),
                        _ => other.push(kind),
                    }
                }
                for name in names {
                    segments.entry(name).or_default().push(kind);
                }
            }
            let segments = segments.into_iter();
            segments
                .chain([(OTHER, other), (WORLD, world)])
                .filter(|(_, kinds)| !kinds.is_empty())
                .map(|(name, kinds)| Group {
                    name: name.to_owned(),
                    kinds,
                })
                .collect()
        })
    }
}

impl Places {
    /// Every ordered pair of different places, of which one is a host.
    pub fn pairs(self) -> impl Iterator<Item = (Arc<Place>, Arc<Place>)> {
        let Self { from, to } = self;
        let length = to.len();
        let all = (0..from.len()).flat_map(move |a| (0..length).map(move |b| (a, b)));
        all.filter_map(move |(a, b)| {
            let (from, to) = (&from[a], &to[b]);
            (from.host != to.host).then(|| (Arc::clone(from), Arc::clone(to)))
        })
    }
}

/// Every prefix that a set names where it is enforced.
fn prefixes(set: &PolicySet) -> Vec<IpNet> {
    let matches = Rulebook::new(set).matches;
    let matched = matches
        .iter()
        .flat_map(|matched| matched.except.iter().chain([&matched.subnet]));
    let segments = set.segments.iter().flat_map(|segment| &segment.subnets);
    matched.chain(segments).copied().collect()
}
