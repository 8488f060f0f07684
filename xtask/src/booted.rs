//! `cargo xtask test booted`: what `docs/install-systemd.md` says is typed, word for word, on Debian systems
//! that boot with systemd in emulated machines.

mod base;
mod machine;
mod network;
mod page;
mod scenario;
mod shell;

use std::{ffi::OsString, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result, ensure};

use crate::root;

use base::{Base, SUITES, Suite};

/// The word that asks for this test alone.
pub const TEST: &str = "booted";

/// Makes the base systems that are not there yet.
///
/// # Errors
///
/// None of the mirrors has one.
pub fn fetch_missing() -> Result<()> {
    SUITES
        .iter()
        .try_for_each(|suite| Base::of(suite).map(drop))
}

/// Runs the scenario with a host of each suite, or of those named. The programs are built. The controller's machine has
/// the other suite, so that each unit runs on each.
///
/// # Errors
///
/// It fails on one of them, or there is no such suite.
pub fn run_on(suites: &[OsString]) -> Result<()> {
    let [first, second] = &SUITES;
    let pairs: Vec<(&Suite, &Suite)> = [(first, second), (second, first)]
        .into_iter()
        .filter(|(host, _)| suites.is_empty() || suites.iter().any(|name| name == host.name))
        .collect();
    ensure!(
        suites.is_empty() || pairs.len() == suites.len(),
        "not all of these are tested: the suites are {}",
        SUITES.each_ref().map(|suite| suite.name).join(", ")
    );
    for (host, controller) in pairs {
        let started = Instant::now();
        eprintln!(
            "testing the handbook on a host with Debian {} and a controller with {}",
            host.name, controller.name
        );
        scenario::run(host, controller).with_context(|| {
            format!(
                "the test of a booted host with Debian {} failed; what its machines showed is in {}",
                host.name,
                work_directory(host).display()
            )
        })?;
        eprintln!(
            "passed on Debian {}, in {} s",
            host.name,
            started.elapsed().as_secs()
        );
    }
    Ok(())
}

/// Where the disks of a host's machines are, and what their consoles showed.
fn work_directory(host: &Suite) -> PathBuf {
    root().join("target/booted").join(host.name)
}
