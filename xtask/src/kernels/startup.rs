//! How long the shipped agent takes from its start until it enforces, in emulated machines: their clock counts
//! instructions, so a figure does not depend on how busy this machine is. It is told beside the time that the kernel
//! takes from its start to its first program in the same machine, which says what the figure means on a slow host.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{DEBIANS, built, image::Programs, run_machines};
use crate::cargo;

/// The program of `bulkhead-tests` that measures.
const PROGRAM: &str = "startup";
/// What begins its line on the console.
const MEASURED: &str = "startup-measured ";

/// Measures on each of Debian's kernels; a JSON object a line.
///
/// # Errors
///
/// Something does not build, or a machine does not measure.
pub fn measure() -> Result<String> {
    super::fetch_missing()?;
    let agent = built(
        cargo().args(["build", "--release", "--package", "bulkhead-agent"]),
        "bulkhead-agent",
    )?;
    // The laboratory around it may be slow: only the agent is measured.
    crate::command::run(cargo().arg("build").arg("--quiet"))?;
    let program = built(
        cargo().args(["build", "--package", "bulkhead-tests", "--bin", PROGRAM]),
        PROGRAM,
    )?;
    let directory = program.parent().context("a program without a directory")?;
    let programs = Programs::new(PROGRAM, &program, directory)?.with("bulkhead-agent", agent);
    let consoles = run_machines(&DEBIANS.each_ref(), &programs)?;

    let mut lines = String::new();
    let mut line = |name: &str, value: f64, unit: &str, rounds: u64| {
        let line = json!({
            "bench": "datapath", "name": name, "value": value, "unit": unit, "rounds": rounds,
        });
        lines += &format!("{line}\n");
    };
    let mut slowest = (0.0, 0.0, 0);
    for (kernel, console) in DEBIANS.iter().zip(&consoles) {
        let (boot, start, rounds) = read(console)
            .with_context(|| format!("Linux {} has measured nothing", kernel.version))?;
        let version = kernel.version.replace('.', "_");
        line(
            &format!("start_to_enforced_{version}_ms"),
            start,
            "ms",
            rounds,
        );
        line(&format!("kernel_boot_{version}_ms"), boot, "ms", rounds);
        line(
            &format!("start_to_enforced_{version}_vs_boot"),
            start / boot,
            "ratio",
            rounds,
        );
        if start > slowest.0 {
            slowest = (start, start / boot, rounds);
        }
    }
    line("start_to_enforced_ms", slowest.0, "ms", slowest.2);
    line("start_to_enforced_vs_boot", slowest.1, "ratio", slowest.2);
    Ok(lines)
}

/// The time of the kernel's boot and that of the agent's start, in milliseconds, and the rounds.
fn read(console: &str) -> Option<(f64, f64, u64)> {
    let line = console
        .lines()
        .find_map(|line| line.trim().strip_prefix(MEASURED))?;
    let mut words = line.split(' ');
    Some((
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_measurement_is_read_from_the_console() {
        let console = "Linux 6.1\r\nstartup-measured 812.5 1630.0 3\r\npassed\r\n";
        assert_eq!(read(console), Some((812.5, 1630.0, 3)));
        assert_eq!(read("Linux 6.1\r\n"), None);
    }
}
