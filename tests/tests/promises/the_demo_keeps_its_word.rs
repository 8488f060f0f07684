//! `cargo xtask demo --once` exits with 0 only if every row was as expected.

use std::process::Command;

use anyhow::{Context, Result, ensure};

#[test]
fn every_row_is_as_expected() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .arg("--once")
        .output()
        .context("running the demo")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}\n{said}\n{complained}",
        output.status
    );
    ensure!(
        !said.contains('\u{1b}'),
        "colours, and not on a terminal:\n{said}"
    );
    Ok(())
}
