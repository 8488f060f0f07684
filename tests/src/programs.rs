//! The binaries under test.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Where the project's own programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `bulkhead`.
    pub cli: PathBuf,
    /// `bulkhead-agent`.
    pub agent: PathBuf,
    /// `bulkhead-controller`.
    pub controller: PathBuf,
}

impl Programs {
    /// Finds them beside the running executable, or one directory up: tests run in `deps`.
    ///
    /// # Errors
    /// When one is missing, with what to run.
    pub fn find() -> Result<Self> {
        let executable = env::current_exe().context("finding the running executable")?;
        let directories: Vec<&Path> = executable.ancestors().skip(1).take(2).collect();
        let find = |name: &str| {
            for directory in &directories {
                let path = directory.join(name);
                if path.is_file() {
                    return Ok(path);
                }
            }
            bail!("{name} is not built: run `cargo xtask build` first");
        };
        Ok(Self {
            cli: find("bulkhead")?,
            agent: find("bulkhead-agent")?,
            controller: find("bulkhead-controller")?,
        })
    }
}
