//! `cargo xtask test kernels`: the test of what depends on the kernel (`tests/tests/kernels.rs`), on the
//! kernel of this machine and on those of Debian's releases, each booted in an emulated machine.

mod archive;
mod image;
mod machine;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{cargo, command, root};

pub use archive::KEYRING as DEBIAN_KEYRING;

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

/// Runs the test on this machine's kernel and on Debian's.
///
/// # Errors
///
/// It fails on one of them.
pub fn run_on_all() -> Result<()> {
    command::run(cargo().args(["test", "--package", "bulkhead-tests", "--test", TEST]))?;
    run_on_debians()
}

/// Runs the test on Debian's kernels. The programs are built.
///
/// # Errors
///
/// It fails on one of them: what the emulated machine's console showed is printed.
pub fn run_on_debians() -> Result<()> {
    let programs = image::Programs::beside(&test_program()?)?;
    for kernel in &DEBIANS {
        let files = archive::Files::of(kernel)?;
        let initramfs = image::make(kernel, &files, &programs)?;
        machine::run(kernel, &files.image, &initramfs)?;
    }
    Ok(())
}

/// Builds the test, and finds its program in what cargo says.
fn test_program() -> Result<PathBuf> {
    let messages = command::output(
        cargo()
            .args(["test", "--package", "bulkhead-tests", "--test", TEST])
            .args(["--no-run", "--message-format=json"]),
    )?;
    let mut programs = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == TEST)
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    programs
        .next()
        .context("cargo has built no program of the test `kernels`")
}

/// Where what is made for a kernel's machine is, and what its console showed.
fn work_directory(kernel: &Kernel) -> PathBuf {
    root().join("target/kernels").join(kernel.version)
}
