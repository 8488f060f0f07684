//! Base systems: Debian by debootstrap, made once for a suite and a list of packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    kernels::{DEBIAN_KEYRING, mirrors},
    root,
};

/// A release of Debian.
pub struct Suite {
    /// Its name in the archive.
    pub name: &'static str,
    /// What sets its interfaces up.
    network: NetworkSetup,
    /// When a host of it boots again, its agent takes long to start; the other's does not.
    pub agent_starts_slowly: bool,
}

/// Both wait for network-pre.target.
#[derive(Clone, Copy)]
enum NetworkSetup {
    Ifupdown,
    Networkd,
}

/// systemd 252 with Linux 6.1, and systemd 257 with Linux 6.12.
pub const SUITES: [Suite; 2] = [
    Suite {
        name: "bookworm",
        network: NetworkSetup::Ifupdown,
        agent_starts_slowly: false,
    },
    Suite {
        name: "trixie",
        network: NetworkSetup::Networkd,
        agent_starts_slowly: true,
    },
];

/// What a small server has beside the packages that every Debian has.
const PACKAGES: [&str; 10] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "iputils-ping",
    "kmod",
    "netcat-openbsd",
    "openssh-server",
    "udev",
    "linux-image-cloud-amd64",
];

/// A base system in a directory.
pub struct Base {
    directory: PathBuf,
}

impl Base {
    /// The base system of a suite, made when it is not there.
    ///
    /// # Errors
    ///
    /// No mirror has all of it, or its signature is not Debian's.
    pub fn of(suite: &Suite) -> Result<Self> {
        let directory =
            root()
                .join("target/setup/debian")
                .join(format!("{}-{}", suite.name, key(suite)));
        if !directory.exists() {
            make(suite, &directory)?;
        }
        Ok(Self { directory })
    }

    /// What a boot loader loads.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn kernel(&self) -> Result<PathBuf> {
        self.boot_file("vmlinuz-")
    }

    /// The initramfs that Debian has made for the kernel.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn initrd(&self) -> Result<PathBuf> {
        self.boot_file("initrd.img-")
    }

    /// The public key of the SSH server, as `known_hosts` has it, without the host.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn ssh_host_key(&self) -> Result<String> {
        let path = self.directory.join("etc/ssh/ssh_host_ed25519_key.pub");
        let key =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let words: Vec<&str> = key.split_whitespace().take(2).collect();
        Ok(words.join(" "))
    }

    /// Copies the system into a new directory.
    ///
    /// # Errors
    ///
    /// It cannot be copied.
    pub fn copy_to(&self, tree: &Path) -> Result<()> {
        command::run(
            Command::new("cp")
                .args(["-a", "--reflink=auto"])
                .arg(&self.directory)
                .arg(tree),
        )
    }

    fn boot_file(&self, prefix: &str) -> Result<PathBuf> {
        let boot = self.directory.join("boot");
        fs::read_dir(&boot)
            .with_context(|| format!("reading {}", boot.display()))?
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .with_context(|| format!("no {prefix}* in {}", boot.display()))
    }
}

/// Of all that decides what a base system is: another list of packages makes another.
fn key(suite: &Suite) -> String {
    let text = packages(suite).join(" ");
    // FNV-1a: the same in every build.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn packages(suite: &Suite) -> Vec<&'static str> {
    let mut packages = PACKAGES.to_vec();
    if matches!(suite.network, NetworkSetup::Ifupdown) {
        packages.push("ifupdown");
    }
    packages
}

fn make(suite: &Suite, directory: &Path) -> Result<()> {
    // It gets its name when it is whole.
    let unfinished = directory.with_extension("new");
    let mut refusals = Vec::new();
    for mirror in mirrors()? {
        match bootstrap(suite, &mirror, &unfinished) {
            Ok(()) => {
                return fs::rename(&unfinished, directory)
                    .with_context(|| format!("making {}", directory.display()));
            }
            Err(error) => refusals.push(format!("{mirror}: {error:#}")),
        }
    }
    bail!(
        "no mirror of Debian's archive gave the base system of {}:\n{}",
        suite.name,
        refusals.join("\n")
    )
}

/// debootstrap checks the archive by Debian's keys, and each package by the archive's index.
fn bootstrap(suite: &Suite, mirror: &str, directory: &Path) -> Result<()> {
    command::run(Command::new("rm").arg("-rf").arg(directory))?;
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    let mut debootstrap = Command::new("debootstrap");
    debootstrap
        .args(["--variant=minbase", "--force-check-gpg"])
        .arg(format!("--keyring={DEBIAN_KEYRING}"))
        .arg(format!("--include={}", packages(suite).join(",")))
        .args([suite.name])
        .arg(directory)
        .arg(mirror);
    let mut commands = vec![debootstrap, in_tree(directory, &["apt-get", "clean"])];
    if matches!(suite.network, NetworkSetup::Networkd) {
        commands.push(in_tree(
            directory,
            &["systemctl", "enable", "systemd-networkd"],
        ));
    }
    command::run_logged(
        &format!(
            "setup: the base system of Debian {} (takes minutes)",
            suite.name
        ),
        &root().join(format!("target/setup/debian-{}.log", suite.name)),
        &mut commands,
    )
}

fn in_tree(directory: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("chroot");
    command.arg(directory).args(words);
    command
}
