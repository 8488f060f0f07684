//! "Did you mean": the closest of the words that are known.

/// Bytes of the longest word that is compared.
const LONGEST: usize = 320;
/// So many known words are compared.
const MOST: usize = 20_000;

/// Help that names the known word closest to `word`, if one is close.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    if word.len() > LONGEST {
        return None;
    }
    let word: Vec<char> = word.chars().collect();
    // A longer word has room for more slips; what differs in every letter is another word.
    let limit = word
        .len()
        .div_ceil(3)
        .min(3)
        .min(word.len().saturating_sub(1));
    known
        .into_iter()
        .take(MOST)
        .filter(|candidate| candidate.len() <= LONGEST)
        .filter_map(|candidate| Some((distance(&word, candidate, limit)?, candidate)))
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// The words in a row, for "one of".
pub(crate) fn one_of(known: &[&str]) -> String {
    let quoted: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// The least number of inserted, removed, replaced or swapped characters between two words, other
/// than upper and lower case; none above the limit. (Optimal string alignment distance.)
fn distance(word: &[char], candidate: &str, limit: usize) -> Option<usize> {
    let candidate: Vec<char> = candidate.chars().collect();
    if word.len().abs_diff(candidate.len()) > limit {
        return None;
    }
    let mut before = Vec::new();
    let mut previous: Vec<usize> = (0..=candidate.len()).collect();
    for (i, from) in word.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in candidate.iter().enumerate() {
            let replaced = previous[j] + usize::from(!from.eq_ignore_ascii_case(to));
            let mut best = replaced.min(previous[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == candidate[j - 1] && word[i - 1] == *to {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        if row.iter().all(|edits| *edits > limit) {
            return None;
        }
        before = std::mem::replace(&mut previous, row);
    }
    previous.last().copied().filter(|edits| *edits <= limit)
}
