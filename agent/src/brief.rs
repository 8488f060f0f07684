//! Lists in log lines: as much of them as a person reads.

use std::{collections::BTreeSet, fmt::Display};

/// How many items are named.
const NAMED: usize = 8;

/// The first items, and how many there are beyond them: `eth0, eth1 and 498 more`.
pub fn brief<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut items = items.into_iter();
    let named: Vec<String> = items
        .by_ref()
        .take(NAMED)
        .map(|item| item.to_string())
        .collect();
    let named = named.join(", ");
    match items.count() {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// What a list has that it did not have, and what it has no more; none where it is the same.
pub fn difference<T: Display + Ord>(before: &[T], after: &[T]) -> Option<String> {
    let [before, after] = [before, after].map(|list| list.iter().collect::<BTreeSet<&T>>());
    let parts: Vec<String> = [("new", &after - &before), ("gone", &before - &after)]
        .into_iter()
        .filter(|(_, items)| !items.is_empty())
        .map(|(word, items)| format!("{word}: {}", brief(items)))
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_two_thousand_addresses_by_one_names_that_one() {
        let before: Vec<u32> = (0..2000).collect();
        let mut after = before.clone();
        after.push(2000);
        assert_eq!(difference(&before, &after).as_deref(), Some("new: 2000"));
        assert_eq!(difference(&after, &before).as_deref(), Some("gone: 2000"));
        assert_eq!(difference(&before, &before), None);
        let all = difference(&[], &before).unwrap_or_default();
        assert_eq!(all, "new: 0, 1, 2, 3, 4, 5, 6, 7 and 1992 more");
        assert_eq!(
            difference(&[1, 2], &[2, 3]).as_deref(),
            Some("new: 3; gone: 1")
        );
    }
}
