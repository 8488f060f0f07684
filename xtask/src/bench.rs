//! `cargo xtask bench`: how fast things are, as a table for people or a JSON object a line.

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::Value;

use crate::{
    cargo, command, kernels, require_root,
    setup::{self, Purpose},
};

/// What is measured.
#[derive(Clone, Copy, ValueEnum)]
pub enum Subject {
    /// Compiling, keeping a fleet up to date, asking
    Policy,
    /// What a packet costs, beside nftables and iptables, and how soon a host enforces (as root)
    Datapath,
    /// Only how soon a host enforces after the agent's start, on Debian's kernels (as root)
    Startup,
}

/// Builds a benchmark optimised, runs it and prints what it measured.
///
/// # Errors
///
/// It does not build or does not run to its end, or prints something else than its contract says.
pub fn run(subject: Subject, json: bool) -> Result<()> {
    let (package, bench) = match subject {
        Subject::Policy => ("bulkhead-policy", "policy"),
        Subject::Datapath => {
            require_root("bench datapath")?;
            setup::ensure(Purpose::Bench)?;
            ("bulkhead-agent", "datapath")
        }
        Subject::Startup => {
            require_root("bench startup")?;
            setup::ensure(Purpose::Bench)?;
            return show(&kernels::measure_startup()?, json);
        }
    };
    let mut lines =
        command::output(cargo().args(["bench", "--package", package, "--bench", bench]))?;
    if matches!(subject, Subject::Datapath) {
        lines += &kernels::measure_startup()?;
    }
    show(&lines, json)
}

fn show(lines: &str, json: bool) -> Result<()> {
    if json {
        print!("{lines}");
        return Ok(());
    }
    let measures = lines
        .lines()
        .map(Measure::read)
        .collect::<Result<Vec<Measure>>>()?;
    print!("{}", table(&measures));
    Ok(())
}

/// One line of a benchmark.
struct Measure {
    name: String,
    value: f64,
    unit: String,
    rounds: u64,
}

impl Measure {
    fn read(line: &str) -> Result<Self> {
        let read = || {
            let measure: Value = serde_json::from_str(line).ok()?;
            Some(Self {
                name: measure["name"].as_str()?.to_owned(),
                value: measure["value"].as_f64()?,
                unit: measure["unit"].as_str()?.to_owned(),
                rounds: measure["rounds"].as_u64()?,
            })
        };
        read().with_context(|| format!("`{line}` is no measure"))
    }
}

fn table(measures: &[Measure]) -> String {
    let mut table = format!("{:<28} {:>12} {:<10} ROUNDS\n", "NAME", "MEDIAN", "UNIT");
    for Measure {
        name,
        value,
        unit,
        rounds,
    } in measures
    {
        let decimals = if *value < 100.0 { 2 } else { 0 };
        table += &format!("{name:<28} {value:>12.decimals$} {unit:<10} {rounds}\n");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_is_a_row() -> Result<()> {
        let line = r#"{"bench":"policy","name":"compile_3k_1k_ms","value":31.4159,"unit":"ms","rounds":15}"#;
        let table = table(&[Measure::read(line)?]);
        let row: Vec<&str> = table
            .lines()
            .last()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        assert_eq!(row, ["compile_3k_1k_ms", "31.42", "ms", "15"]);
        assert!(Measure::read("warning: slow").is_err());
        Ok(())
    }
}
