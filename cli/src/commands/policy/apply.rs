//! `bulkhead policy apply`: files become the policy of all hosts.

mod warnings;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;
use policy::parse;
use proto::{
    convert::address_to_bytes,
    v1::{ApplyPolicyRequest, ApplyPolicyResponse, PolicyFile},
};
use serde::Serialize;

use self::warnings::Warnings;
use super::check;
use crate::{
    args::Waiting,
    exit::Outcome,
    files,
    operator::{Controller, online, origin},
    output::{Format, count, json_lines, printable},
    rollout::{self, Rollout},
};

const EXAMPLES: &str = "\
Examples:
  bulkhead policy apply policies/ --dry-run   check and compile, change nothing
  bulkhead policy apply policies/             and wait until every connected host has it

The files are the whole policy: what is not in them is gone. What opens every host, closes SSH to you
or cuts the controller off is refused, with exit code 77, until the option that names it is given.
Exit code 1 when the files have a mistake, a host refuses, or a host that was connected has not
confirmed in time or does not enforce it.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Apply {
    /// Policy files, and directories of them (*.yaml, *.yml, *.json; all that is below)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Have the controller check and compile, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// Apply also files without any Policy, which opens every host
    #[arg(long)]
    allow_empty: bool,
    /// Apply also what closes TCP 22 of a host to you, where it is open now and the host has no failsafe
    /// that covers you
    #[arg(long)]
    allow_lockout: bool,
    /// Apply also what cuts hosts off from the controller, by the policy of the host on which it runs
    #[arg(long)]
    including_the_controller: bool,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Serialize)]
struct Applied {
    revision: u64,
    hosts_changed: u32,
    dry_run: bool,
    #[serde(flatten)]
    warnings: Warnings,
    /// Not empty: the controller did nothing, until the command says that it is meant.
    refusals: Vec<String>,
    #[serde(flatten)]
    rollout: Option<Rollout>,
}

impl Apply {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub fn run<F>(&self, format: Format, connect: impl FnOnce() -> F) -> Result<Outcome>
    where
        F: Future<Output = Result<Controller>>,
    {
        let sources = files::policies(&self.paths)?;
        // A mistake is shown with its line before anything is sent.
        let set = match sources.parse(parse) {
            Ok(set) => set,
            Err(problems) => {
                check::report(&problems, format)?;
                return Ok(Outcome::No);
            }
        };
        let request = ApplyPolicyRequest {
            files: sources
                .files
                .into_iter()
                .map(|file| PolicyFile {
                    path: file.path,
                    content: file.content,
                })
                .collect(),
            dry_run: self.dry_run,
            allow_empty: self.allow_empty,
            allow_lockout: self.allow_lockout,
            including_the_controller: self.including_the_controller,
            operator_addresses: origin::own_ssh()
                .map(address_to_bytes)
                .into_iter()
                .collect(),
        };
        let summary = check::summary(&set);
        online(async {
            self.send(&connect().await?, request, &summary, format)
                .await
        })
    }

    async fn send(
        &self,
        controller: &Controller,
        request: ApplyPolicyRequest,
        summary: &str,
        format: Format,
    ) -> Result<Outcome> {
        let answer = controller
            .ask(
                "applying the policy",
                controller.client().apply_policy(request),
            )
            .await?;
        if !answer.problems.is_empty() {
            refuse(&answer.problems, answer.revision, format)?;
            return Ok(Outcome::No);
        }
        let warnings = Warnings::try_from(&answer)?;
        let is_refused = !answer.refusals.is_empty();
        if format == Format::Table {
            self.print_answer(&answer, &warnings, summary)?;
        }
        let rollout = match self.waiting.limit() {
            Some(limit) if !self.dry_run && !is_refused => {
                Some(rollout::wait(controller, &answer.hosts_connected, limit).await?)
            }
            _ => None,
        };
        let outcome = match &rollout {
            _ if is_refused => Outcome::Refused,
            Some(rollout) => rollout.outcome(rollout.is_complete()),
            None => Outcome::Fine,
        };
        if format == Format::Json {
            json_lines([Applied {
                revision: answer.revision,
                hosts_changed: answer.hosts_changed,
                dry_run: self.dry_run,
                warnings,
                refusals: answer.refusals,
                rollout,
            }])?;
            return Ok(outcome);
        }
        let mut out = io::stdout().lock();
        if let Some(rollout) = rollout {
            rollout.print("connected host", &mut out)?;
        }
        if !is_refused {
            warnings.print_open(&mut out)?;
        }
        Ok(outcome)
    }

    /// What is known before the waiting.
    fn print_answer(
        &self,
        answer: &ApplyPolicyResponse,
        warnings: &Warnings,
        summary: &str,
    ) -> io::Result<()> {
        let (revision, hosts_changed) = (answer.revision, answer.hosts_changed);
        let changed = count(hosts_changed as usize, "host");
        let mut out = io::stdout().lock();
        if !answer.refusals.is_empty() {
            warnings.print_lost(&mut out)?;
            for refusal in &answer.refusals {
                writeln!(out, "refused: {}", printable(refusal))?;
            }
            return writeln!(
                out,
                "nothing was changed: revision {revision} stays in force"
            );
        }
        if self.dry_run {
            writeln!(out, "{summary}: fits; the policy of {changed} would change")?;
        } else {
            writeln!(
                out,
                "revision {revision}: {summary}; the policy of {changed} changes"
            )?;
        }
        warnings.print_lost(&mut out)
    }
}

/// Prints what the controller found wrong.
fn refuse(problems: &[String], revision: u64, format: Format) -> io::Result<()> {
    if format == Format::Json {
        return json_lines(
            problems
                .iter()
                .map(|text| serde_json::json!({ "message": text })),
        );
    }
    let mut out = io::stdout().lock();
    for problem in problems {
        writeln!(out, "{}\n", printable(problem).trim_end())?;
    }
    writeln!(
        out,
        "refused: {}; revision {revision} stays in force",
        count(problems.len(), "problem")
    )
}
