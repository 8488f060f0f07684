use proptest::{prop_assert_eq, proptest};

use super::distance;

/// The same distance from the whole table.
fn whole_table(word: &[char], candidate: &[char]) -> usize {
    let mut table = vec![vec![0; candidate.len() + 1]; word.len() + 1];
    for i in 0..=word.len() {
        for j in 0..=candidate.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let differs = !word[i - 1].eq_ignore_ascii_case(&candidate[j - 1]);
                let mut best = (table[i - 1][j - 1] + usize::from(differs))
                    .min(table[i - 1][j] + 1)
                    .min(table[i][j - 1] + 1);
                let swapped = i > 1
                    && j > 1
                    && word[i - 1] == candidate[j - 2]
                    && word[i - 2] == candidate[j - 1];
                if swapped {
                    best = best.min(table[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    table[word.len()][candidate.len()]
}

proptest! {
    #[test]
    fn the_band_is_as_good_as_the_table(
        word in "[abcA]{0,9}",
        candidate in "[abcA]{0,9}",
        limit in 0..4_usize,
    ) {
        let word: Vec<char> = word.chars().collect();
        let whole = whole_table(&word, &candidate.chars().collect::<Vec<_>>());
        prop_assert_eq!(
            distance(&word, &candidate, limit),
            Some(whole).filter(|edits| *edits <= limit)
        );
    }
}
