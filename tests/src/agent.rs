//! The agent of one host of a lab.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    controller::Controller,
    daemon::Daemon,
    namespace::Namespace,
    network::{CONTROLLER, Family},
    operator::Answer,
};

/// `agent.toml`, as far as a lab sets it.
#[derive(Debug, Serialize)]
struct Config {
    controllers: Vec<String>,
    state_dir: PathBuf,
    token_file: PathBuf,
    host_name: String,
    interfaces: Vec<String>,
    bpffs: PathBuf,
    /// Seconds; tests have no flows from before.
    warm_start: u32,
    failsafe: Failsafe,
}

/// The operator's way in.
#[derive(Debug, Serialize)]
struct Failsafe {
    subnets: Vec<String>,
}

/// An agent with its directory: configuration, state, token, bpffs and log.
#[derive(Debug)]
pub struct Agent {
    daemon: Daemon,
    namespace: Namespace,
    program: PathBuf,
    directory: PathBuf,
}

impl Agent {
    /// Writes the configuration. The bpffs is mounted at `<directory>/bpf` already.
    pub(crate) fn new(
        program: &Path,
        namespace: &Namespace,
        directory: &Path,
        host: &str,
    ) -> Result<Self> {
        let config = Config {
            controllers: vec![Controller::address(Family::V4).to_string()],
            state_dir: directory.join("state"),
            token_file: directory.join("token"),
            host_name: host.to_owned(),
            interfaces: vec!["eth0".to_owned()],
            bpffs: directory.join("bpf"),
            warm_start: 0,
            // The operator of a lab works at the controller's.
            failsafe: Failsafe {
                subnets: vec![
                    format!("{}/32", CONTROLLER.address(Family::V4)),
                    format!("{}/128", CONTROLLER.address(Family::V6)),
                ],
            },
        };
        let path = directory.join("agent.toml");
        fs::write(&path, toml::to_string(&config)?)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Self {
            daemon: Daemon::new(
                &format!("the agent of {host}"),
                namespace,
                program.to_owned(),
                &["run".into(), "--config".into(), path.into()],
                directory.join("agent.log"),
            ),
            namespace: namespace.clone(),
            program: program.to_owned(),
            directory: directory.to_owned(),
        })
    }

    /// The agent's configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("agent.toml")
    }

    /// Puts an enrolment token where the configuration says.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn give_token(&self, token: &str) -> Result<()> {
        let path = self.directory.join("token");
        fs::write(&path, token).with_context(|| format!("writing {}", path.display()))
    }

    /// Changes its configuration file.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn configure(&self, change: impl FnOnce(&mut toml::Table)) -> Result<()> {
        let path = self.config();
        let text = fs::read_to_string(&path).context("reading an agent's configuration")?;
        let mut config: toml::Table = text.parse().context("reading an agent's configuration")?;
        change(&mut config);
        fs::write(&path, config.to_string()).context("writing an agent's configuration")
    }

    /// Where its kernel objects are pinned, a directory for each layout.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.directory.join("bpf/bulkhead")
    }

    /// Runs `bulkhead-agent <verb> --config <its configuration>` to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn once(&self, verb: &str) -> Result<Answer> {
        self.once_behind(&[], verb)
    }

    /// As [`Agent::once`], behind a program that becomes the agent, with its arguments.
    ///
    /// # Errors
    /// As [`Agent::once`].
    pub fn once_behind(&self, wrapper: &[String], verb: &str) -> Result<Answer> {
        // One that ought to end and does not is killed, and its code is 137.
        let bounded = ["timeout", "--signal=KILL", "30"].map(str::to_owned);
        let mut command = self
            .namespace
            .command_behind(&[&bounded, wrapper].concat(), &self.program);
        Answer::of(command.args([
            OsStr::new(verb),
            "--config".as_ref(),
            self.config().as_os_str(),
        ]))
    }

    /// As [`Agent::once`], with the configuration file under this name.
    ///
    /// # Errors
    /// As [`Agent::once`].
    pub fn once_by(&self, verb: &str, config: &Path) -> Result<Answer> {
        let mut command = self.namespace.command(&self.program);
        Answer::of(command.args([OsStr::new(verb), "--config".as_ref(), config.as_os_str()]))
    }

    /// The process and its log.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}
