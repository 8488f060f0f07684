//! `bulkhead status`: the controller's state in short.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use proto::v1::{StatusRequest, StatusResponse};
use serde::Serialize;

use crate::{
    exit::Outcome,
    operator::Controller,
    output::{Format, count, json_lines},
};

const EXAMPLES: &str = "\
Examples:
  bulkhead status
  bulkhead status -o json | jq .hosts_in_sync";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Status {}

#[derive(Serialize)]
struct StatusLine {
    controller_version: String,
    revision: u64,
    policies: u32,
    segments: u32,
    guardrails: u32,
    exceptions: u32,
    exceptions_ended: u32,
    baselines: u32,
    assertions: u32,
    hosts: u32,
    hosts_connected: u32,
    hosts_in_sync: u32,
    hosts_quarantined: u32,
    hosts_not_selected: u32,
    hosts_not_protected: u32,
    denials_kept: u64,
    denials_lost: u64,
    security_events: u64,
}

impl Status {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub async fn run(&self, controller: &Controller, format: Format) -> Result<Outcome> {
        let answer = controller
            .ask(
                "asking for the status",
                controller.client().status(StatusRequest {}),
            )
            .await?;
        let status = StatusLine::from(answer);
        match format {
            Format::Json => json_lines([status])?,
            Format::Table => status.print(&mut io::stdout().lock())?,
        }
        Ok(Outcome::Fine)
    }
}

impl StatusLine {
    /// What else is in force, where there is any.
    fn other_kinds(&self) -> String {
        let ended = match self.exceptions_ended {
            0 => String::new(),
            ended => format!(" ({ended} ended)"),
        };
        [
            (self.guardrails, "guardrail", ""),
            (self.exceptions, "exception", ended.as_str()),
            (self.baselines, "baseline", ""),
            (self.assertions, "assertion", ""),
        ]
        .into_iter()
        .filter(|(number, ..)| *number > 0)
        .map(|(number, noun, more)| format!(", {}{more}", count(number as usize, noun)))
        .collect()
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let revision = match self.revision {
            0 => "no policy yet".to_owned(),
            revision => format!(
                "revision {revision}: {}, {}{}",
                count(self.segments as usize, "segment"),
                count(self.policies as usize, "policy"),
                self.other_kinds()
            ),
        };
        writeln!(out, "controller       {}", self.controller_version)?;
        writeln!(out, "policy           {revision}")?;
        writeln!(
            out,
            "hosts            {}: {} connected, {} in sync, {} in quarantine",
            self.hosts, self.hosts_connected, self.hosts_in_sync, self.hosts_quarantined
        )?;
        if self.hosts_not_protected > 0 {
            writeln!(
                out,
                "                 {} NOT PROTECTED, or not everywhere: `bulkhead hosts` says why",
                self.hosts_not_protected
            )?;
        }
        if self.hosts_not_selected > 0 {
            writeln!(
                out,
                "                 {} open, as no policy that is enforced selects them",
                self.hosts_not_selected
            )?;
        }
        writeln!(
            out,
            "denials          {} kept, {} lost",
            self.denials_kept, self.denials_lost
        )?;
        writeln!(
            out,
            "security events  {} since the controller started",
            self.security_events
        )
    }
}

impl From<StatusResponse> for StatusLine {
    fn from(status: StatusResponse) -> Self {
        let StatusResponse {
            controller_version,
            revision,
            hosts,
            hosts_connected,
            hosts_in_sync,
            hosts_quarantined,
            denials_kept,
            denials_lost,
            security_events,
            policies,
            segments,
            guardrails,
            exceptions,
            exceptions_ended,
            baselines,
            assertions,
            hosts_not_selected,
            hosts_not_protected,
        } = status;
        Self {
            controller_version,
            revision,
            policies,
            segments,
            guardrails,
            exceptions,
            exceptions_ended,
            baselines,
            assertions,
            hosts,
            hosts_connected,
            hosts_in_sync,
            hosts_quarantined,
            hosts_not_selected,
            hosts_not_protected,
            denials_kept,
            denials_lost,
            security_events,
        }
    }
}
