//! What is right and yet not what its author can have meant.
//!
//! A warning is never a guess: each follows from the set, and from the inventory where there is one.
//! What cannot be shown is not said.

mod cover;
mod covered;
mod exceptions;
mod matching;
mod open;
mod ranges;
mod rules;
mod segments;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Serialize;

use crate::{
    host_policy::Origin,
    inventory::Inventory,
    lint::{cover::Cover, rules::Written},
    problem::Problem,
    set::PolicySet,
    source::SourceFile,
    words::Timestamp,
};

/// One thing that is right and hardly meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it was written.
    pub origin: Arc<Origin>,
    /// What it is about.
    pub kind: Kind,
    /// What is the matter, lower case.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A rule that no flow can match.
    NeverMatches,
    /// A peer or port of a rule that no flow can match.
    DeadPart,
    /// A rule that another of its tier covers.
    Covered,
    /// A rule that a guardrail decides before.
    Pointless,
    /// A segment in which nobody is.
    EmptySegment,
    /// A segment that nothing names.
    UnusedSegment,
    /// A rule that allows the world on any port.
    AllowsTheWorld,
    /// An exception that has ended.
    Expired,
    /// An exception that ends soon.
    ExpiresSoon,
}

/// Finds what is hardly meant, sorted by file and line.
///
/// With an inventory also what selects nobody in it; the rest holds whoever exists. Comparing rules
/// takes bounded time: of a set that would need more some warnings of [`Kind::Covered`] and
/// [`Kind::Pointless`] are missing.
#[must_use]
pub fn lint(set: &PolicySet, inventory: Option<&Inventory>, now: Timestamp) -> Vec<Warning> {
    let written = rules::written(set);
    let mut warnings = segments::unused(set);
    warnings.extend(open::open(set, &written));
    warnings.extend(exceptions::ending(set, now));
    warnings.extend(matching::dead_parts(set, &written, inventory));
    if let Some(inventory) = inventory {
        let members = segments::Members::new(set, inventory);
        warnings.extend(segments::empty(set, &members));
        warnings.extend(matching::applies_to_nobody(set, &written, &members));
    }
    let mut found = matching::never(set, &written, inventory);
    let mut cover = Cover::new(set);
    found.extend(covered::covered(&written, &mut cover));
    found.extend(covered::pointless(&written, &mut cover));
    warnings.extend(of_whole_lines(&written, found));
    warnings.extend(exceptions::covered(set, now, &mut cover));
    warnings.extend(exceptions::pointless(set, &written, now, &mut cover));
    let place = |warning: &Warning| {
        let Origin { file, line, .. } = &*warning.origin;
        (file.clone(), *line, warning.kind, warning.message.clone())
    };
    warnings.sort_by_cached_key(place);
    warnings.dedup();
    warnings
}

/// Of what was found about rules, that which holds for all that one line of a file stands for, and
/// the first finding about each. What the rules of one `kind: Isolation` do to each other is not
/// its author's to mend.
fn of_whole_lines(written: &[Written<'_>], found: Vec<(usize, Warning)>) -> Vec<Warning> {
    let mut rules: BTreeMap<&Origin, usize> = BTreeMap::new();
    for rule in written.iter().flat_map(|policy| &policy.rules) {
        *rules.entry(rule.origin).or_default() += 1;
    }
    let mut first: BTreeMap<usize, Warning> = BTreeMap::new();
    for (rule, warning) in found {
        first.entry(rule).or_insert(warning);
    }
    let mut by_origin: BTreeMap<Arc<Origin>, Vec<Warning>> = BTreeMap::new();
    for warning in first.into_values() {
        let origin = Arc::clone(&warning.origin);
        by_origin.entry(origin).or_default().push(warning);
    }
    by_origin
        .into_iter()
        .filter(|(origin, warnings)| rules.get(&**origin) == Some(&warnings.len()))
        .filter_map(|(_, warnings)| warnings.into_iter().next())
        .collect()
}

impl Warning {
    /// The warning as a problem is shown, with its line of the files marked.
    #[must_use]
    pub fn as_problem(&self, files: &[SourceFile]) -> Problem {
        let (message, help) = (self.message.clone(), self.help.clone());
        Problem::of_line(&self.origin, files, message, Some(help))
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { file, line, .. } = &*self.origin;
        write!(f, "{file}:{line}: {}", self.message)
    }
}

/// A rule's name and place, as another warning refers to it.
fn place(origin: &Origin) -> String {
    format!("`{}` ({}:{})", origin.rule, origin.file, origin.line)
}
