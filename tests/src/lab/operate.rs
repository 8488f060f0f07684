//! What the operator of a lab does and sees.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    facts::{Denial, HostStatus, Rollout},
    lab::{HostSpec, Lab},
    network::Family,
    wait::{LONG, wait_for},
};

impl Lab {
    /// A one-time token for a host: its name, its labels, and leave to claim its IPv6 address.
    ///
    /// # Errors
    /// When the operator's tool fails.
    pub fn create_token(&self, host: &HostSpec) -> Result<String> {
        let mut arguments = Vec::new();
        for (key, value) in host.labels {
            arguments.extend(["--label".to_owned(), format!("{key}={value}")]);
        }
        for family in Family::ALL {
            arguments.extend(["--allow-addresses".to_owned(), host.place.subnet(family)]);
        }
        self.operator.create_token(&arguments)
    }

    /// What the operator's tool lists about a host; none if it does not know it.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn host_status(&self, name: &str) -> Result<Option<HostStatus>> {
        let hosts: Vec<HostStatus> = self.operator.list(&["hosts"])?;
        Ok(hosts.into_iter().find(|host| host.name == name))
    }

    /// Every denial that the controller has kept from a host, oldest first.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn denials(&self, host: &str) -> Result<Vec<Denial>> {
        self.operator
            .list(&["denials", "--limit", "100000", "--host", host])
    }

    /// Packets that a host's datapath has counted under a reason.
    ///
    /// # Errors
    /// When its agent does not tell.
    pub fn counted(&mut self, host: &str, reason: &str) -> Result<u64> {
        let status = self.agent(host)?.once("status")?.fine()?.stdout;
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.trim().strip_prefix(reason)?.trim().parse().ok());
        Ok(count.unwrap_or_default())
    }

    /// Waits for a denial like this from a host, and gives the first.
    ///
    /// # Errors
    /// When none comes.
    pub fn wait_denial(
        &self,
        what: &str,
        host: &str,
        like: impl Fn(&Denial) -> bool,
    ) -> Result<Denial> {
        let mut seen = Vec::new();
        let found = wait_for(&format!("a denial: {what}"), LONG, || {
            seen = self.denials(host)?;
            Ok(seen.iter().find(|denial| like(denial)).cloned())
        });
        found.with_context(|| format!("{host} reported {seen:#?}"))
    }

    /// Makes this text the policy, and waits until every host enforces it. Gives the revision.
    ///
    /// # Errors
    /// When it is refused, or a host does not follow.
    pub fn apply(&mut self, policy: &str) -> Result<u64> {
        let path = self.write_policy(policy)?;
        self.apply_path(&path)
    }

    /// As [`Lab::apply`], for a file or directory.
    ///
    /// # Errors
    /// As [`Lab::apply`].
    pub fn apply_path(&mut self, path: &Path) -> Result<u64> {
        // A scenario cuts what it means to cut.
        let apply = ["policy", "apply", "--allow-lockout"].map(OsStr::new);
        let apply = apply.into_iter().chain([path.as_os_str()]);
        let apply: Vec<&OsStr> = apply.collect();
        let rollout: Rollout = self.operator.one(&apply)?;
        Ok(rollout.revision)
    }

    /// Writes a policy file, and applies nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_policy(&mut self, policy: &str) -> Result<PathBuf> {
        self.policies += 1;
        let path = self
            .directory
            .path()
            .join(format!("policy-{}.yaml", self.policies));
        fs::write(&path, policy).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}
