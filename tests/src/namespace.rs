//! One network namespace: how to enter it and how to run a program in it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::fd::AsFd,
    panic,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace under `/run/netns`. The network that made it removes it.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new(name: String) -> Self {
        Self { name }
    }

    /// The name that `ip netns` knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Runs `work` on a thread inside. Sockets that it makes stay inside, whoever uses them later.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path())
            .with_context(|| format!("opening the namespace {}", self.name))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("entering the namespace {}", self.name))?;
                Ok(work())
            });
            inside
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// A command that runs inside; its process id is the program's own.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_behind(&[] as &[&str], program)
    }

    /// As [`Namespace::command`], for a program that another one, with its arguments, becomes.
    #[must_use]
    pub fn command_behind(
        &self,
        wrapper: &[impl AsRef<OsStr>],
        program: impl AsRef<OsStr>,
    ) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .args(wrapper)
            .arg(program);
        command
    }

    /// Sets kernel parameters, each a path below `/proc/sys/net` and its value.
    pub(crate) fn tune(&self, parameters: &[(&str, &str)]) -> Result<()> {
        self.inside(|| {
            for (name, value) in parameters {
                let path = Path::new("/proc/sys/net").join(name);
                fs::write(&path, value).with_context(|| format!("setting {}", path.display()))?;
            }
            Ok(())
        })?
    }
}
