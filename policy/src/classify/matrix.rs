//! Which rule decides each pair of signatures, and which signatures need not be told apart.

use std::collections::HashMap;

use crate::{
    classify::{Cell, TooLarge, index::Index, peers::Peers, ports::Ports},
    host_policy::{HostPolicy, Rule, RuleId},
    limits,
    words::{Action, Mode},
};

/// The decisions, with equal rows and equal columns made one.
pub(super) struct Matrix {
    /// The row of each signature of peers; that of the world is row 0.
    pub row_of: Vec<u32>,
    /// The column of each signature of ports.
    pub column_of: Vec<u32>,
    pub rows: usize,
    pub columns: usize,
    /// Row by row.
    pub cells: Vec<Cell>,
}

impl Matrix {
    pub fn new(policy: &HostPolicy, peers: &Peers, ports: &Ports) -> Result<Self, TooLarge> {
        let raw_cells = peers
            .signatures
            .len()
            .saturating_mul(ports.signatures.len());
        TooLarge::check(
            "matrix cells before merging",
            raw_cells,
            limits::MAX_RAW_CELLS,
        )?;
        let rules = &policy.rules;
        let order = Order::new(rules);
        let columns: Vec<Bits> = ports
            .signatures
            .iter()
            .map(|(direction, lists)| {
                Bits::of(rules, |index, rule| {
                    rule.direction == *direction
                        && ports.list_of_rule[index]
                            .is_none_or(|list| lists.binary_search(&list).is_ok())
                })
            })
            .collect();

        let everybody = Bits::of(rules, |index, _| peers.list_of_rule[index].is_none());
        let mut rules_of_list: HashMap<u32, Vec<usize>> = HashMap::new();
        for (rule, list) in peers.list_of_rule.iter().enumerate() {
            if let Some(list) = list {
                rules_of_list.entry(*list).or_default().push(rule);
            }
        }
        let mut rows: Index<Vec<Cell>> = Index::default();
        let row_of = peers
            .signatures
            .iter()
            .map(|lists| {
                let mut naming = everybody.clone();
                for rule in lists.iter().flat_map(|list| &rules_of_list[list]) {
                    naming.set(*rule);
                }
                rows.number(
                    columns
                        .iter()
                        .map(|column| order.decide(&naming, column))
                        .collect(),
                )
            })
            .collect();
        let rows = rows.into_items();

        let mut merged: Index<Vec<Cell>> = Index::default();
        let column_of = (0..columns.len())
            .map(|column| merged.number(rows.iter().map(|row| row[column]).collect()))
            .collect();
        let merged = merged.into_items();
        let cells = rows.len() * merged.len();
        TooLarge::check("port classes", merged.len(), limits::MAX_PORT_CLASSES)?;
        TooLarge::check("matrix cells", cells, limits::MAX_CELLS)?;
        let cells = (0..rows.len())
            .flat_map(|row| merged.iter().map(move |column| column[row]))
            .collect();
        Ok(Self {
            row_of,
            column_of,
            rows: rows.len(),
            columns: merged.len(),
            cells,
        })
    }
}

/// A set of rules: bit n of the whole is rule n.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn of(rules: &[Rule], holds: impl Fn(usize, &Rule) -> bool) -> Self {
        let mut bits = Self(vec![0; rules.len().div_ceil(64)]);
        for (index, rule) in rules.iter().enumerate() {
            if holds(index, rule) {
                bits.set(index);
            }
        }
        bits
    }

    fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    /// The first rule from `start` on that is in this set and another, and fits.
    fn first(&self, other: &Self, start: usize, fits: impl Fn(usize) -> u64) -> Option<usize> {
        let mut mask = u64::MAX << (start % 64);
        for word in start / 64..self.0.len() {
            let both = self.0[word] & other.0[word] & fits(word) & mask;
            if both != 0 {
                return Some(word * 64 + both.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }
}

/// What of the rules decides which one of several that match is asked.
struct Order {
    enforced: Bits,
    /// Of each rule that passes, where the rules of the next tier begin; 0 of one that does not.
    resume: Vec<usize>,
}

impl Order {
    fn new(rules: &[Rule]) -> Self {
        let resume = |(index, rule): (usize, &Rule)| {
            let next = || {
                let is_later =
                    |other: &Rule| other.direction == rule.direction && other.tier > rule.tier;
                let later = rules[index..].iter().position(is_later);
                later.map_or(rules.len(), |distance| index + distance)
            };
            if rule.action == Action::Pass {
                next()
            } else {
                0
            }
        };
        Self {
            enforced: Bits::of(rules, |_, rule| rule.mode == Mode::Enforce),
            resume: rules.iter().enumerate().map(resume).collect(),
        }
    }

    /// The rules that decide a flow that is in both sets of rules.
    fn decide(&self, peers: &Bits, ports: &Bits) -> Cell {
        Cell {
            enforced: self.first(peers, ports, |word| self.enforced.0[word]),
            staged: self.first(peers, ports, |_| u64::MAX),
        }
    }

    fn first(&self, peers: &Bits, ports: &Bits, fits: impl Fn(usize) -> u64) -> RuleId {
        let mut start = 0;
        while let Some(rule) = peers.first(ports, start, &fits) {
            match self.resume[rule] {
                0 => return RuleId(rule as u32),
                next => start = next,
            }
        }
        RuleId::NONE
    }
}
