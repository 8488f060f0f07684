//! The part of `check` that warns of what is right and hardly meant.

use std::io::{self, Write};

use policy::{
    Inventory, PolicySet, Problem, SourceFile,
    lint::{self, Kind},
};
use serde::Serialize;

use super::{ProblemLine, Severity};
use crate::{
    output::{Format, count, json_lines, printable},
    time::now,
};

#[derive(Serialize)]
struct WarningLine<'a> {
    #[serde(flatten)]
    problem: ProblemLine<'a>,
    kind: Kind,
}

/// Prints the warnings, to stderr for people and as lines for programs, and says if there are any.
pub fn warn(
    set: &PolicySet,
    files: &[SourceFile],
    inventory: Option<&Inventory>,
    format: Format,
) -> io::Result<bool> {
    let is_open = set.policies.is_empty();
    if is_open {
        eprintln!("warning: no policies: applied, it opens every host");
    }
    let warnings = lint::lint(set, inventory, now());
    let found: Vec<(Kind, Problem)> = warnings
        .iter()
        .map(|warning| (warning.kind, warning.as_problem(files)))
        .collect();
    match format {
        Format::Json => json_lines(found.iter().map(|(kind, problem)| WarningLine {
            problem: ProblemLine::new(Severity::Warning, problem),
            kind: *kind,
        }))?,
        Format::Table => print(&found)?,
    }
    Ok(is_open || !found.is_empty())
}

fn print(found: &[(Kind, Problem)]) -> io::Result<()> {
    let mut out = io::stderr().lock();
    for (_, problem) in found {
        let text = printable(&problem.render());
        writeln!(out, "warning: {}\n", text.trim_end())?;
    }
    if !found.is_empty() {
        writeln!(out, "{}", count(found.len(), "warning"))?;
    }
    Ok(())
}
