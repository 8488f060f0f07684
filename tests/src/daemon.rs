//! A long-running program in a namespace, with its log.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    namespace::Namespace,
    wait::{LONG, wait_for},
};

/// How much of a log a failing test shows.
const TAIL_LINES: usize = 60;

/// A program that runs until it is told to end. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    namespace: Namespace,
    program: PathBuf,
    arguments: Vec<OsString>,
    wrapper: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    pub(crate) fn new(
        name: &str,
        namespace: &Namespace,
        program: PathBuf,
        arguments: &[OsString],
        log: PathBuf,
    ) -> Self {
        let (name, namespace) = (name.to_owned(), namespace.clone());
        Self {
            name,
            namespace,
            program,
            arguments: arguments.to_vec(),
            wrapper: Vec::new(),
            log,
            child: None,
        }
    }

    /// From its next start on it runs behind this program with its arguments, which must become it.
    pub fn wrap(&mut self, wrapper: &[String]) {
        self.wrapper = wrapper.to_vec();
    }

    /// Starts it; its output is appended to its log.
    ///
    /// # Errors
    /// When it runs already, or does not start.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running()? {
            bail!("{} runs already", self.name);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening the log {}", self.log.display()))?;
        let child = self
            .namespace
            .command_behind(&self.wrapper, &self.program)
            .args(&self.arguments)
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().context("sharing the log")?)
            .stderr(log)
            // Ctrl-C in a terminal is for the lab, which then ends its daemons in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it runs now.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(match &mut self.child {
            Some(child) => child
                .try_wait()
                .context("asking for a child's state")?
                .is_none(),
            None => false,
        })
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_9(&mut self) -> Result<()> {
        self.end(Signal::KILL, LONG).map(drop)
    }

    /// Asks it to end with SIGTERM, and gives its exit status.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.end(Signal::TERM, LONG)
    }

    fn end(&mut self, signal: Signal, patience: Duration) -> Result<ExitStatus> {
        let name = &self.name;
        let child = self
            .child
            .as_mut()
            .with_context(|| format!("{name} was never started"))?;
        if let Some(status) = child.try_wait()? {
            bail!("{name} had ended already, with {status}");
        }
        kill_process(Pid::from_child(child), signal)
            .with_context(|| format!("sending a signal to {name}"))?;
        wait_for(&format!("the end of {name}"), patience, || {
            Ok(child.try_wait()?)
        })
    }

    /// Sends it a signal, and waits for nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        let name = &self.name;
        let child = self.child.as_ref();
        let child = child.with_context(|| format!("{name} was never started"))?;
        kill_process(Pid::from_child(child), signal)
            .with_context(|| format!("sending a signal to {name}"))
    }

    /// Everything that it has logged.
    ///
    /// # Errors
    /// When the log cannot be read; one that is not there yet is empty.
    pub fn log(&self) -> Result<String> {
        match fs::read(&self.log) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).context(format!("reading the log {}", self.log.display())),
        }
    }

    /// The end of the log, under a heading.
    pub(crate) fn tail(&self) -> String {
        let log = self.log().unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("--- log of {} ---\n{}\n", self.name, tail.join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Ok(None) = child.try_wait()
            && let Err(error) = child.kill().and_then(|()| child.wait())
        {
            eprintln!("ending {}: {error}", self.name);
        }
    }
}
