//! Which rule decides each pair of signatures, and which signatures need not be told apart.

use std::collections::HashMap;

use crate::{
    classify::{Cell, TooLarge, index::Index, peers::Peers, ports::Ports},
    host_policy::{HostPolicy, Rule, RuleId},
    limits,
    words::{Action, Direction, Mode, Tier},
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
        let columns = Columns::new(rules, ports);
        let mut everybody = Bits::none(rules.len());
        let mut rules_of_list: Vec<Vec<usize>> = Vec::new();
        for (rule, list) in peers.list_of_rule.iter().enumerate() {
            let Some(list) = list.map(|list| list as usize) else {
                everybody.set(rule);
                continue;
            };
            if rules_of_list.len() <= list {
                rules_of_list.resize_with(list + 1, Vec::new);
            }
            rules_of_list[list].push(rule);
        }
        let mut rows: Index<Vec<u64>> = Index::default();
        let mut naming = everybody.clone();
        let row_of = peers
            .signatures
            .iter()
            .map(|lists| {
                naming.words.copy_from_slice(&everybody.words);
                for rule in lists.iter().flat_map(|list| &rules_of_list[*list as usize]) {
                    naming.set(*rule);
                }
                rows.number(columns.row(rules, &naming))
            })
            .collect();
        let rows = rows.into_items();

        let mut merged: Index<Vec<u64>> = Index::default();
        let column_of = (0..ports.signatures.len())
            .map(|column| merged.number(rows.iter().map(|row| row[column]).collect()))
            .collect();
        let merged = merged.into_items();
        let cells = rows.len() * merged.len();
        TooLarge::check("port classes", merged.len(), limits::MAX_PORT_CLASSES)?;
        TooLarge::check("matrix cells", cells, limits::MAX_CELLS)?;
        let cells = (0..rows.len())
            .flat_map(|row| merged.iter().map(move |column| unpacked(column[row])))
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

/// Which columns each rule speaks of.
struct Columns {
    /// How many there are.
    count: usize,
    /// Sets of columns; the first two are all of each direction.
    sets: Vec<Bits>,
    /// The place in `sets` of each rule's columns.
    set_of_rule: Vec<usize>,
    rules_of_direction: [Bits; 2],
}

impl Columns {
    fn new(rules: &[Rule], ports: &Ports) -> Self {
        let none = Bits::none(ports.signatures.len());
        let mut sets = vec![none.clone(), none.clone()];
        let mut rules_of_direction = [Bits::none(rules.len()), Bits::none(rules.len())];
        let mut set_of_list: HashMap<(Direction, u32), usize> = HashMap::new();
        let mut set_of_rule = Vec::with_capacity(rules.len());
        for (index, (rule, list)) in rules.iter().zip(&ports.list_of_rule).enumerate() {
            rules_of_direction[rule.direction as usize].set(index);
            set_of_rule.push(match list {
                None => rule.direction as usize,
                Some(list) => {
                    let set = set_of_list.entry((rule.direction, *list));
                    *set.or_insert_with(|| {
                        sets.push(none.clone());
                        sets.len() - 1
                    })
                }
            });
        }
        for (column, (direction, lists)) in ports.signatures.iter().enumerate() {
            sets[*direction as usize].set(column);
            for list in lists {
                if let Some(set) = set_of_list.get(&(*direction, *list)) {
                    sets[*set].set(column);
                }
            }
        }
        Self {
            count: ports.signatures.len(),
            sets,
            set_of_rule,
            rules_of_direction,
        }
    }

    /// The cells of a row, packed: each rule that names its peers takes the columns that are left,
    /// in order of precedence, until none are. Few rules name one peer, so this is faster than
    /// asking for each cell which rules name its peers and its ports.
    fn row(&self, rules: &[Rule], naming: &Bits) -> Vec<u64> {
        let mut cells = vec![u64::MAX; self.count];
        for direction in Direction::ALL {
            let left = &self.sets[direction as usize];
            let (mut enforced, mut staged) = (Layer::new(left), Layer::new(left));
            for index in naming.both(&self.rules_of_direction[direction as usize]) {
                let rule = &rules[index];
                let columns = &self.sets[self.set_of_rule[index]];
                let (number, low) = (index as u64, u64::from(u32::MAX));
                staged.take(rule, columns, |column| {
                    cells[column] = cells[column] & !low | number;
                });
                if rule.mode == Mode::Enforce {
                    enforced.take(rule, columns, |column| {
                        cells[column] = cells[column] & low | number << 32;
                    });
                }
                // Observed rules fill the staged verdicts before the enforced ones.
                if (enforced.count, staged.count) == (0, 0) {
                    break;
                }
            }
        }
        cells
    }
}

fn unpacked(cell: u64) -> Cell {
    Cell {
        enforced: RuleId((cell >> 32) as u32),
        staged: RuleId(cell as u32),
    }
}

/// The enforced or the staged verdicts of one direction of a row.
struct Layer {
    /// Columns that no rule has taken, and how many.
    left: Bits,
    count: usize,
    /// The tier that was asked last, and the columns where it was passed.
    tier: Tier,
    passed: Option<Bits>,
}

impl Layer {
    fn new(left: &Bits) -> Self {
        let counts = left.words.iter().map(|word| word.count_ones() as usize);
        Self {
            count: counts.sum(),
            left: left.clone(),
            tier: Tier::Lifeline,
            passed: None,
        }
    }

    /// Gives a rule its columns, or passes them to the next tier.
    fn take(&mut self, rule: &Rule, columns: &Bits, mut give: impl FnMut(usize)) {
        if self.tier != rule.tier {
            (self.tier, self.passed) = (rule.tier, None);
        }
        if rule.action == Action::Pass {
            match &mut self.passed {
                Some(passed) => passed.add(columns),
                none => *none = Some(columns.clone()),
            }
            return;
        }
        for (place, word) in columns.words.iter().enumerate() {
            let passed = self.passed.as_ref().map_or(0, |it| it.words[place]);
            let mut taken = word & self.left.words[place] & !passed;
            self.left.words[place] &= !taken;
            self.count -= taken.count_ones() as usize;
            while taken != 0 {
                give(place * 64 + taken.trailing_zeros() as usize);
                taken &= taken - 1;
            }
        }
    }
}

/// A set of columns or rules: bit n of the whole is number n.
#[derive(Clone)]
struct Bits {
    words: Vec<u64>,
}

impl Bits {
    fn none(count: usize) -> Self {
        Self {
            words: vec![0; count.div_ceil(64)],
        }
    }

    fn set(&mut self, index: usize) {
        self.words[index / 64] |= 1 << (index % 64);
    }

    fn add(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// What is in both, ascending.
    fn both(&self, other: &Self) -> impl Iterator<Item = usize> {
        let words = self.words.iter().zip(&other.words).enumerate();
        words.flat_map(|(place, (this, other))| {
            let mut word = this & other;
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
                word &= word - 1;
                Some(place * 64 + bit)
            })
        })
    }
}
