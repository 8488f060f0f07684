//! `cargo xtask check`: everything about the source that can be judged without running it.

mod direction;
mod house;

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    cargo, command, root,
    setup::{self, Purpose},
};

/// The kernel programs compile for another target, in a directory of their own.
const KERNEL_PROGRAMS: &str = "bulkhead-agent-ebpf";

type Check = (&'static str, fn() -> Result<()>);

/// Runs every check, also after one that failed.
///
/// # Errors
///
/// A check failed; each has said why.
pub fn run() -> Result<()> {
    setup::ensure(Purpose::Check)?;
    let checks: [Check; 6] = [
        ("formatting", formatting),
        ("clippy", clippy),
        (
            "clippy for the kernel programs",
            clippy_for_the_kernel_programs,
        ),
        ("dependency direction", dependency_direction),
        ("house rules", house_rules),
        ("licences, bans and sources of dependencies", dependencies),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        eprintln!("==> {name}");
        if let Err(error) = check() {
            eprintln!("{error:#}\n");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join("; "));
    }
    eprintln!("==> all checks passed");
    Ok(())
}

fn formatting() -> Result<()> {
    command::run(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    let hosts = ["--workspace", "--exclude", KERNEL_PROGRAMS, "--all-targets"];
    command::run(
        cargo()
            .arg("clippy")
            .args(hosts)
            .args(["--", "-D", "warnings"]),
    )
}

fn clippy_for_the_kernel_programs() -> Result<()> {
    let mut command = cargo();
    command
        .args(["clippy", "--package", KERNEL_PROGRAMS, "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(root().join("target/ebpf"))
        .args(["--", "-D", "warnings"])
        // `build-std` is what the stable compiler lacks this for.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        );
    command::run(&mut command)
}

fn dependency_direction() -> Result<()> {
    report(direction::findings(&metadata()?)?)
}

fn house_rules() -> Result<()> {
    report(house::findings(&root(), &metadata()?)?)
}

fn dependencies() -> Result<()> {
    let mut command = Command::new("cargo-deny");
    command
        .current_dir(root())
        .args(["--workspace", "check", "licenses", "bans", "sources"]);
    command::run(&mut command)
}

fn metadata() -> Result<Value> {
    let text = command::output(cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    serde_json::from_str(&text).context("reading what `cargo metadata` says")
}

fn report(findings: Vec<String>) -> Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{}", findings.join("\n"))
}
