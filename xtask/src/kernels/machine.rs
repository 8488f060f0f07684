//! An emulated machine: needs no virtualisation of this one, boots a kernel, runs the test and ends.

use std::{
    fs,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{Kernel, work_directory};
use crate::command;

/// A bound that only a machine that hangs exceeds.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the machine's first program says when the test has passed; no test says it by accident.
const PASSED: &str = "the-test-has-passed-on-this-kernel";

/// Boots a kernel, waits for the end of its machine, and looks whether the test has passed.
///
/// # Errors
///
/// It has not, or not in time: what the console showed is printed.
pub fn run(kernel: &Kernel, image: &Path, initramfs: &Path) -> Result<()> {
    let Kernel { version, suite } = kernel;
    let console = work_directory(kernel).join("console.log");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-accel", "tcg,thread=multi"])
        .args(["-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-display", "none"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        // What the kernel does not know of its command line becomes the first program's environment.
        .arg("-append")
        .arg(format!("console=ttyS0 quiet panic=-1 PASSED={PASSED}"));
    eprintln!("testing on Linux {version} of Debian {suite}");
    let started = Instant::now();
    let mut child = qemu
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("starting `{}`", command::line(&qemu)))?;
    let ended = wait(&mut child);
    let shown = fs::read(&console).with_context(|| format!("reading {}", console.display()))?;
    let shown = String::from_utf8_lossy(&shown);
    let passed = shown.lines().any(|line| line.trim() == PASSED);
    match ended? {
        Some(status) if status.success() && passed => {
            eprintln!("passed in {} s", started.elapsed().as_secs());
            return Ok(());
        }
        Some(status) => eprintln!("{shown}\n`{}`: {status}", command::line(&qemu)),
        None => eprintln!(
            "{shown}\n`{}` was ended after {} s",
            command::line(&qemu),
            PATIENCE.as_secs()
        ),
    }
    bail!(
        "the test of what depends on the kernel failed on Linux {version}: above is what the machine's console showed, also in {}",
        console.display()
    )
}

/// Waits for a child's end; `None` when it took too long and was killed.
fn wait(child: &mut Child) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().context("waiting for the machine")? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(100));
    }
    child
        .kill()
        .and_then(|()| child.wait())
        .context("ending the machine")?;
    Ok(None)
}
