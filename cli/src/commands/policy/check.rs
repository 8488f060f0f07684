//! `bulkhead policy check`: every mistake in the files at once, offline.

mod warnings;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;
use policy::{
    Inventory, PolicySet, Problem, Problems, SourceFile,
    assertion::{Vacuous, decide},
    parse,
};
use serde::Serialize;

use crate::{
    exit::Outcome,
    files,
    output::{Format, colour_on_stdout, count, json_lines, paint_problem, place, printable},
    time::now,
};

const EXAMPLES: &str = "\
Examples:
  bulkhead policy check policies/
  bulkhead policy check policies/ --inventory hosts.yaml --strict
  bulkhead policy check segments.yaml db.yaml -o json | jq -r .message

With an inventory the assertions are decided, over every flow there can be: one that fails is shown
with a flow that breaks it. Exceptions that have expired allow nothing there.

Exit code 1 when there is a mistake, or an assertion fails. Where there is no mistake, warnings tell
of what is right and hardly meant: rules that never match or that others cover, segments in which
nobody is, exceptions that end soon. They change the exit code only with --strict.
With `-o json`, an object a mistake, failure or warning, by its `severity`: no output means none.
Files without any Policy are right, but `apply` wants --allow-empty for them: a warning says so.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Check {
    /// Policy files, and directories of them (*.yaml, *.yml, *.json; all that is below)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The hosts (`hosts: [{name, addresses, labels}]`): decide the assertions for them, and warn also
    /// of rules and segments that none of them is in
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Exit with 1 also when there are warnings
    #[arg(long)]
    strict: bool,
}

impl Check {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub fn run(&self, format: Format) -> Result<Outcome> {
        let sources = files::policies(&self.paths)?;
        let files = &sources.files;
        match sources.parse(parse) {
            Ok(set) => {
                let inventory = self.inventory.as_deref().map(files::inventory);
                let inventory = inventory.transpose()?;
                let holds = match &inventory {
                    Some(inventory) => assertions(&set, files, inventory, format)?,
                    None => {
                        if !set.assertions.is_empty() {
                            let undecided = count(set.assertions.len(), "assertion");
                            eprintln!(
                                "note: {undecided} not decided: name the hosts with --inventory"
                            );
                        }
                        true
                    }
                };
                let warned = warnings::warn(&set, files, inventory.as_ref(), format)?;
                if holds && format == Format::Table {
                    writeln!(io::stdout(), "{}: ok", summary(&set))?;
                }
                Ok(Outcome::fine_if(holds && !(warned && self.strict)))
            }
            Err(problems) => {
                report(&problems, format)?;
                Ok(Outcome::No)
            }
        }
    }
}

/// Decides the assertions and prints those that fail; whether none does.
fn assertions(
    set: &PolicySet,
    files: &[SourceFile],
    inventory: &Inventory,
    format: Format,
) -> Result<bool> {
    let decided = decide(&set.clone().at(now()), inventory);
    for Vacuous { assertion, origin } in &decided.vacuous {
        let place = place(origin);
        eprintln!(
            "note: {place}: assertion `{assertion}` holds: there is no flow that it speaks of"
        );
    }
    let failures = &decided.failures;
    match format {
        Format::Json => {
            let problems: Vec<_> = failures.iter().map(|it| it.as_problem(files)).collect();
            let lines = failures.iter().zip(&problems);
            let lines = lines.map(|(failure, problem)| FailureLine {
                problem: ProblemLine::new(Severity::Error, problem),
                assertion: &failure.assertion,
            });
            json_lines(lines)?;
        }
        Format::Table => {
            let colour = colour_on_stdout();
            let mut out = io::stdout().lock();
            for failure in failures {
                let text = failure.as_problem(files).render();
                let painted = paint_problem(&printable(&text), colour);
                writeln!(out, "{}\n", painted.trim_end())?;
            }
            if !failures.is_empty() {
                let all = count(set.assertions.len(), "assertion");
                writeln!(out, "{} of {all} failed", failures.len())?;
            }
        }
    }
    Ok(failures.is_empty())
}

/// `3 segments, 2 services, 4 policies, 1 guardrail`: the first three, and of the others those
/// that there are.
pub fn summary(set: &PolicySet) -> String {
    let always = [
        (set.segments.len(), "segment"),
        (set.services.len(), "service"),
        (set.policies.len(), "policy"),
    ];
    let others = [
        (set.guardrails.len(), "guardrail"),
        (set.exceptions.len(), "exception"),
        (set.baselines.len(), "baseline"),
        (set.assertions.len(), "assertion"),
    ];
    let others = others.into_iter().filter(|(number, _)| *number > 0);
    let counts: Vec<_> = (always.into_iter().chain(others))
        .map(|(number, noun)| count(number, noun))
        .collect();
    counts.join(", ")
}

/// Prints problems as the answer of a command.
pub fn report(found: &Problems, format: Format) -> io::Result<()> {
    let Problems(problems) = found;
    if format == Format::Json {
        return json_lines(
            problems
                .iter()
                .map(|problem| ProblemLine::new(Severity::Error, problem)),
        );
    }
    let colour = colour_on_stdout();
    let mut out = io::stdout().lock();
    for problem in problems {
        writeln!(
            out,
            "{}\n",
            paint_problem(&printable(&problem.render()), colour).trim_end()
        )?;
    }
    writeln!(out, "{}", files::number(found))
}

/// An assertion that fails, for programs.
#[derive(Serialize)]
struct FailureLine<'a> {
    #[serde(flatten)]
    problem: ProblemLine<'a>,
    assertion: &'a str,
}

/// A mistake or a warning, for programs.
#[derive(Serialize)]
struct ProblemLine<'a> {
    severity: Severity,
    file: &'a str,
    line: u32,
    column: u32,
    message: &'a str,
    help: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Warning,
}

impl<'a> ProblemLine<'a> {
    fn new(severity: Severity, problem: &'a Problem) -> Self {
        Self {
            severity,
            file: &problem.file,
            line: problem.line,
            column: problem.column,
            message: &problem.message,
            help: problem.help.as_deref(),
        }
    }
}
