//! Which rule decides each pair of signatures, and which signatures need not be told apart.

use std::{cmp::Ordering, collections::HashMap};

use crate::{
    classify::{Cell, TooLarge, index::Index, peers::Peers, ports::Ports},
    host_policy::{HostPolicy, Rule, RuleId},
    limits,
    words::{Action, Mode, Tier},
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
struct Bits {
    words: Vec<u64>,
    /// Bit n: word n is not 0. Most sets hold few rules of many, and few words are read.
    filled: Vec<u64>,
}

impl Bits {
    fn of(rules: &[Rule], holds: impl Fn(usize, &Rule) -> bool) -> Self {
        let words = rules.len().div_ceil(64);
        let mut bits = Self {
            words: vec![0; words],
            filled: vec![0; words.div_ceil(64)],
        };
        for (index, rule) in rules.iter().enumerate() {
            if holds(index, rule) {
                bits.set(index);
            }
        }
        bits
    }

    fn set(&mut self, index: usize) {
        self.words[index / 64] |= 1 << (index % 64);
        self.filled[index / 4096] |= 1 << (index / 64 % 64);
    }

    /// The first rule from `start` on that is in this set and another, and fits.
    fn first(&self, other: &Self, start: usize, fits: impl Fn(usize) -> u64) -> Option<usize> {
        let first_word = start / 64;
        for (block, (these, others)) in self.filled.iter().zip(&other.filled).enumerate() {
            let mut filled = these & others;
            while filled != 0 {
                let word = block * 64 + filled.trailing_zeros() as usize;
                filled &= filled - 1;
                let from = match word.cmp(&first_word) {
                    Ordering::Less => continue,
                    Ordering::Equal => u64::MAX << (start % 64),
                    Ordering::Greater => u64::MAX,
                };
                let both = self.words[word] & other.words[word] & fits(word) & from;
                if both != 0 {
                    return Some(word * 64 + both.trailing_zeros() as usize);
                }
            }
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
        // From the back: of each direction, where the tier of the last rule seen ends.
        let mut ends = [(Tier::Default, rules.len()); 2];
        let mut later = [rules.len(); 2];
        let mut resume = vec![0; rules.len()];
        for (index, rule) in rules.iter().enumerate().rev() {
            let direction = rule.direction as usize;
            let (tier, end) = &mut ends[direction];
            if rule.tier != *tier {
                (*tier, *end) = (rule.tier, later[direction]);
            }
            if rule.action == Action::Pass {
                resume[index] = *end;
            }
            later[direction] = index;
        }
        Self {
            enforced: Bits::of(rules, |_, rule| rule.mode == Mode::Enforce),
            resume,
        }
    }

    /// The rules that decide a flow that is in both sets of rules.
    fn decide(&self, peers: &Bits, ports: &Bits) -> Cell {
        Cell {
            enforced: self.first(peers, ports, |word| self.enforced.words[word]),
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
