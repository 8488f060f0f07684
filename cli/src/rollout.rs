//! Waiting until hosts have what the controller sent them.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Result;
use indicatif::ProgressBar;
use proto::v1::HostStatus;
use serde::Serialize;
use tokio::{
    signal::ctrl_c,
    time::{Instant, sleep},
};

use crate::{
    exit::Outcome,
    operator::Controller,
    output::{count, printable, some},
    standing,
};

const FIRST_POLL: Duration = Duration::from_millis(50);
const SLOWEST_POLL: Duration = Duration::from_secs(1);

/// More confirmed hosts than this are counted and not named.
const MOST_CONFIRMED: usize = 16;
/// More hosts than this in any other list are counted.
const MOST_NAMES: usize = 64;

/// Where each host stands with its newest policy; names in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rollout {
    /// Enforce it.
    pub confirmed: Vec<String>,
    /// Connected, and have not answered yet.
    pub waiting: Vec<String>,
    /// Said no, and enforce what they had before.
    pub refused: Vec<Refusal>,
    /// Have it and enforce none of it, or not everywhere.
    pub not_protected: Vec<Refusal>,
    /// Were connected when the change was made, went away and have not confirmed it.
    pub lost: Vec<String>,
    /// Were not connected when the change was made: they get it when they are back.
    pub away: Vec<String>,
    /// The operator stopped waiting (Ctrl-C).
    pub interrupted: bool,
}

/// A host that did not take its policy, or does not enforce it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Its name.
    pub host: String,
    /// Why, in the words of its agent.
    pub reason: String,
}

impl Rollout {
    /// `expected` were connected when the change was made. `seen` confirmed it at an earlier look.
    fn of(
        hosts: Vec<HostStatus>,
        expected: &BTreeSet<String>,
        seen: &mut BTreeSet<String>,
    ) -> Self {
        let mut rollout = Self::default();
        for host in hosts {
            let shortcoming = standing::shortcoming(&host);
            let name = host.name;
            if !host.connected {
                // What an agent has confirmed goes on being enforced without it.
                if seen.contains(&name) {
                    rollout.confirmed.push(name);
                } else if expected.contains(&name) {
                    rollout.lost.push(name);
                } else {
                    rollout.away.push(name);
                }
                continue;
            }
            if let Some(reason) = shortcoming {
                rollout.not_protected.push(Refusal { host: name, reason });
            } else if host.in_sync {
                seen.insert(name.clone());
                rollout.confirmed.push(name);
            } else if !host.refusal.is_empty() {
                let reason = host.refusal;
                rollout.refused.push(Refusal { host: name, reason });
            } else {
                rollout.waiting.push(name);
            }
        }
        rollout
    }

    /// Whether every host that was connected, or is now, has confirmed it.
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty()
            && self.refused.is_empty()
            && self.not_protected.is_empty()
            && self.lost.is_empty()
    }

    /// How the command ends that waited for it; `complete` is what it waited for.
    pub fn outcome(&self, complete: bool) -> Outcome {
        if self.interrupted && !complete {
            Outcome::Interrupted
        } else {
            Outcome::fine_if(complete)
        }
    }

    /// What people read; `hosts` is what the lists hold, as in `connected host`.
    pub fn print(&self, hosts: &str, out: &mut impl io::Write) -> io::Result<()> {
        let Self {
            confirmed,
            waiting,
            refused,
            not_protected,
            lost,
            away,
            interrupted: _,
        } = self;
        let number = confirmed.len();
        let all = number + waiting.len() + refused.len() + not_protected.len() + lost.len();
        let names = match number {
            1..=MOST_CONFIRMED => format!(": {}", confirmed.join(", ")),
            _ => String::new(),
        };
        writeln!(out, "confirmed by {number} of {}{names}", count(all, hosts))?;
        reasons(out, "refused by", refused)?;
        reasons(out, "NOT PROTECTED:", not_protected)?;
        for (text, names) in [
            ("no answer in time from", waiting),
            ("went away before confirming:", lost),
            ("away, and told when they are back:", away),
        ] {
            if !names.is_empty() {
                writeln!(out, "{text} {}", some(names, MOST_NAMES, ", "))?;
            }
        }
        if !self.is_complete() {
            writeln!(
                out,
                "`bulkhead hosts` shows how each of them is; what has confirmed stays as it is"
            )?;
        }
        Ok(())
    }
}

/// A line for each host, as far as a person reads.
fn reasons(out: &mut impl io::Write, text: &str, refusals: &[Refusal]) -> io::Result<()> {
    for Refusal { host, reason } in refusals.iter().take(MOST_NAMES) {
        writeln!(out, "{text} {host}: {}", printable(reason))?;
    }
    if refusals.len() > MOST_NAMES {
        writeln!(out, "{text} {} more", refusals.len() - MOST_NAMES)?;
    }
    Ok(())
}

/// Asks until every host that was connected when the change was made (`expected`), or is now, has
/// answered; at most `limit`, or until Ctrl-C. Shows progress on a terminal.
///
/// # Errors
/// As [`Controller::hosts`].
pub async fn wait(
    controller: &Controller,
    expected: &[String],
    limit: Duration,
) -> Result<Rollout> {
    let expected: BTreeSet<String> = expected.iter().cloned().collect();
    let mut seen = BTreeSet::new();
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(100));
    let end = Instant::now() + limit;
    let mut pause = FIRST_POLL;
    let mut interrupted = false;
    let mut interrupt = std::pin::pin!(ctrl_c());
    loop {
        let mut rollout = Rollout::of(controller.hosts().await?, &expected, &mut seen);
        rollout.interrupted = interrupted;
        let left = end.saturating_duration_since(Instant::now());
        let open = rollout.waiting.len() + rollout.lost.len();
        if open == 0 || left.is_zero() || interrupted {
            progress.finish_and_clear();
            if interrupted {
                writeln!(
                    io::stderr(),
                    "interrupted: the change is made and goes on; only the waiting has ended"
                )?;
            }
            return Ok(rollout);
        }
        progress.set_message(format!(
            "{} to confirm, {} s left",
            count(open, "host"),
            left.as_secs()
        ));
        tokio::select! {
            () = sleep(pause.min(left)) => {}
            // If the signal cannot be listened for, it ends the process as it always does.
            _ = &mut interrupt => interrupted = true,
        }
        pause = (pause * 2).min(SLOWEST_POLL);
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::Standing;

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

    fn detached(name: &str) -> HostStatus {
        HostStatus {
            standing: Standing::Detached.into(),
            ..host(name, true, false, "")
        }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn every_host_is_in_exactly_one_list() {
        let rollout = Rollout::of(
            vec![
                host("a", true, true, ""),
                host("b", true, false, ""),
                host("c", true, false, "too large"),
                host("d", false, true, ""),
                host("e", false, false, "too large"),
                detached("f"),
                host("g", false, false, ""),
                host("h", false, false, ""),
            ],
            &set(&["a", "b", "g", "h"]),
            &mut set(&["h"]),
        );
        assert_eq!(rollout.confirmed, ["a", "h"]);
        assert_eq!(rollout.waiting, ["b"]);
        assert_eq!(
            rollout.refused,
            [Refusal {
                host: "c".into(),
                reason: "too large".into()
            }]
        );
        assert_eq!(rollout.not_protected[0].host, "f");
        assert_eq!(rollout.lost, ["g"]);
        assert_eq!(rollout.away, ["d", "e"]);
        assert!(!rollout.is_complete());
    }

    #[test]
    fn only_hosts_that_were_away_from_the_beginning_are_not_waited_for() {
        let of = |expected: &[&str]| {
            let hosts = vec![host("a", true, true, ""), host("b", false, true, "")];
            Rollout::of(hosts, &set(expected), &mut BTreeSet::new())
        };
        assert!(of(&["a"]).is_complete());
        assert!(!of(&["a", "b"]).is_complete());
        let hosts = vec![host("a", true, true, ""), detached("c")];
        let rollout = Rollout::of(hosts, &BTreeSet::new(), &mut BTreeSet::new());
        assert!(!rollout.is_complete(), "{rollout:?}");
    }

    #[test]
    fn a_host_that_confirmed_and_is_no_longer_protected_does_not_count() {
        let mut seen = set(&["f"]);
        let rollout = Rollout::of(vec![detached("f")], &set(&["f"]), &mut seen);
        assert!(rollout.confirmed.is_empty(), "{rollout:?}");
    }

    #[test]
    fn long_lists_are_counted() {
        let rollout = Rollout {
            waiting: (0..2_000).map(|number| format!("h{number}")).collect(),
            ..Rollout::default()
        };
        let mut out = Vec::new();
        assert!(rollout.print("connected host", &mut out).is_ok());
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("h63 and 1936 more\n"), "{text}");
        assert!(!text.contains("h64"), "{text}");
    }
}
