//! Who passes to whom, for each pair of classes of addresses: the engine of reach and assertions.
//!
//! A host's rules name peers in lists. Going through its rules in order, each list splits the classes
//! into those that it holds and the rest, so that in the end classes stand together that the same
//! rules speak of; for each such group the keys are decided once. Nothing is computed for a subject
//! before it is asked about.

mod groups;

use std::{collections::HashMap, sync::Arc};

use ipnet::IpNet;

pub(crate) use crate::reach::space::Spot;
use crate::{
    evaluate::Evidence,
    host_policy::Origin,
    inventory::{Inventory, named_port},
    limits,
    reach::{
        Allowed, TooMany,
        atlas::groups::Groups,
        keys::{KeySets, Keys, meet},
        rulebook::{Line, Rulebook, Term, count},
        ruling::{self, Ruling},
        space::{Class, Holder, Space},
    },
    service::{PortKey, PortSpan, merge},
    set::{PolicySet, Ports, SegmentId},
    words::{Direction, Effect, Tier},
};

/// Where a ruling stands in [`Atlas::rulings`].
type RulingId = u32;

/// The ruling of an address that nobody holds.
const UNMANAGED: RulingId = 0;
/// The ruling of a host in quarantine, and of the others about it.
const QUARANTINE: RulingId = 1;

/// The keys of a rule: none is every key.
type RulePorts = Option<Arc<[PortSpan]>>;

/// What passes over both sides.
type Passing = Arc<[Allowed]>;

pub(crate) struct Atlas<'a> {
    pub(super) space: Space,
    pub keys: KeySets,
    book: Rulebook<'a>,
    /// The classes that each list of peers holds; sorted.
    classes_of_list: Vec<Vec<u32>>,
    /// By subject, for both directions; made when first asked for.
    tables: Vec<[Option<Arc<Table>>; 2]>,
    rulings: Vec<Ruling>,
    default: Arc<Origin>,
    /// What passes with its rules, by the rulings of both sides and the family.
    allowed: HashMap<(RulingId, RulingId, bool), Passing>,
    /// The term of the first mark.
    first_mark: Term,
}

/// The rulings of one subject in one direction.
struct Table {
    /// Of the classes that no rule with a list of peers speaks of.
    others: RulingId,
    /// Of the rest; sorted by class.
    named: Vec<(u32, RulingId)>,
}

impl<'a> Atlas<'a> {
    /// See [`Space::new`].
    pub fn new(
        set: &'a PolicySet,
        inventory: &Inventory,
        marks: &[IpNet],
        cuts: &[IpNet],
    ) -> Result<Self, TooMany> {
        let book = Rulebook::new(set);
        let space = Space::new(set, inventory, &book, marks, cuts)?;
        let classes_of_list = classes_of_lists(&book, &space)?;
        let tables = space.subjects.iter().map(|_| [None, None]).collect();
        let first_mark = count(set.segments.len() + book.matches.len());
        let mut atlas = Self {
            space,
            keys: KeySets::new(),
            book,
            classes_of_list,
            tables,
            rulings: Vec::new(),
            default: Arc::new(Origin::unwritten("default")),
            allowed: HashMap::new(),
            first_mark,
        };
        // In the order of the constants.
        atlas.keep(ruling::unwritten(Effect::Allow, Tier::Default, "unmanaged"));
        atlas.keep(ruling::unwritten(
            Effect::Deny,
            Tier::Quarantine,
            "quarantine",
        ));
        Ok(atlas)
    }

    pub(super) fn class(&self, class: u32) -> &Class {
        &self.space.classes[class as usize]
    }

    /// See [`Space::spots`].
    pub fn spots(&self) -> &[Spot] {
        &self.space.spots
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.space.classes.len()
    }

    /// The classes of the members of any of some segments.
    pub fn members(&self, segments: &[SegmentId]) -> impl Iterator<Item = u32> {
        let classes = (0..).zip(&self.space.classes);
        classes
            .filter(|(_, class)| {
                let mut segments = segments.iter();
                segments.any(|id| class.members.binary_search(id).is_ok())
            })
            .map(|(class, _)| class)
    }

    /// What both sides say about a key.
    pub fn evidence(&mut self, from: u32, to: u32, port: PortKey) -> Option<[Evidence; 2]> {
        let (egress, ingress) = self.sides(from, to);
        let of = |id: RulingId| Some(self.rulings[id as usize].piece(port)?.evidence());
        Some([of(egress)?, of(ingress)?])
    }

    /// Whether the addresses of a class are in a marked subnet.
    pub(super) fn is_marked(&self, class: u32, mark: u32) -> bool {
        let term = self.first_mark + mark;
        self.class(class).terms.binary_search(&term).is_ok()
    }

    /// The keys that pass from one class to another of its family, over both sides.
    pub fn passing(&mut self, from: u32, to: u32) -> Keys {
        let (egress, ingress) = self.sides(from, to);
        let [egress, ingress] = [egress, ingress].map(|id| self.rulings[id as usize].passing);
        let both = self.keys.meet(egress, ingress);
        let family = Keys::of_family(self.class(from).v4);
        self.keys.meet(both, family)
    }

    /// What passes, with the rules of both sides that let it.
    pub(super) fn allowed(&mut self, from: u32, to: u32) -> Passing {
        let (egress, ingress) = self.sides(from, to);
        let v4 = self.class(from).v4;
        if let Some(known) = self.allowed.get(&(egress, ingress, v4)) {
            return Arc::clone(known);
        }
        let family = Arc::clone(self.keys.spans(Keys::of_family(v4)));
        let sides = [egress, ingress].map(|id| &self.rulings[id as usize]);
        let allowed: Passing = both(sides, &family).into();
        let key = (egress, ingress, v4);
        self.allowed.insert(key, Arc::clone(&allowed));
        allowed
    }

    /// The keys that some ports stand for at a class of destinations, in its family.
    pub fn keys_of(&mut self, ports: &Ports, destination: u32) -> Keys {
        let Class { v4, profile, .. } = *self.class(destination);
        let family = Keys::of_family(v4);
        match self.numbered(ports, profile) {
            None => family,
            Some(spans) => {
                let keys = self.keys.number(spans.to_vec());
                self.keys.meet(keys, family)
            }
        }
    }

    fn sides(&mut self, from: u32, to: u32) -> (RulingId, RulingId) {
        (
            self.side(Direction::Egress, from, to),
            self.side(Direction::Ingress, to, from),
        )
    }

    fn side(&mut self, direction: Direction, own: u32, peer: u32) -> RulingId {
        let subject = match (self.class(own).holder, self.class(peer).holder) {
            (Holder::Nobody, _) => return UNMANAGED,
            (Holder::Quarantined, _) | (_, Holder::Quarantined) => return QUARANTINE,
            (Holder::Host(subject), _) => subject,
        };
        let known = self.tables[subject as usize][direction as usize].clone();
        let table = known.unwrap_or_else(|| {
            let table = Arc::new(self.table(direction, subject));
            self.tables[subject as usize][direction as usize] = Some(Arc::clone(&table));
            table
        });
        match table.named.binary_search_by_key(&peer, |(class, _)| *class) {
            Ok(at) => table.named[at].1,
            Err(_) => table.others,
        }
    }

    /// Computes what a subject says about every class.
    fn table(&mut self, direction: Direction, subject: u32) -> Table {
        let judge = &self.space.subjects[subject as usize];
        let own_profile = judge.profile;
        let rules = self.book.rules(direction, &judge.segments);
        let mut groups = Groups::default();
        // Rules that speak of every class alike.
        let mut common: Vec<(u32, RulePorts)> = Vec::new();
        for (at, rule) in (0..).zip(&rules) {
            let by_peer = direction == Direction::Egress && names_ports(rule.ports);
            match rule.peers {
                None if !by_peer => common.push((at, self.numbered(rule.ports, own_profile))),
                peers => {
                    let listed = peers.map(|list| &self.classes_of_list[list as usize][..]);
                    let all = (0..count(self.space.classes.len())).filter(|_| listed.is_none());
                    let classes = listed.unwrap_or_default().iter().copied().chain(all);
                    let mut ports_of: HashMap<u32, RulePorts> = HashMap::new();
                    for class in classes {
                        let profile = if by_peer {
                            self.space.classes[class as usize].profile
                        } else {
                            own_profile
                        };
                        let ports = ports_of
                            .entry(profile)
                            .or_insert_with(|| self.numbered(rule.ports, profile));
                        if ports.as_ref().is_none_or(|ports| !ports.is_empty()) {
                            groups.split(class, at, profile, ports);
                        }
                    }
                }
            }
        }
        let others = self.rule(&rules, &common, Vec::new());
        let mut named: Vec<(u32, u32)> = groups.of_class().collect();
        named.sort_unstable();
        let mut ruling_of: HashMap<u32, RulingId> = HashMap::new();
        for (_, group) in &mut named {
            let ruling = ruling_of
                .entry(*group)
                .or_insert_with(|| self.rule(&rules, &common, groups.speaking(*group)));
            *group = *ruling;
        }
        Table { others, named }
    }

    /// Decides by the rules that speak of everybody and those of one group.
    fn rule(
        &mut self,
        rules: &[Line<'a>],
        common: &[(u32, RulePorts)],
        mut speaking: Vec<(u32, RulePorts)>,
    ) -> RulingId {
        speaking.extend_from_slice(common);
        speaking.sort_unstable_by_key(|(rule, _)| *rule);
        let speaking = speaking
            .into_iter()
            .map(|(rule, ports)| (rules[rule as usize], ports));
        let pieces = ruling::decide(speaking, &self.default);
        self.keep(pieces)
    }

    fn keep(&mut self, pieces: Vec<ruling::Piece>) -> RulingId {
        let passing = self.keys.number(ruling::passing(&pieces));
        self.rulings.push(Ruling { pieces, passing });
        count(self.rulings.len()) - 1
    }

    /// The keys that ports stand for where named ones have the numbers of a profile.
    fn numbered(&self, ports: &Ports, profile: u32) -> RulePorts {
        let Ports::Of { spans, named } = ports else {
            return None;
        };
        let labels = &self.space.profiles[profile as usize];
        let mut all = spans.clone();
        for port in named {
            all.extend(named_port(labels, port).map(|number| PortSpan {
                slot: port.slot,
                first: number,
                last: number,
            }));
        }
        Some(merge(all).into())
    }
}

fn names_ports(ports: &Ports) -> bool {
    matches!(ports, Ports::Of { named, .. } if !named.is_empty())
}

/// Which classes each list of peers holds.
fn classes_of_lists(book: &Rulebook<'_>, space: &Space) -> Result<Vec<Vec<u32>>, TooMany> {
    let mut lists_of_term: HashMap<Term, Vec<u32>> = HashMap::new();
    for (list, terms) in (0..).zip(&book.lists) {
        for term in terms {
            lists_of_term.entry(*term).or_default().push(list);
        }
    }
    let mut classes_of_list = vec![Vec::new(); book.lists.len()];
    let mut memberships = 0;
    for (number, class) in (0..).zip(&space.classes) {
        let lists = class
            .terms
            .iter()
            .filter_map(|term| lists_of_term.get(term));
        for list in lists.flatten() {
            let classes: &mut Vec<u32> = &mut classes_of_list[*list as usize];
            if classes.last() != Some(&number) {
                classes.push(number);
                memberships += 1;
            }
        }
        TooMany::check("overlapping peers", memberships, limits::MAX_MEMBERSHIPS)?;
    }
    Ok(classes_of_list)
}

/// The keys of a family that pass both sides, cut where the rules change.
fn both(sides: [&Ruling; 2], family: &[PortSpan]) -> Vec<Allowed> {
    let [egress, ingress] = sides.map(|side| {
        let passing = side.pieces.iter();
        let passing = passing.filter(|piece| piece.effect == Effect::Allow);
        passing.collect::<Vec<_>>()
    });
    let mut allowed: Vec<Allowed> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(out), Some(into)) = (egress.get(i), ingress.get(j)) {
        for ports in meet(&meet(&[out.ports], &[into.ports]), family) {
            match allowed.last_mut() {
                Some(before)
                    if before.ports.slot == ports.slot
                        && before.ports.last.checked_add(1) == Some(ports.first)
                        && before.egress == out.origin
                        && before.ingress == into.origin =>
                {
                    before.ports.last = ports.last;
                }
                _ => allowed.push(Allowed {
                    ports,
                    egress: Arc::clone(&out.origin),
                    ingress: Arc::clone(&into.origin),
                }),
            }
        }
        if (out.ports.slot, out.ports.last) <= (into.ports.slot, into.ports.last) {
            i += 1;
        } else {
            j += 1;
        }
    }
    allowed
}
