//! An emulated machine: needs no virtualisation of this one, boots a kernel, runs a program and ends.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Kernel,
    archive::Files,
    image::{self, Programs},
    work_directory,
};
use crate::command;

/// A bound that only a machine that hangs exceeds; its first program has one for the test, by its own
/// clock.
const PATIENCE: Duration = Duration::from_secs(2400);
/// What the machine's first program says when the test has passed; no test says it by accident.
const PASSED: &str = "the-test-has-passed-on-this-kernel";

/// A machine that is ready to boot.
pub struct Machine<'a> {
    kernel: &'a Kernel,
    image: PathBuf,
    initramfs: PathBuf,
    /// What its first program runs.
    main: &'static str,
}

impl<'a> Machine<'a> {
    /// Makes the initramfs for a kernel that is unpacked.
    ///
    /// # Errors
    ///
    /// A part of it is missing.
    pub fn new(kernel: &'a Kernel, programs: &Programs) -> Result<Self> {
        let files = Files::of(kernel)?;
        Ok(Self {
            kernel,
            initramfs: image::make(kernel, &files, programs)?,
            image: files.image,
            main: programs.main,
        })
    }

    /// Boots, waits for the end, and looks whether the program has ended well; what the console showed.
    ///
    /// # Errors
    ///
    /// It has not, or not in time: what the console showed is printed.
    pub fn run(&self) -> Result<String> {
        let Kernel { version, suite } = self.kernel;
        let console = work_directory(self.kernel).join("console.log");
        let mut qemu = self.command(&console);
        let started = Instant::now();
        let mut child = qemu
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("starting `{}`", command::line(&qemu)))?;
        let ended = wait(&mut child)?;
        let seconds = started.elapsed().as_secs();
        let shown = fs::read(&console).with_context(|| format!("reading {}", console.display()))?;
        let shown = String::from_utf8_lossy(&shown);
        let passed = shown.lines().any(|line| line.trim() == PASSED);
        let end = match ended {
            Some(status) if status.success() && passed => {
                eprintln!("passed on Linux {version} of Debian {suite}, in {seconds} s");
                return Ok(shown.into_owned());
            }
            Some(status) => status.to_string(),
            None => format!("killed after {seconds} s"),
        };
        // In one piece: other machines run beside this one.
        eprintln!(
            "--- console of Linux {version} ---\n{shown}\n`{}`: {end}",
            command::line(&qemu)
        );
        bail!(
            "`{}` failed on Linux {version} of Debian {suite}: above is what its console showed, also in {}",
            self.main,
            console.display()
        )
    }

    fn command(&self, console: &Path) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot"])
            // Its clock goes by instructions, a nanosecond each, and leaps over what is waited for:
            // however busy this machine is, nothing comes too late inside.
            .args(["-accel", "tcg", "-icount", "shift=0,sleep=off"])
            // QEMU 7.2 emulates cmpxchg16b wrongly where it counts instructions: Linux 6.12 crashes.
            .args(["-cpu", "max,-cx16", "-m", "1024", "-display", "none"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&self.initramfs)
            // What the kernel does not know of this becomes its first program's environment.
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet panic=-1 mitigations=off PASSED={PASSED} PROGRAM={}",
                self.main
            ));
        qemu
    }
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
