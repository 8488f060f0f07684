//! Which workloads a segment means, by their labels.

use std::{collections::BTreeSet, fmt};

use crate::inventory::Labels;

/// Requirements that all have to hold. One without any matches nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// Sorted by key, then test; without duplicates.
    pub requirements: Vec<Requirement>,
}

/// What is required of one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What its value must be.
    pub test: Test,
}

/// A test of one label, with the meaning of the Kubernetes operators of these names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Test {
    /// The label is there with one of these values.
    In(BTreeSet<String>),
    /// The label has none of these values, or is not there.
    NotIn(BTreeSet<String>),
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

impl Selector {
    /// Whether a workload with these labels is meant.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        !self.requirements.is_empty()
            && self
                .requirements
                .iter()
                .all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    /// Whether it holds for a workload with these labels.
    #[must_use]
    pub fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => !value.is_some_and(|value| values.contains(value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}

impl FromIterator<Requirement> for Selector {
    fn from_iter<I: IntoIterator<Item = Requirement>>(requirements: I) -> Self {
        let mut requirements: Vec<Requirement> = requirements.into_iter().collect();
        requirements.sort();
        requirements.dedup();
        Self { requirements }
    }
}

impl From<&Labels> for Selector {
    /// Those that have all of these.
    fn from(labels: &Labels) -> Self {
        labels
            .iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                test: Test::In(BTreeSet::from([value.clone()])),
            })
            .collect()
    }
}

/// As authors write it: `{ env: [dev, test], tier: db, zone: { not: eu-1 } }`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        write!(f, "{{ {} }}", texts.join(", "))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| match values.len() {
            1 => values.iter().cloned().collect(),
            _ => format!(
                "[{}]",
                values.iter().cloned().collect::<Vec<_>>().join(", ")
            ),
        };
        match &self.test {
            Test::In(values) => write!(f, "{}: {}", self.key, list(values)),
            Test::NotIn(values) => write!(f, "{}: {{ not: {} }}", self.key, list(values)),
            Test::Exists => write!(f, "{}: {{ exists: true }}", self.key),
            Test::DoesNotExist => write!(f, "{}: {{ exists: false }}", self.key),
        }
    }
}
