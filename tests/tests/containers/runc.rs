//! A container that `runc` runs. Dropping it removes what is left of it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{LONG, wait_for, wait_until};
use serde_json::{Value, json};

use crate::image::Image;

/// Where runc keeps what it knows of the containers of these tests.
const STATE: &str = "/run/bulkhead-tests-runc";

/// A container, by the name that runc and its control group have.
pub struct Container {
    name: String,
    bundle: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// How something in a container ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub output: String,
}

impl Container {
    /// Writes the bundle: the configuration beside the image's root file system.
    pub fn new(role: &str, config: &Value, image: &Image) -> Result<Self> {
        static SWEEP: Once = Once::new();
        static CONTAINERS: AtomicU32 = AtomicU32::new(1);
        SWEEP.call_once(sweep);
        let number = CONTAINERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}x{number}-{role}", std::process::id());
        let mut config = config.clone();
        config["linux"]["cgroupsPath"] = json!(format!("/bulkhead-tests-{name}"));
        let path = image.bundle.join("config.json");
        fs::write(&path, config.to_string())
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Self {
            log: image.bundle.join(format!("{name}.log")),
            bundle: image.bundle.clone(),
            name,
            child: None,
        })
    }

    /// Starts it, and waits until its program runs.
    pub fn start(&mut self) -> Result<()> {
        let log = File::create(&self.log).context("making a log")?;
        let child = runc()
            .args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg(&self.name)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing a log")?)
            .stderr(log)
            .spawn()
            .context("starting runc: run `cargo xtask setup`")?;
        self.child = Some(child);
        wait_until("a container to run", LONG, || {
            if !self.is_running()? {
                return Ok(true);
            }
            Ok(self.state().is_ok_and(|state| state["status"] == "running"))
        })
    }

    /// Runs it to its end.
    pub fn run_to_end(mut self, patience: Duration) -> Result<Ended> {
        self.start()?;
        let status = self.wait(patience)?;
        Ok(Ended {
            code: status.code().unwrap_or(-1),
            output: self.output()?,
        })
    }

    pub fn is_running(&mut self) -> Result<bool> {
        let child = self.child.as_mut().context("it was not started")?;
        Ok(child
            .try_wait()
            .context("asking for a child's state")?
            .is_none())
    }

    /// Sends SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let sent = runc().args(["kill", &self.name, "TERM"]).output()?;
        ensure!(sent.status.success(), "runc kill: {sent:?}");
        self.wait(LONG)
    }

    /// Runs a program inside, with the container's own privileges.
    pub fn exec(&self, arguments: &[&str]) -> Result<Ended> {
        let Output {
            status,
            stdout,
            stderr,
        } = runc()
            .arg("exec")
            .arg(&self.name)
            .args(arguments)
            .output()?;
        Ok(Ended {
            code: status.code().unwrap_or(-1),
            output: String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned(),
        })
    }

    /// `/proc/PID/status` of its first program.
    pub fn status(&self) -> Result<String> {
        let pid = self.state()?["pid"].as_u64().context("no process")?;
        fs::read_to_string(format!("/proc/{pid}/status")).context("reading a process's status")
    }

    /// What it has printed.
    pub fn output(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("reading a container's log")
    }

    fn state(&self) -> Result<Value> {
        let output = runc().args(["state", &self.name]).output()?;
        serde_json::from_slice(&output.stdout).context("reading what runc says")
    }

    fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("it was not started")?;
        wait_for("the end of a container", patience, || Ok(child.try_wait()?))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        delete(&self.name);
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn runc() -> Command {
    let mut command = Command::new("runc");
    command.args(["--root", STATE]);
    command
}

/// Kills a container, and removes its control group. One that is gone already is as good.
fn delete(name: &str) {
    let _ = runc().args(["delete", "--force", name]).output();
}

/// Removes the containers of runs that were killed.
fn sweep() {
    for entry in fs::read_dir(STATE).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('x').next().unwrap_or_default();
        if !owner.is_empty() && !Path::new("/proc").join(owner).exists() {
            delete(&name);
        }
    }
}
