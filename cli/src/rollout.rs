//! Waiting until hosts have what the controller sent them.

use std::{io, time::Duration};

use anyhow::Result;
use indicatif::ProgressBar;
use proto::v1::HostStatus;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    operator::Controller,
    output::{count, printable},
};

const FIRST_POLL: Duration = Duration::from_millis(50);
const SLOWEST_POLL: Duration = Duration::from_secs(1);

/// More confirmed hosts than this are counted and not named; the others are always named.
const MOST_NAMES: usize = 16;

/// Where each host stands with its newest policy; names in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rollout {
    /// Enforce it.
    pub confirmed: Vec<String>,
    /// Connected, and have not answered yet.
    pub waiting: Vec<String>,
    /// Said no, and enforce what they had before.
    pub refused: Vec<Refusal>,
    /// Not connected: they get it when they are back.
    pub away: Vec<String>,
}

/// A host that did not take its policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Its name.
    pub host: String,
    /// In the words of its agent.
    pub reason: String,
}

impl Rollout {
    fn of(hosts: Vec<HostStatus>) -> Self {
        let mut rollout = Self::default();
        for host in hosts {
            if !host.connected {
                rollout.away.push(host.name);
            } else if host.in_sync {
                rollout.confirmed.push(host.name);
            } else if !host.refusal.is_empty() {
                rollout.refused.push(Refusal {
                    host: host.name,
                    reason: host.refusal,
                });
            } else {
                rollout.waiting.push(host.name);
            }
        }
        rollout
    }

    /// Whether every connected host has it.
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty() && self.refused.is_empty()
    }

    /// What people read; `hosts` is what the lists hold, as in `connected host`.
    pub fn print(&self, hosts: &str, out: &mut impl io::Write) -> io::Result<()> {
        let confirmed = self.confirmed.len();
        let all = count(confirmed + self.waiting.len() + self.refused.len(), hosts);
        let names = match confirmed {
            1..=MOST_NAMES => format!(": {}", self.confirmed.join(", ")),
            _ => String::new(),
        };
        writeln!(out, "confirmed by {confirmed} of {all}{names}")?;
        for Refusal { host, reason } in &self.refused {
            writeln!(out, "refused by {host}: {}", printable(reason))?;
        }
        if !self.waiting.is_empty() {
            writeln!(out, "no answer yet from {}", self.waiting.join(", "))?;
        }
        if !self.away.is_empty() {
            writeln!(
                out,
                "away, and told when they are back: {}",
                self.away.join(", ")
            )?;
        }
        Ok(())
    }
}

/// Asks until every connected host has answered, at most `limit`. Shows progress on a terminal.
pub async fn wait(controller: &Controller, limit: Duration) -> Result<Rollout> {
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(100));
    let end = Instant::now() + limit;
    let mut pause = FIRST_POLL;
    loop {
        let rollout = Rollout::of(controller.hosts().await?);
        let left = end.saturating_duration_since(Instant::now());
        if rollout.waiting.is_empty() || left.is_zero() {
            progress.finish_and_clear();
            return Ok(rollout);
        }
        progress.set_message(format!(
            "{} to confirm, {} s left",
            count(rollout.waiting.len(), "host"),
            left.as_secs()
        ));
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(SLOWEST_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, connected: bool, in_sync: bool, refusal: &str) -> HostStatus {
        let (name, refusal) = (name.to_owned(), refusal.to_owned());
        HostStatus {
            name,
            connected,
            in_sync,
            refusal,
            ..HostStatus::default()
        }
    }

    #[test]
    fn every_host_is_in_exactly_one_list() {
        let rollout = Rollout::of(vec![
            host("a", true, true, ""),
            host("b", true, false, ""),
            host("c", true, false, "too large"),
            host("d", false, true, ""),
            host("e", false, false, "too large"),
        ]);
        assert_eq!(rollout.confirmed, ["a"]);
        assert_eq!(rollout.waiting, ["b"]);
        assert_eq!(
            rollout.refused,
            [Refusal {
                host: "c".into(),
                reason: "too large".into()
            }]
        );
        assert_eq!(rollout.away, ["d", "e"]);
        assert!(!rollout.is_complete());
    }
}
