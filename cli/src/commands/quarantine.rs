//! `bulkhead quarantine` and `bulkhead release`: cut a host off, at itself and at all its peers.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use proto::v1::{QuarantineRequest, ReleaseRequest};
use serde::Serialize;

use crate::{
    args::Waiting,
    exit::Outcome,
    operator::Controller,
    output::{Format, json_lines, printable},
    rollout::{self, Refusal, Rollout},
};

const QUARANTINE_EXAMPLES: &str = "\
Examples:
  bulkhead quarantine web-1 --reason \"INC-42: miner found\"
  bulkhead denials --follow --host web-1       what it tries from now on

Open connections are cut too. Exit code 1 when the host itself, or a peer that was connected, has not
confirmed in time or does not enforce it; what has confirmed stays cut.";

const RELEASE_EXAMPLES: &str = "\
Example:
  bulkhead release web-1";

#[derive(Debug, Args)]
#[command(after_help = QUARANTINE_EXAMPLES)]
pub struct Quarantine {
    /// The host's name
    host: String,
    /// Why; kept and shown
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: String,
    /// Also when the controller runs on that host, and every other host is cut off from it
    #[arg(long)]
    including_the_controller: bool,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
#[command(after_help = RELEASE_EXAMPLES)]
pub struct Release {
    /// The host's name
    host: String,
    #[command(flatten)]
    waiting: Waiting,
}

impl Quarantine {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub async fn run(&self, controller: &Controller, format: Format) -> Result<Outcome> {
        let request = QuarantineRequest {
            host: self.host.clone(),
            reason: self.reason.clone(),
            including_the_controller: self.including_the_controller,
        };
        let answer = controller
            .ask(
                "asking for the quarantine",
                controller.client().quarantine(request),
            )
            .await?;
        let change = Change {
            host: &self.host,
            changed: answer.changed,
            connected: answer.hosts_connected,
            done: if answer.changed {
                "is in quarantine"
            } else {
                "was in quarantine already"
            },
        };
        change.confirm(controller, self.waiting, format).await
    }
}

impl Release {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub async fn run(&self, controller: &Controller, format: Format) -> Result<Outcome> {
        let request = ReleaseRequest {
            host: self.host.clone(),
        };
        let answer = controller
            .ask(
                "asking for the release",
                controller.client().release(request),
            )
            .await?;
        let change = Change {
            host: &self.host,
            changed: answer.changed,
            connected: answer.hosts_connected,
            done: if answer.changed {
                "is released"
            } else {
                "was not in quarantine"
            },
        };
        change.confirm(controller, self.waiting, format).await
    }
}

/// What the controller has accepted and the hosts are to confirm.
struct Change<'a> {
    host: &'a str,
    changed: bool,
    /// The hosts that are to confirm it.
    connected: Vec<String>,
    done: &'a str,
}

#[derive(Serialize)]
struct ChangeLine<'a> {
    host: &'a str,
    changed: bool,
    #[serde(flatten)]
    rollout: Option<Rollout>,
}

impl Change<'_> {
    async fn confirm(
        self,
        controller: &Controller,
        waiting: Waiting,
        format: Format,
    ) -> Result<Outcome> {
        let Self {
            host,
            changed,
            connected,
            done,
        } = self;
        if format == Format::Table {
            writeln!(io::stdout(), "{host} {done}")?;
        }
        let rollout = match waiting.limit() {
            Some(limit) => Some(rollout::wait(controller, &connected, limit).await?),
            None => None,
        };
        let outcome = rollout.as_ref().map_or(Outcome::Fine, |rollout| {
            let itself = rollout.confirmed.iter().any(|name| name == host);
            rollout.outcome(rollout.is_complete() && itself)
        });
        if format == Format::Json {
            json_lines([ChangeLine {
                host,
                changed,
                rollout,
            }])?;
        } else if let Some(rollout) = rollout {
            print(host, rollout, &mut io::stdout().lock())?;
        }
        Ok(outcome)
    }
}

/// The host itself first: whether it has confirmed is what a responder wants to know.
fn print(host: &str, mut rollout: Rollout, out: &mut impl Write) -> io::Result<()> {
    let itself = if take(&mut rollout.confirmed, host) {
        "has confirmed".to_owned()
    } else if take(&mut rollout.away, host) {
        "is away: it learns of it when it is back, and its peers act now".to_owned()
    } else if take(&mut rollout.lost, host) {
        "went away before it confirmed: its peers act now".to_owned()
    } else if let Some(reason) = take_refusal(&mut rollout.refused, host) {
        format!("refused: {}", printable(&reason))
    } else if let Some(reason) = take_refusal(&mut rollout.not_protected, host) {
        format!(
            "does NOT enforce it: {}; its peers act now",
            printable(&reason)
        )
    } else {
        take(&mut rollout.waiting, host);
        "has not answered yet".to_owned()
    };
    writeln!(out, "{host} itself {itself}")?;
    rollout.print("connected peer", out)
}

/// As [`take`], with the reason.
fn take_refusal(refusals: &mut Vec<Refusal>, name: &str) -> Option<String> {
    let at = refusals.iter().position(|refusal| refusal.host == name)?;
    Some(refusals.remove(at).reason)
}

/// Removes the name from the list, and says whether it was there.
fn take(names: &mut Vec<String>, name: &str) -> bool {
    let at = names.iter().position(|other| other == name);
    at.map(|at| names.remove(at)).is_some()
}
