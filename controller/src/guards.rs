//! What an operator is told before a change, and what is refused until the request says that it is meant.
//!
//! Everything here is a function of the state and of what was compiled: it asks nobody and changes
//! nothing.

mod lockout;
mod own_host;
mod selection;

pub use lockout::{lost_access, refusal as lockout_refusal};
pub use own_host::{cut_off, quarantine_refusal, runs_controller};
pub use selection::{Selection, selection};

/// More names than this are counted and not listed in a sentence.
const MOST_NAMES: usize = 8;

/// `a, b and c`, or `a, b, ... and 12 more`.
pub fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] if names.len() <= MOST_NAMES => {
            format!("{} and {last}", first.join(", "))
        }
        _ => format!(
            "{} and {} more",
            names[..MOST_NAMES].join(", "),
            names.len() - MOST_NAMES
        ),
    }
}

#[cfg(test)]
mod tests;
