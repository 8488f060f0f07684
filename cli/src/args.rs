//! The command line, as far as all commands share it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{commands, output::Format};

const EXAMPLES: &str = "\
Examples:
  bulkhead policy check policies/            every mistake in the files, with no controller
  bulkhead policy apply policies/            make them the policy of all hosts
  bulkhead token create --label tier=web     a one-time token that a new host enrols with
  bulkhead denials --follow --host db-1      what is denied at db-1, as it happens
  bulkhead quarantine web-1 --reason INC-42  cut a host off, at itself and at all its peers

Exit codes:
  0 fine   1 the answer is no   64 bad usage   69 controller unreachable   70 a bug
  77 refused: nothing was done   130 stopped waiting; the change is made";

const GLOBAL: &str = "Options of every command";

/// Host-level network micro-segmentation: check and apply policy, enrol hosts, see what is denied,
/// isolate a host.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, after_help = EXAMPLES)]
pub struct Cli {
    /// Where the controller is and who you are [default: ~/.config/bulkhead/operator.toml]
    #[arg(long, global = true, env = "BULKHEAD_OPERATOR", value_name = "FILE", help_heading = GLOBAL)]
    pub operator: Option<PathBuf>,
    /// Tables for people, or JSON for programs: an object a line
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = GLOBAL)]
    pub output: Format,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check, apply, ask: everything about policy files
    #[command(subcommand)]
    Policy(commands::policy::Command),
    /// List the hosts: who is there, and what each enforces
    Hosts(commands::hosts::Hosts),
    /// Tokens that new hosts enrol with
    #[command(subcommand)]
    Token(commands::token::Command),
    /// Show denied connections, each with the rule that denied it
    Denials(commands::denials::Denials),
    /// Cut a host off from everything, at itself and at all its peers
    Quarantine(commands::quarantine::Quarantine),
    /// End a quarantine
    Release(commands::quarantine::Release),
    /// Show the controller's state in short
    Status(commands::status::Status),
}

/// How long to wait for the hosts after a change.
#[derive(Clone, Copy, Debug, Args)]
pub struct Waiting {
    /// How long to wait for the connected hosts to confirm
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Return as soon as the controller has accepted the change
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
}

impl Waiting {
    /// The longest wait; none: do not wait.
    pub fn limit(self) -> Option<Duration> {
        (!self.no_wait).then_some(self.timeout)
    }
}

/// Reads `30s`, `10m`, `1h` or `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("write a number and s, m, h or d, such as 30s".to_owned()),
    };
    let number: u32 = number.parse().map_err(|_| {
        format!("`{number}` is not a whole number; write a duration such as 30s, 10m or 1h")
    })?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("2d").unwrap(), Duration::from_secs(172_800));
        for bad in [
            "",
            "30",
            "s",
            "-1s",
            "1.5h",
            "1w",
            "1h30m",
            "9999999999s",
            "1µ",
        ] {
            assert!(duration(bad).is_err(), "{bad} was accepted");
        }
    }
}
