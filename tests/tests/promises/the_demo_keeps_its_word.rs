//! The demo shows what it says, its exit code tells whether every row was as expected, and it leaves
//! nothing behind.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use lab::{LONG, wait_for};
use rustix::process::{Pid, Signal, kill_process};

/// The demo's namespaces have names of their own, so there is one demo at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The parts of the tour, in order.
const HEADINGS: [&str; 6] = [
    "A router and three hosts, in network namespaces",
    "A policy for the three tiers",
    "Real servers, real clients",
    "Every denial names its rule",
    "Revoked means cut: a live connection loses its rule",
    "Quarantine: nothing reaches web-1, and it reaches nothing",
];

/// Rows of the scenes with flows, each over both families; those about denials and about the open
/// connection.
const ROWS: usize = (12 + 8 + 5) * 2 + 2 + 3;

/// Steps have a tick, and no expectation.
const STEPS: usize = 5;

/// What the demo says before it waits for Ctrl-C.
const INVITATION: &str = "Ctrl-C ends it";

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(arguments);
    command
}

/// A tour to its end, on which everything was as expected.
fn expect_tour(said: &str) -> Result<()> {
    let mut rest = said;
    for heading in HEADINGS {
        let line = format!("\n{heading}\n");
        let (_, behind) = rest
            .split_once(&line)
            .with_context(|| format!("no heading {heading:?}, or not in its place:\n{said}"))?;
        rest = behind;
    }
    let ticks = said.lines().filter(|line| line.starts_with("  ✓ ")).count();
    ensure!(
        ticks == ROWS + STEPS,
        "{ticks} ticks, not {ROWS} for rows and {STEPS} for steps:\n{said}"
    );
    ensure!(!said.contains('✗'), "a surprise:\n{said}");
    ensure!(
        rest.contains(&format!("\nAll {ROWS} as expected\n")),
        "no tally:\n{said}"
    );
    ensure!(
        !said.contains('\u{1b}'),
        "colours, and not on a terminal:\n{said}"
    );
    Ok(())
}

#[test]
fn every_row_is_as_expected() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let output = demo(&["--once"]).output().context("running the demo")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    expect_tour(&said)
}

#[test]
fn it_stays_up_until_ctrl_c_and_leaves_nothing_behind() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut demo = Running(
        demo(&[])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("running the demo")?,
    );
    let mut output = BufReader::new(demo.0.stdout.take().context("the demo has no output")?);
    let mut said = String::new();
    while !said.contains(INVITATION) {
        ensure!(
            output.read_line(&mut said)? > 0,
            "the demo ended before it invited:\n{said}"
        );
    }
    expect_tour(&said)?;
    let directory = said
        .split_once("BULKHEAD_OPERATOR=")
        .and_then(|(_, path)| path.split_once("/controller/"))
        .map(|(directory, _)| directory.to_owned())
        .with_context(|| format!("no operator's file to try:\n{said}"))?;
    // It is all there, so that what is looked for below would be found.
    let left = remains(&directory)?;
    for kind in ["namespace", "mount", "process", "directory"] {
        ensure!(
            left.iter().any(|thing| thing.starts_with(kind)),
            "no {kind} while the demo runs: {left:#?}"
        );
    }

    kill_process(Pid::from_child(&demo.0), Signal::INT)?;
    output.read_to_string(&mut said)?;
    let status = demo.end()?;
    ensure!(status.success(), "{status}\n{said}");
    let left = remains(&directory)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

/// Namespaces, mounts, processes and the directory of a demo.
fn remains(directory: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/run/netns").context("listing the namespaces")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("bulkhead-") {
            found.push(format!("namespace {name}"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let ours = mounts
        .lines()
        .filter(|line| line.contains(directory) || line.contains("/run/netns/bulkhead-"));
    found.extend(ours.map(|line| format!("mount {line}")));
    for entry in fs::read_dir("/proc")? {
        // A process may end while it is looked at.
        let command_line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
        if command_line.contains(directory) {
            found.push(format!("process {command_line}"));
        }
    }
    if Path::new(directory).exists() {
        found.push(format!("directory {directory}"));
    }
    Ok(found)
}

/// A demo that runs. One that a failing test leaves is told to end, and cleans up.
struct Running(Child);

impl Running {
    fn end(&mut self) -> Result<ExitStatus> {
        wait_for("the end of the demo", LONG, || Ok(self.0.try_wait()?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
            let _ = self.end();
        }
    }
}
