//! The controller of a lab.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    daemon::Daemon,
    namespace::Namespace,
    network::{CONTROLLER, Family},
    programs::Programs,
    wait::{LONG, wait_until},
};

/// A controller with its data directory.
#[derive(Debug)]
pub struct Controller {
    daemon: Daemon,
    namespace: Namespace,
    data: PathBuf,
}

impl Controller {
    /// Makes a data directory with a CA and an operator `admin`, and starts to serve.
    pub(crate) fn new(
        programs: &Programs,
        namespace: &Namespace,
        directory: &Path,
    ) -> Result<Self> {
        let data = directory.join("data");
        let output = Command::new(&programs.controller)
            .args(["init", "--data-dir"])
            .arg(&data)
            .args(["--address", &Self::address(Family::V4).to_string()])
            .output()
            .context("running bulkhead-controller init")?;
        ensure!(
            output.status.success(),
            "bulkhead-controller init: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut controller = Self {
            daemon: Daemon::new(
                "the controller",
                namespace,
                programs.controller.clone(),
                &["serve".into(), "--data-dir".into(), data.clone().into()],
                directory.join("controller.log"),
            ),
            namespace: namespace.clone(),
            data,
        };
        controller.start()?;
        Ok(controller)
    }

    /// Where agents and operators reach it.
    #[must_use]
    pub fn address(family: Family) -> SocketAddr {
        SocketAddr::new(CONTROLLER.address(family), 7443)
    }

    /// The file that lets the operator `admin` in.
    #[must_use]
    pub fn operator_file(&self) -> PathBuf {
        self.data.join("operator-admin.toml")
    }

    /// A file of the data directory, such as `ca.pem`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(&self, name: &str) -> Result<String> {
        let path = self.data.join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Starts it, and waits until it accepts connections.
    ///
    /// # Errors
    /// When it ends, or does not come up.
    pub fn start(&mut self) -> Result<()> {
        self.daemon.start()?;
        wait_until("the controller to accept connections", LONG, || {
            ensure!(
                self.daemon.is_running()?,
                "the controller ended:\n{}",
                self.daemon.tail()
            );
            let address = Self::address(Family::V4);
            self.namespace
                .inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
        })
    }

    /// Starts it again with these addresses (`HOST:PORT`) to announce to agents.
    ///
    /// # Errors
    /// When it does not run, or does not come up again.
    pub fn announce(&mut self, addresses: &[&str]) -> Result<()> {
        let path = self.data.join("addresses");
        fs::write(&path, addresses.join("\n"))
            .with_context(|| format!("writing {}", path.display()))?;
        self.daemon.terminate()?;
        self.start()
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_9(&mut self) -> Result<()> {
        self.daemon.kill_9()
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        self.daemon.tail()
    }
}
