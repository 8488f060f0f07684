//! `bulkhead policy check`: every mistake in the files at once, offline.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;
use policy::{PolicySet, Problem, Problems, parse};
use serde::Serialize;

use crate::{
    exit::Outcome,
    files,
    output::{Format, colour_on_stdout, count, json_lines, paint_problem, printable},
};

const EXAMPLES: &str = "\
Examples:
  bulkhead policy check policies/
  bulkhead policy check segments.yaml db.yaml -o json | jq -r .message

Exit code 1 when there is a mistake. With `-o json`, an object a mistake: no output means none.
Files without any Policy are right, but `apply` wants --allow-empty for them: a warning says so.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Check {
    /// Policy files, and directories of them (*.yaml, *.yml, *.json; all that is below)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Check {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub fn run(&self, format: Format) -> Result<Outcome> {
        match parse(&files::policies(&self.paths)?) {
            Ok(set) => {
                if format == Format::Table {
                    writeln!(io::stdout(), "{}: ok", summary(&set))?;
                }
                if set.policies.is_empty() {
                    eprintln!("warning: no policies: applied, it opens every host");
                }
                Ok(Outcome::Fine)
            }
            Err(problems) => {
                report(&problems, format)?;
                Ok(Outcome::No)
            }
        }
    }
}

/// `3 segments, 2 services, 4 policies`.
pub fn summary(set: &PolicySet) -> String {
    format!(
        "{}, {}, {}",
        count(set.segments.len(), "segment"),
        count(set.services.len(), "service"),
        count(set.policies.len(), "policy")
    )
}

/// Prints problems as the answer of a command.
pub fn report(Problems(problems): &Problems, format: Format) -> io::Result<()> {
    if format == Format::Json {
        return json_lines(problems.iter().map(ProblemLine::from));
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
    writeln!(out, "{}", count(problems.len(), "problem"))
}

#[derive(Serialize)]
struct ProblemLine<'a> {
    file: &'a str,
    line: u32,
    column: u32,
    message: &'a str,
    help: Option<&'a str>,
}

impl<'a> From<&'a Problem> for ProblemLine<'a> {
    fn from(problem: &'a Problem) -> Self {
        Self {
            file: &problem.file,
            line: problem.line,
            column: problem.column,
            message: &problem.message,
            help: problem.help.as_deref(),
        }
    }
}
