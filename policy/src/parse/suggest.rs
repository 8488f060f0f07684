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
/// than upper and lower case; none above the limit. (Optimal string alignment distance, of which
/// only the band around the diagonal is computed that can stay within the limit.)
fn distance(word: &[char], candidate: &str, limit: usize) -> Option<usize> {
    let candidate: Vec<char> = candidate.chars().collect();
    let width = candidate.len();
    if word.len().abs_diff(width) > limit {
        return None;
    }
    let too_many = limit + 1;
    let mut before = vec![too_many; width + 1];
    let mut previous: Vec<usize> = (0..=width).map(|edits| edits.min(too_many)).collect();
    let mut row = vec![too_many; width + 1];
    for (i, from) in word.iter().enumerate() {
        row.fill(too_many);
        if i < limit {
            row[0] = i + 1;
        }
        for j in i.saturating_sub(limit)..width.min(i + limit + 1) {
            let to = candidate[j];
            let replaced = previous[j] + usize::from(!from.eq_ignore_ascii_case(&to));
            let mut best = replaced.min(previous[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == candidate[j - 1] && word[i - 1] == to {
                best = best.min(before[j - 1] + 1);
            }
            row[j + 1] = best;
        }
        if row.iter().all(|edits| *edits > limit) {
            return None;
        }
        // The oldest row is the next to be filled.
        std::mem::swap(&mut before, &mut previous);
        std::mem::swap(&mut previous, &mut row);
    }
    previous.last().copied().filter(|edits| *edits <= limit)
}

#[cfg(test)]
mod tests;
