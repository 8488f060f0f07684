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
        let everybody: Vec<usize> = (0..rules.len())
            .filter(|rule| peers.list_of_rule[*rule].is_none())
            .collect();
        let mut rules_of_list: HashMap<u32, Vec<usize>> = HashMap::new();
        for (rule, list) in peers.list_of_rule.iter().enumerate() {
            if let Some(list) = list {
                rules_of_list.entry(*list).or_default().push(rule);
            }
        }
        let mut rows: Index<Vec<u64>> = Index::default();
        let row_of = peers
            .signatures
            .iter()
            .map(|lists| {
                let mut naming = everybody.clone();
                naming.extend(lists.iter().flat_map(|list| &rules_of_list[list]));
                naming.sort_unstable();
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
    /// The columns of each direction.
    of_direction: [Bits; 2],
    /// The columns of each list of ports, by direction.
    of_list: HashMap<(Direction, u32), Bits>,
    /// The list of each rule; none is every column of its direction.
    list_of_rule: Vec<Option<u32>>,
}

impl Columns {
    fn new(rules: &[Rule], ports: &Ports) -> Self {
        let none = Bits::none(ports.signatures.len());
        let mut columns = Self {
            of_direction: [none.clone(), none.clone()],
            of_list: HashMap::new(),
            list_of_rule: ports.list_of_rule.clone(),
        };
        for (rule, list) in rules.iter().zip(&ports.list_of_rule) {
            if let Some(list) = list {
                let bits = columns.of_list.entry((rule.direction, *list));
                bits.or_insert_with(|| none.clone());
            }
        }
        for (column, (direction, lists)) in ports.signatures.iter().enumerate() {
            columns.of_direction[*direction as usize].set(column);
            for list in lists {
                if let Some(bits) = columns.of_list.get_mut(&(*direction, *list)) {
                    bits.set(column);
                }
            }
        }
        columns
    }

    fn of_rule(&self, index: usize, rule: &Rule) -> &Bits {
        match self.list_of_rule[index] {
            None => &self.of_direction[rule.direction as usize],
            Some(list) => &self.of_list[&(rule.direction, list)],
        }
    }

    /// The cells of a row, packed: each rule that names its peers takes the columns that are left,
    /// in order of precedence. Few rules name one peer, so this is faster than asking for each cell
    /// which rules name its peers and its ports.
    fn row(&self, rules: &[Rule], naming: &[usize]) -> Vec<u64> {
        let count = self.of_direction[0].words.len() * 64;
        let mut enforced = Layer::new(self, count);
        let mut staged = Layer::new(self, count);
        for index in naming {
            let rule = &rules[*index];
            let columns = self.of_rule(*index, rule);
            staged.take(*index, rule, columns);
            if rule.mode == Mode::Enforce {
                enforced.take(*index, rule, columns);
            }
        }
        let cells = enforced.rules.iter().zip(&staged.rules);
        cells
            .map(|(enforced, staged)| u64::from(*enforced) << 32 | u64::from(*staged))
            .take(self.column_count())
            .collect()
    }

    fn column_count(&self) -> usize {
        self.of_direction.iter().map(Bits::count).sum()
    }
}

fn unpacked(cell: u64) -> Cell {
    Cell {
        enforced: RuleId((cell >> 32) as u32),
        staged: RuleId(cell as u32),
    }
}

/// The enforced or the staged verdicts of a row.
struct Layer {
    /// The rule of each column.
    rules: Vec<u32>,
    /// Columns that no rule has taken.
    left: Bits,
    /// By direction: the tier that was asked last, and the columns where it was passed.
    passed: [(Tier, Option<Bits>); 2],
}

impl Layer {
    fn new(columns: &Columns, count: usize) -> Self {
        let mut left = columns.of_direction[0].clone();
        for (word, other) in left.words.iter_mut().zip(&columns.of_direction[1].words) {
            *word |= other;
        }
        Self {
            rules: vec![RuleId::NONE.0; count],
            left,
            passed: [(Tier::Lifeline, None), (Tier::Lifeline, None)],
        }
    }

    fn take(&mut self, index: usize, rule: &Rule, columns: &Bits) {
        let (tier, passed) = &mut self.passed[rule.direction as usize];
        if *tier != rule.tier {
            (*tier, *passed) = (rule.tier, None);
        }
        if rule.action == Action::Pass {
            let passed = passed.get_or_insert_with(|| Bits::none(columns.words.len() * 64));
            for (word, passing) in passed.words.iter_mut().zip(&columns.words) {
                *word |= passing;
            }
            return;
        }
        for (place, word) in columns.words.iter().enumerate() {
            let passed = passed.as_ref().map_or(0, |passed| passed.words[place]);
            let mut taken = word & self.left.words[place] & !passed;
            self.left.words[place] &= !taken;
            while taken != 0 {
                self.rules[place * 64 + taken.trailing_zeros() as usize] = index as u32;
                taken &= taken - 1;
            }
        }
    }
}

/// A set of columns: bit n of the whole is column n.
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

    fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }
}
