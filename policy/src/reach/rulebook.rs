//! What is enforced, rule by rule in order of precedence, with the peers of each rule as a list of
//! terms: a term is what an address is in or is not, such as a segment.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    host_policy::{Origin, SubnetMatch},
    set::{OrderedPolicy, Peer, Peers, PolicySet, Ports, SegmentId},
    words::{Action, Direction, Mode, Tier},
};

/// Something that an address is in or is not: first the segments by their ids, then the subnet
/// matches of rules, then the subnets that a question marks.
pub(super) type Term = u32;

/// A list of peers, by number.
pub(super) type List = u32;

/// The enforced rules of a set.
pub(super) struct Rulebook<'a> {
    /// For each direction, in order of precedence.
    blocks: [Vec<Block<'a>>; 2],
    /// The terms of each list of peers; sorted.
    pub lists: Vec<Vec<Term>>,
    /// The subnet matches of all rules; their terms follow the segments'.
    pub matches: Vec<&'a SubnetMatch>,
}

/// What one policy says about one direction.
struct Block<'a> {
    tier: Tier,
    applies_to: &'a [SegmentId],
    rules: Vec<Line<'a>>,
    /// Of a policy: where the deny that being selected brings is written.
    closing: Option<&'a Arc<Origin>>,
}

/// One rule.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub tier: Tier,
    pub action: Action,
    /// None: everybody.
    pub peers: Option<List>,
    pub ports: &'a Ports,
    pub origin: &'a Arc<Origin>,
}

impl<'a> Rulebook<'a> {
    pub fn new(set: &'a PolicySet) -> Self {
        let mut lists = Lists::new(set);
        let blocks = Direction::ALL.map(|direction| {
            let mut blocks = Vec::new();
            ordered(
                &set.guardrails,
                Tier::Guardrail,
                direction,
                &mut lists,
                &mut blocks,
            );
            exceptions(set, direction, &mut lists, &mut blocks);
            policies(set, direction, &mut lists, &mut blocks);
            ordered(
                &set.baselines,
                Tier::Baseline,
                direction,
                &mut lists,
                &mut blocks,
            );
            blocks
        });
        Self {
            blocks,
            lists: lists.lists,
            matches: lists.matches,
        }
    }

    /// The segments that something applies to; sorted.
    pub fn subjects(&self) -> Vec<SegmentId> {
        let blocks = self.blocks.iter().flatten();
        let mut segments: Vec<SegmentId> =
            blocks.flat_map(|block| block.applies_to).copied().collect();
        segments.sort_unstable();
        segments.dedup();
        segments
    }

    /// The rules of a host in these segments, in order of precedence; without the default.
    pub fn rules(&self, direction: Direction, segments: &[SegmentId]) -> Vec<Line<'a>> {
        let is_in_any = |block: &&Block<'a>| {
            let mut applies_to = block.applies_to.iter();
            applies_to.any(|id| segments.binary_search(id).is_ok())
        };
        let mut rules: Vec<Line<'a>> = Vec::new();
        let mut closing = None;
        let close = |rules: &mut Vec<Line<'a>>, closing: &mut Option<&'a Arc<Origin>>| {
            rules.extend(closing.take().map(|origin| Line {
                tier: Tier::Policy,
                action: Action::Deny,
                peers: None,
                ports: &Ports::Any,
                origin,
            }));
        };
        for block in self.blocks[direction as usize].iter().filter(is_in_any) {
            if block.tier > Tier::Policy {
                close(&mut rules, &mut closing);
            }
            closing = closing.or(block.closing);
            rules.extend_from_slice(&block.rules);
        }
        close(&mut rules, &mut closing);
        rules
    }
}

fn ordered<'a>(
    policies: &'a [OrderedPolicy],
    tier: Tier,
    direction: Direction,
    lists: &mut Lists<'a>,
    blocks: &mut Vec<Block<'a>>,
) {
    let enforced = policies
        .iter()
        .filter(|policy| policy.mode == Mode::Enforce);
    blocks.extend(enforced.map(|policy| {
        let rules = policy.rules(direction).iter();
        Block {
            tier,
            applies_to: &policy.applies_to,
            rules: rules
                .map(|rule| Line {
                    tier,
                    action: rule.action,
                    peers: lists.of(&rule.peers),
                    ports: &rule.ports,
                    origin: &rule.origin,
                })
                .collect(),
            closing: None,
        }
    }));
}

fn exceptions<'a>(
    set: &'a PolicySet,
    direction: Direction,
    lists: &mut Lists<'a>,
    blocks: &mut Vec<Block<'a>>,
) {
    blocks.extend(set.exceptions.iter().map(|exception| {
        let (own, others) = match direction {
            Direction::Ingress => (&exception.to, &exception.from),
            Direction::Egress => (&exception.from, &exception.to),
        };
        Block {
            tier: Tier::Exception,
            applies_to: own,
            rules: vec![Line {
                tier: Tier::Exception,
                action: Action::Allow,
                peers: Some(lists.number(others.iter().map(|id| id.0).collect())),
                ports: &exception.ports,
                origin: &exception.origin,
            }],
            closing: None,
        }
    }));
}

fn policies<'a>(
    set: &'a PolicySet,
    direction: Direction,
    lists: &mut Lists<'a>,
    blocks: &mut Vec<Block<'a>>,
) {
    let enforced = set
        .policies
        .iter()
        .filter(|policy| policy.mode == Mode::Enforce);
    let sides = enforced.filter_map(|policy| Some((policy, policy.side(direction)?)));
    blocks.extend(sides.map(|(policy, side)| {
        Block {
            tier: Tier::Policy,
            applies_to: &policy.applies_to,
            rules: side
                .rules
                .iter()
                .map(|allow| Line {
                    tier: Tier::Policy,
                    action: Action::Allow,
                    peers: lists.of(&allow.peers),
                    ports: &allow.ports,
                    origin: &allow.origin,
                })
                .collect(),
            closing: Some(&side.origin),
        }
    }));
}

/// Numbers for distinct lists of peers.
struct Lists<'a> {
    segments: u32,
    lists: Vec<Vec<Term>>,
    numbers: BTreeMap<Vec<Term>, List>,
    matches: Vec<&'a SubnetMatch>,
    terms: HashMap<&'a SubnetMatch, Term>,
}

impl<'a> Lists<'a> {
    fn new(set: &PolicySet) -> Self {
        Self {
            segments: count(set.segments.len()),
            lists: Vec::new(),
            numbers: BTreeMap::new(),
            matches: Vec::new(),
            terms: HashMap::new(),
        }
    }

    fn of(&mut self, peers: &'a Peers) -> Option<List> {
        let Peers::Of(peers) = peers else {
            return None;
        };
        let mut terms = Vec::with_capacity(peers.len());
        for peer in peers {
            terms.push(match peer {
                Peer::Segment(id) => id.0,
                Peer::Subnet(subnet) => *self.terms.entry(subnet).or_insert_with(|| {
                    self.matches.push(subnet);
                    self.segments + count(self.matches.len()) - 1
                }),
            });
        }
        Some(self.number(terms))
    }

    fn number(&mut self, mut terms: Vec<Term>) -> List {
        terms.sort_unstable();
        terms.dedup();
        let next = count(self.lists.len());
        *self.numbers.entry(terms).or_insert_with_key(|terms| {
            self.lists.push(terms.clone());
            next
        })
    }
}

/// What is counted here is held in memory, far below the most that fits.
pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
