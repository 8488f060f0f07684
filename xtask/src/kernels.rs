//! `cargo xtask test kernels`: the test of what depends on the kernel (`tests/tests/kernels.rs`), on the
//! kernel of this machine and on those of Debian's releases, each booted in an emulated machine.

mod archive;
mod image;
mod machine;
mod startup;

use std::{ffi::OsString, path::PathBuf, process::Command, thread};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{cargo, command, root};

pub use archive::{KEYRING as DEBIAN_KEYRING, mirrors};
pub use startup::measure as measure_startup;

/// The test program's name.
pub const TEST: &str = "kernels";

/// A kernel of Debian's.
struct Kernel {
    /// The first two numbers of its version.
    version: &'static str,
    /// The suite of Debian's archive that has it.
    suite: &'static str,
}

/// The oldest that the agent accepts first.
const DEBIANS: [Kernel; 3] = [
    Kernel {
        version: "5.10",
        suite: "bullseye",
    },
    Kernel {
        version: "6.1",
        suite: "bookworm",
    },
    Kernel {
        version: "6.12",
        suite: "bookworm-backports",
    },
];

/// Gets the kernels that are not there yet.
///
/// # Errors
///
/// None of the mirrors has one, or not with the version that is expected.
pub fn fetch_missing() -> Result<()> {
    DEBIANS.iter().try_for_each(archive::fetch_if_missing)
}

/// Runs the test on this machine's kernel and on Debian's; with versions, only on those of Debian's.
///
/// # Errors
///
/// It fails on one of them, or there is no such version.
pub fn run_on(versions: &[OsString]) -> Result<()> {
    if versions.is_empty() {
        command::run(cargo().args(["test", "--package", "bulkhead-tests", "--test", TEST]))?;
        return run_on_all_debians();
    }
    let kernels: Vec<_> = DEBIANS
        .iter()
        .filter(|kernel| versions.iter().any(|version| version == kernel.version))
        .collect();
    ensure!(
        kernels.len() == versions.len(),
        "not all of these are tested: the kernels are {}",
        DEBIANS.each_ref().map(|kernel| kernel.version).join(", ")
    );
    run_on_debians(&kernels)
}

/// Runs the test on all of Debian's kernels. The programs are built.
///
/// # Errors
///
/// It fails on one of them.
pub fn run_on_all_debians() -> Result<()> {
    run_on_debians(&DEBIANS.each_ref())
}

fn run_on_debians(kernels: &[&Kernel]) -> Result<()> {
    let programs = image::Programs::beside(&test_program()?)?;
    eprintln!("testing on Debian's kernels in emulated machines");
    run_machines(kernels, &programs).map(drop)
}

/// Boots one machine for each kernel, all at once, as each takes one processor of this one; what the consoles showed.
fn run_machines(kernels: &[&Kernel], programs: &image::Programs) -> Result<Vec<String>> {
    let machines = kernels
        .iter()
        .map(|kernel| machine::Machine::new(kernel, programs))
        .collect::<Result<Vec<_>>>()?;
    let ended: Vec<_> = thread::scope(|scope| {
        let runs: Vec<_> = machines
            .iter()
            .map(|machine| scope.spawn(|| machine.run()))
            .collect();
        let join = |run: thread::ScopedJoinHandle<'_, Result<String>>| match run.join() {
            Ok(ended) => ended.map_err(|failure| format!("{failure:#}")),
            Err(_) => Err("a thread panicked".to_owned()),
        };
        runs.into_iter().map(join).collect()
    });
    let failures: Vec<_> = ended
        .iter()
        .filter_map(|ended| ended.as_ref().err())
        .collect();
    ensure!(
        failures.is_empty(),
        "{}",
        failures.into_iter().cloned().collect::<Vec<_>>().join("\n")
    );
    Ok(ended.into_iter().flatten().collect())
}

/// Builds the test, and finds its program in what cargo says.
fn test_program() -> Result<PathBuf> {
    let mut build = cargo();
    build
        .args(["test", "--package", "bulkhead-tests", "--test", TEST])
        .arg("--no-run");
    built(&mut build, TEST)
}

/// Builds something, and finds the program of this name in what cargo says.
fn built(build: &mut Command, name: &str) -> Result<PathBuf> {
    let messages = command::output(build.arg("--message-format=json"))?;
    let mut programs = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    let program = programs.next();
    program.with_context(|| format!("cargo has built no program `{name}`"))
}

/// Where what is made for a kernel's machine is, and what its console showed.
fn work_directory(kernel: &Kernel) -> PathBuf {
    root().join("target/kernels").join(kernel.version)
}
