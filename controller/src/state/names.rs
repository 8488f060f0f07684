//! Host names that are close to one that does not exist.

use super::State;

/// At most this many are named.
const MOST: usize = 3;

impl State {
    /// `there is no host X`, with the names that may have been meant.
    pub fn no_such_host(&self, wanted: &str) -> String {
        let mut near: Vec<_> = self
            .hosts()
            .map(|host| host.name.0.as_str())
            .map(|name| (distance(wanted, name), name))
            .filter(|(distance, name)| {
                *distance <= 1 + wanted.chars().count() / 3
                    || (!wanted.is_empty() && name.starts_with(wanted))
            })
            .collect();
        near.sort_unstable();
        let names: Vec<_> = near.into_iter().take(MOST).map(|(_, name)| name).collect();
        if names.is_empty() {
            format!("there is no host `{wanted}`: `bulkhead hosts` lists them")
        } else {
            format!(
                "there is no host `{wanted}`; did you mean {}?",
                names.join(", ")
            )
        }
    }
}

/// The fewest insertions, deletions and replacements that make one of the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
