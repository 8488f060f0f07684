//! The default seccomp profiles of container runtimes, each from the runtime itself: podman and CRI-O read theirs from
//! a file of the package golang-github-containers-common, containerd makes its own for every container.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lab::{LONG, wait_until};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// podman's and CRI-O's default profile.
const PODMAN: &str = "/usr/share/containers/seccomp.json";
/// What this machine is called in profiles.
const ARCHITECTURE: [&str; 2] = if cfg!(target_arch = "aarch64") {
    ["arm64", "SCMP_ARCH_AARCH64"]
} else {
    ["amd64", "SCMP_ARCH_X86_64"]
};

/// A container runtime, as far as its default profile goes.
#[derive(Clone)]
pub enum Runtime {
    Podman(Profile),
    Containerd,
}

/// The format of podman, CRI-O and Docker: rules that depend on the container's capabilities.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    syscalls: Vec<Rule>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    action: String,
    #[serde(default)]
    args: Option<Vec<Value>>,
    errno_ret: Option<u32>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
    #[serde(rename = "errno")]
    _errno: Option<String>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
    #[serde(rename = "minKernel")]
    _min_kernel: Option<String>,
}

impl Runtime {
    /// podman's profile, as versions before containers-common 0.60 have it: bpf(2) with CAP_SYS_ADMIN alone.
    ///
    /// # Errors
    /// The package is not installed, or the profile does not name bpf any more.
    pub fn podman() -> Result<Self> {
        let text = fs::read_to_string(PODMAN)
            .with_context(|| format!("reading {PODMAN}: run `cargo xtask setup`"))?;
        let mut profile: Profile =
            serde_json::from_str(&text).with_context(|| format!("reading {PODMAN}"))?;
        profile
            .syscalls
            .retain(|rule| !rule.includes.caps.iter().any(|name| name == "CAP_BPF"));
        ensure!(
            profile.syscalls.iter().any(|rule| rule.is_of("bpf")),
            "{PODMAN} has no rule of bpf"
        );
        Ok(Self::Podman(profile))
    }

    /// containerd's.
    ///
    /// # Errors
    /// It is not installed.
    pub fn containerd() -> Result<Self> {
        Ok(Self::Containerd)
    }

    /// The same without any rule of bpf(2): the default action answers it.
    pub fn without_bpf(mut self) -> Self {
        if let Self::Podman(profile) = &mut self {
            for rule in &mut profile.syscalls {
                rule.names.retain(|name| name != "bpf");
            }
        }
        self
    }

    /// The profile of a container with these capabilities, as an OCI runtime reads it.
    ///
    /// # Errors
    /// The runtime cannot be asked.
    pub fn profile(&self, capabilities: &[String]) -> Result<Value> {
        match self {
            Self::Podman(profile) => Ok(profile.for_container(capabilities)),
            Self::Containerd => Containerd::start()?.profile(capabilities),
        }
    }
}

impl Profile {
    /// What `pkg/seccomp` of containers/common makes of it.
    fn for_container(&self, capabilities: &[String]) -> Value {
        let has = |names: &[String]| names.iter().any(|name| capabilities.contains(name));
        let here = |names: &[String]| names.iter().any(|name| name == ARCHITECTURE[0]);
        let applies = |rule: &&Rule| {
            let (with, without) = (&rule.includes, &rule.excludes);
            (with.caps.is_empty() || has(&with.caps))
                && (with.arches.is_empty() || here(&with.arches))
                && !has(&without.caps)
                && !here(&without.arches)
        };
        let rules = self.syscalls.iter().filter(applies);
        let rules = rules.filter(|rule| !rule.names.is_empty()).map(|rule| {
            let mut shown = json!({ "names": rule.names, "action": rule.action });
            if let Some(arguments) = &rule.args {
                shown["args"] = json!(arguments);
            }
            if let Some(number) = rule.errno_ret {
                shown["errnoRet"] = json!(number);
            }
            shown
        });
        let mut profile = json!({
            "defaultAction": self.default_action,
            "architectures": [ARCHITECTURE[1]],
            "syscalls": rules.collect::<Vec<_>>(),
        });
        if let Some(number) = self.default_errno_ret {
            profile["defaultErrnoRet"] = json!(number);
        }
        profile
    }
}

impl Rule {
    fn is_of(&self, call: &str) -> bool {
        self.names.iter().any(|name| name == call)
    }
}

/// A containerd of its own, which is asked for what it would have a container run with. Dropping it ends it.
struct Containerd {
    process: Child,
    directory: TempDir,
}

impl Containerd {
    fn start() -> Result<Self> {
        let directory = tempfile::tempdir().context("making a directory for containerd")?;
        let at = directory.path();
        let config = at.join("config.toml");
        let shown = at.display();
        fs::create_dir(at.join("rootfs"))?;
        fs::write(
            &config,
            format!(
                "version = 2\nroot = \"{shown}/root\"\nstate = \"{shown}/state\"\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
                 [grpc]\naddress = \"{shown}/socket\"\n[ttrpc]\naddress = \"{shown}/socket.ttrpc\"\n"
            ),
        )?;
        let log = fs::File::create(at.join("log"))?;
        let process = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting containerd: run `cargo xtask setup`")?;
        let containerd = Self { process, directory };
        wait_until("containerd to answer", LONG, || {
            Ok(containerd.ctr(&["version"])?.status.success())
        })?;
        Ok(containerd)
    }

    fn profile(&self, capabilities: &[String]) -> Result<Value> {
        let default = self.spec("default", &["--seccomp".to_owned()])?;
        let mut options = vec!["--seccomp".to_owned()];
        let dropped = &default["process"]["capabilities"]["bounding"];
        for name in dropped.as_array().context("no capabilities")? {
            let name = name.as_str().context("no name")?.to_owned();
            options.extend(["--cap-drop".to_owned(), name]);
        }
        for name in capabilities {
            options.extend(["--cap-add".to_owned(), name.clone()]);
        }
        let spec = self.spec("ours", &options)?;
        let held = &spec["process"]["capabilities"]["bounding"];
        let held = held.as_array().map_or(&[][..], Vec::as_slice);
        ensure!(
            held.len() == capabilities.len()
                && capabilities.iter().all(|name| held.contains(&json!(name))),
            "containerd gives {held:?}"
        );
        Ok(spec["linux"]["seccomp"].clone())
    }

    /// What a container with these options would run with.
    fn spec(&self, name: &str, options: &[String]) -> Result<Value> {
        let rootfs = self.path().join("rootfs");
        let rootfs = rootfs.to_string_lossy();
        let mut create = vec!["containers", "create", "--rootfs"];
        create.extend(options.iter().map(String::as_str));
        create.extend([&*rootfs, name, "/bin/true"]);
        done(self.ctr(&create)?)?;
        let shown = done(self.ctr(&["containers", "info", "--spec", name])?)?;
        serde_json::from_slice(&shown).context("reading what containerd says")
    }

    fn ctr(&self, arguments: &[&str]) -> Result<Output> {
        Command::new("ctr")
            .arg("--address")
            .arg(self.path().join("socket"))
            .args(arguments)
            .output()
            .context("running ctr")
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("ending containerd: {error}");
        }
    }
}

fn done(output: Output) -> Result<Vec<u8>> {
    ensure!(
        output.status.success(),
        "ctr: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}
