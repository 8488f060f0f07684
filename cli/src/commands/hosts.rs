//! `bulkhead hosts`: who is there, and what each enforces.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use proto::{
    convert::address_from_bytes,
    v1::{HostStatus, Standing},
};
use serde::Serialize;

use crate::{
    exit::Outcome,
    operator::Controller,
    output::{Format, json_lines, list, printable, some, table},
    standing, time,
};

mod report;

use self::report::ReportLine;

const EXAMPLES: &str = "\
Examples:
  bulkhead hosts
  bulkhead hosts -o json | jq -r 'select(.in_sync | not) | .name'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Hosts {}

#[derive(Serialize)]
struct HostLine {
    name: String,
    identity: u32,
    labels: BTreeMap<String, String>,
    addresses: Vec<IpAddr>,
    refused_addresses: Vec<IpAddr>,
    connected: bool,
    /// Absent: never.
    last_seen: Option<Timestamp>,
    applied_revision: u64,
    in_sync: bool,
    refusal: Option<String>,
    quarantined: bool,
    quarantine_reason: Option<String>,
    agent_version: String,
    kernel_release: String,
    denials_lost: u64,
    packets_denied: u64,
    flows_percent: u32,
    /// How the host stands with the policy in force: see [`standing::word`].
    standing: &'static str,
    /// The controller runs on it.
    runs_controller: bool,
    /// Absent: its agent is older than host reports.
    report: Option<ReportLine>,
    #[serde(skip)]
    words: Standing,
}

impl Hosts {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub async fn run(&self, controller: &Controller, format: Format) -> Result<Outcome> {
        let hosts = controller
            .hosts()
            .await?
            .into_iter()
            .map(HostLine::try_from)
            .collect::<Result<Vec<_>>>()?;
        match format {
            Format::Json => json_lines(&hosts)?,
            Format::Table => {
                let now = Timestamp::now();
                table(
                    [
                        "NAME",
                        "STATE",
                        "POLICY",
                        "LABELS",
                        "ADDRESSES",
                        "DENIED",
                        "AGENT",
                        "KERNEL",
                    ],
                    hosts.iter().map(|host| host.row(now)),
                )?;
                for host in &hosts {
                    host.print_notes();
                }
                print_open(&hosts);
            }
        }
        Ok(Outcome::Fine)
    }
}

impl HostLine {
    fn row(&self, now: Timestamp) -> [String; 8] {
        [
            self.name.clone(),
            self.state(now),
            self.policy(),
            list(
                self.labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}")),
            ),
            some_addresses(&self.addresses),
            self.packets_denied.to_string(),
            self.agent_version.clone(),
            self.kernel_release.clone(),
        ]
    }

    fn state(&self, now: Timestamp) -> String {
        let state = match self.last_seen {
            _ if self.connected => standing::words(self.words).to_owned(),
            Some(seen) if standing::falls_short(self.words) => format!(
                "away {}, {}",
                time::since(seen, now),
                standing::words(self.words)
            ),
            Some(seen) => format!("away {}", time::since(seen, now)),
            None => "never seen".to_owned(),
        };
        if self.quarantined {
            format!("quarantined, {state}")
        } else {
            state
        }
    }

    fn policy(&self) -> String {
        match (self.applied_revision, self.in_sync, &self.refusal) {
            (revision, _, Some(_)) => format!("{revision}, newest refused"),
            (0, ..) if standing::falls_short(self.words) => "none".to_owned(),
            (0, ..) => "none yet".to_owned(),
            (revision, ..) if self.words == Standing::Pending && self.connected => {
                format!("{revision}, newer on its way")
            }
            (revision, ..) => revision.to_string(),
        }
    }

    /// What needs words, on stderr: the table stays a table.
    fn print_notes(&self) {
        let name = &self.name;
        if let Some(reason) = &self.quarantine_reason {
            eprintln!("{name} is in quarantine: {}", printable(reason));
        }
        if let Some(refusal) = &self.refusal {
            eprintln!("{name} refused its newest policy: {}", printable(refusal));
        }
        if standing::falls_short(self.words) {
            let why = match &self.report {
                Some(report) => report.explain(self.words),
                None => standing::explain(self.words, None),
            };
            eprintln!("{name}: {}", printable(&why));
        }
        if let Some(incident) = self.report.as_ref().and_then(ReportLine::newest_incident) {
            eprintln!("{name} reported at {}", printable(&incident));
        }
        if !self.refused_addresses.is_empty() {
            eprintln!(
                "{name} claims {}, which is not believed: allow the subnet in its token \
                 (`token create --allow-addresses`) and enrol it again, if the claim is right",
                some_addresses(&self.refused_addresses)
            );
        }
        if self.flows_percent >= 90 {
            eprintln!(
                "{name} has its flow table {}% full of live connections: give it more room with `maps.flows` in its agent's configuration",
                self.flows_percent
            );
        }
        if self.denials_lost > 0 {
            eprintln!(
                "{name} lost the details of {} denials; the counts hold",
                self.denials_lost
            );
        }
    }
}

impl TryFrom<HostStatus> for HostLine {
    type Error = anyhow::Error;

    fn try_from(host: HostStatus) -> Result<Self> {
        let words = host.standing();
        let HostStatus {
            name,
            identity,
            labels,
            addresses,
            refused_addresses,
            connected,
            last_seen_unix,
            applied_revision,
            in_sync,
            refusal,
            quarantined,
            agent_version,
            kernel_release,
            denials_lost,
            packets_denied,
            quarantine_reason,
            flows_percent,
            report,
            standing: _,
            runs_controller,
        } = host;
        let given = |text: String| (!text.is_empty()).then_some(text);
        let decode = |addresses: Vec<Vec<u8>>| -> Result<Vec<IpAddr>> {
            Ok(addresses
                .iter()
                .map(|bytes| address_from_bytes(bytes))
                .collect::<Result<_, _>>()?)
        };
        Ok(Self {
            name,
            identity,
            labels: labels.into_iter().collect(),
            addresses: decode(addresses)?,
            refused_addresses: decode(refused_addresses)?,
            connected,
            last_seen: time::from_unix(last_seen_unix)?,
            applied_revision,
            in_sync,
            refusal: given(refusal),
            quarantined,
            quarantine_reason: given(quarantine_reason),
            agent_version,
            kernel_release,
            denials_lost,
            packets_denied,
            flows_percent,
            standing: standing::word(words),
            runs_controller,
            report: report.map(ReportLine::try_from).transpose()?,
            words,
        })
    }
}

/// More addresses than this are counted in a table.
const MOST_ADDRESSES: usize = 4;

fn some_addresses(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        "-".to_owned()
    } else {
        some(addresses, MOST_ADDRESSES, " ")
    }
}

/// The hosts that a policy in force leaves open, in one line.
fn print_open(hosts: &[HostLine]) {
    let open: Vec<&str> = hosts
        .iter()
        .filter(|host| matches!(host.words, Standing::NotSelected | Standing::Observed))
        .map(|host| host.name.as_str())
        .collect();
    if !open.is_empty() {
        eprintln!(
            "open, as no policy that is enforced selects them: {}",
            some(&open, MOST_OPEN, ", ")
        );
    }
}

/// More open hosts than this are counted.
const MOST_OPEN: usize = 16;
