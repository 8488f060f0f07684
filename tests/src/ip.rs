//! Running iproute2's `ip`.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Runs lines of `ip` commands in one process; in a namespace if one is named.
pub(crate) fn batch(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("running ip: install the package iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(lines.as_bytes())
            .context("writing commands to ip")?;
    }
    let output = child.wait_with_output().context("waiting for ip")?;
    ensure!(
        output.status.success(),
        "ip refused: {}\nof the commands\n{lines}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Runs one `ip` command and gives what it printed.
pub(crate) fn query(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("running ip: install the package iproute2")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
