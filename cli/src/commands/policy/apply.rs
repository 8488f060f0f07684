//! `bulkhead policy apply`: files become the policy of all hosts.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;
use policy::parse;
use proto::v1::{ApplyPolicyRequest, PolicyFile};
use serde::Serialize;

use super::check;
use crate::{
    args::Waiting,
    exit::{Failure, Outcome},
    files,
    operator::{Controller, online},
    output::{Format, count, json_lines, printable},
    rollout::{self, Rollout},
};

const EXAMPLES: &str = "\
Examples:
  bulkhead policy apply policies/ --dry-run   check and compile, change nothing
  bulkhead policy apply policies/             and wait until every connected host has it

The files are the whole policy: what is not in them is gone. Files without any Policy would open
every host, so they are refused unless --allow-empty says that it is meant.
Exit code 1 when the files or a host refuse, or a connected host has not answered in time.";

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
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Serialize)]
struct Applied {
    revision: u64,
    hosts_changed: u32,
    dry_run: bool,
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
        if set.policies.is_empty() && !self.allow_empty {
            return Err(Failure::refused(
                "no policies: applied, it opens every host; if you mean that, add --allow-empty",
            )
            .into());
        }
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
        let (revision, hosts_changed) = (answer.revision, answer.hosts_changed);
        if format == Format::Table {
            let changed = count(hosts_changed as usize, "host");
            if self.dry_run {
                writeln!(
                    io::stdout(),
                    "{summary}: fits; the policy of {changed} would change"
                )?;
            } else {
                writeln!(
                    io::stdout(),
                    "revision {revision}: {summary}; the policy of {changed} changes"
                )?;
            }
        }
        let rollout = match self.waiting.limit() {
            Some(limit) if !self.dry_run => Some(rollout::wait(controller, limit).await?),
            _ => None,
        };
        let complete = rollout.as_ref().is_none_or(Rollout::is_complete);
        if format == Format::Json {
            json_lines([Applied {
                revision,
                hosts_changed,
                dry_run: self.dry_run,
                rollout,
            }])?;
        } else if let Some(rollout) = rollout {
            rollout.print("connected host", &mut io::stdout().lock())?;
        }
        Ok(Outcome::fine_if(complete))
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
