//! What this repository needs from the machine: found missing in a moment, installed once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{booted, command, kernels, root};

/// Built against LLVM 22, as the pinned rustc is: it reads the bitcode that rustc writes.
const BPF_LINKER: &str = "0.13.0";
const CARGO_DENY: &str = "0.20.2";
/// Carries the Kubernetes schemas that the manifests in deploy/ are validated against.
const KUBERNETES_VALIDATE: &str = "1.37.0";
/// Debian's own, the one that the package python3-venv belongs to.
const PYTHON: &str = "/usr/bin/python3";

/// What is about to be done; each needs a little more or less.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Compile the workspace.
    Build,
    /// Compile and run on network namespaces.
    Demo,
    /// Compile and run every test.
    Test,
    /// Compile and measure the datapath beside others.
    Bench,
    /// Compile and run the static checks.
    Check,
    /// All of these.
    Everything,
}

/// How to see that something is there, without asking a package manager.
enum Probe {
    Program(&'static str),
    File(&'static str),
    Runs(&'static [&'static str]),
}

/// A Debian package and what it is needed for.
struct Package {
    name: &'static str,
    probe: Probe,
}

const TO_BUILD: &[Package] = &[
    package("build-essential", Probe::Program("cc")),
    package("pkg-config", Probe::Program("pkg-config")),
];

const TO_LINK_BPF: &[Package] = &[
    package(
        "llvm-22-dev",
        Probe::File("/usr/lib/llvm-22/include/llvm-c/Core.h"),
    ),
    package(
        "libpolly-22-dev",
        Probe::File("/usr/lib/llvm-22/lib/libPolly.a"),
    ),
    package("zlib1g-dev", Probe::File("/usr/include/zlib.h")),
    package("libzstd-dev", Probe::File("/usr/include/zstd.h")),
];

const TO_RUN: &[Package] = &[
    package("iproute2", Probe::Program("ip")),
    package("iputils-ping", Probe::Program("ping")),
    package("netcat-openbsd", Probe::Program("nc.openbsd")),
    package("util-linux", Probe::Program("nsenter")),
];

const TO_BENCH: &[Package] = &[
    package("iproute2", Probe::Program("ip")),
    package("nftables", Probe::Program("nft")),
    package("iptables", Probe::Program("iptables-restore")),
    package("ipset", Probe::Program("ipset")),
];

/// For the emulated machines.
const TO_EMULATE: &[Package] = &[
    package("iproute2", Probe::Program("ip")),
    package("iputils-ping", Probe::Program("ping")),
    package("qemu-system-x86", Probe::Program("qemu-system-x86_64")),
    package("busybox-static", Probe::Program("busybox")),
    package("binutils", Probe::Program("strip")),
    package("cpio", Probe::Program("cpio")),
    package("xz-utils", Probe::Program("xz")),
    package(
        "debian-archive-keyring",
        Probe::File(kernels::DEBIAN_KEYRING),
    ),
];

const TO_TEST: &[Package] = &[
    package("systemd", Probe::Program("systemd-analyze")),
    package("curl", Probe::Program("curl")),
    package("nmap", Probe::Program("nmap")),
    package("hping3", Probe::Program("hping3")),
    package("traceroute", Probe::Program("traceroute")),
    package(
        "python3-scapy",
        Probe::Runs(&[PYTHON, "-c", "import scapy.all"]),
    ),
    package("dnsmasq-base", Probe::Program("dnsmasq")),
    package("udhcpc", Probe::Program("udhcpc")),
    package("isc-dhcp-client", Probe::Program("dhclient")),
    package("debootstrap", Probe::Program("debootstrap")),
    package("e2fsprogs", Probe::Program("mkfs.ext4")),
    package("openssh-client", Probe::Program("scp")),
    package("runc", Probe::Program("runc")),
    // For the default seccomp profiles alone: nothing is run by either.
    package("containerd", Probe::Program("containerd")),
    package(
        "golang-github-containers-common",
        Probe::File("/usr/share/containers/seccomp.json"),
    ),
];

const TO_VALIDATE: &[Package] = &[package(
    "python3-venv",
    Probe::Runs(&[PYTHON, "-m", "ensurepip", "--version"]),
)];

const fn package(name: &'static str, probe: Probe) -> Package {
    Package { name, probe }
}

/// Something to install.
struct Step {
    title: String,
    log: &'static str,
    commands: Vec<Command>,
    root: bool,
}

/// Makes sure that everything that the purpose needs is there. Quick when it is.
///
/// # Errors
///
/// Something is missing and cannot be installed, or needs root to be installed: the commands to
/// run are printed.
pub fn ensure(purpose: Purpose) -> Result<()> {
    let steps = missing(purpose)?;
    if steps.iter().any(|step| step.root) && !is_root()? {
        eprintln!("not everything that is needed is installed; run:\n");
        for step in &steps {
            for command in &step.commands {
                let sudo = if step.root { "sudo " } else { "" };
                eprintln!("    {sudo}{}", command::line(command));
            }
        }
        eprintln!();
        bail!("some of these need root: run them, or run this as root, which runs them for you");
    }
    let steps_in_all = steps.len();
    for (number, mut step) in (1..).zip(steps) {
        let title = format!("setup {number}/{steps_in_all}: {}", step.title);
        let log = root().join("target/setup").join(step.log);
        command::run_logged(&title, &log, &mut step.commands).or_else(explain)?;
    }
    if matches!(purpose, Purpose::Test | Purpose::Everything) {
        kernels::fetch_missing()?;
        booted::fetch_missing()?;
    }
    Ok(())
}

/// Whether this process is root, and not only so in a user namespace of its own.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn is_root() -> Result<bool> {
    let read = |path| fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let status = read("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    let whole_range = format!("0 0 {}", u32::MAX);
    let map = read("/proc/self/uid_map")?;
    let map = map.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(effective == Some("0") && map == whole_range)
}

/// Where the validator of the Kubernetes manifests is; the tests in `tests/deploy.rs` call it there.
fn kubernetes_validate() -> PathBuf {
    root()
        .join("target")
        .join(format!("kubernetes-validate-{KUBERNETES_VALIDATE}"))
}

fn missing(purpose: Purpose) -> Result<Vec<Step>> {
    use Purpose::{Bench, Check, Demo, Everything, Test};
    let mut packages: Vec<&Package> = TO_BUILD.iter().collect();
    let mut then = Vec::new();

    if !rust_src()? {
        then.push(step(
            "the standard library's source",
            "rust-src.log",
            rustup_rust_src(),
        ));
    }
    if !prints(&["bpf-linker", "--version"], BPF_LINKER) {
        packages.extend(TO_LINK_BPF);
        let title = format!("bpf-linker {BPF_LINKER} (takes some minutes)");
        then.push(step(&title, "bpf-linker.log", install_bpf_linker()));
    }
    if matches!(purpose, Demo | Test | Everything) {
        packages.extend(TO_RUN);
    }
    if matches!(purpose, Bench | Everything) {
        packages.extend(TO_BENCH);
    }
    if matches!(purpose, Bench | Test | Everything) {
        packages.extend(TO_EMULATE);
    }
    if matches!(purpose, Test | Everything) {
        packages.extend(TO_TEST);
        if !kubernetes_validate()
            .join("bin/kubernetes-validate")
            .exists()
        {
            packages.extend(TO_VALIDATE);
            then.push(Step {
                title: format!("kubernetes-validate {KUBERNETES_VALIDATE}"),
                log: "kubernetes-validate.log",
                commands: install_kubernetes_validate(),
                root: false,
            });
        }
    }
    if matches!(purpose, Check | Everything) && !prints(&["cargo-deny", "--version"], CARGO_DENY) {
        let title = format!("cargo-deny {CARGO_DENY} (takes some minutes)");
        then.push(step(&title, "cargo-deny.log", install_cargo_deny()));
    }

    let names: Vec<&str> = packages
        .iter()
        .filter(|package| !package.probe.found())
        .map(|package| package.name)
        .collect();
    let mut steps = Vec::new();
    if !names.is_empty() {
        steps.push(Step {
            title: format!("Debian packages {}", names.join(" ")),
            log: "apt.log",
            commands: apt_get(&names)?,
            root: true,
        });
    }
    steps.extend(then);
    Ok(steps)
}

impl Probe {
    fn found(&self) -> bool {
        match self {
            Self::Program(name) => find_program(name).is_some(),
            Self::File(path) => Path::new(path).exists(),
            Self::Runs(words) => prints(words, ""),
        }
    }
}

/// Where a program is that somebody may run, or root alone.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Administration tools are not in every user's PATH.
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Whether a program runs well and what it prints has `text` in it.
fn prints(words: &[&str], text: &str) -> bool {
    let [program, arguments @ ..] = words else {
        return false;
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.is_ok_and(|it| it.status.success() && String::from_utf8_lossy(&it.stdout).contains(text))
}

fn rust_src() -> Result<bool> {
    let mut rustc = Command::new("rustc");
    let sysroot = command::output(rustc.args(["--print", "sysroot"]).current_dir(root()))?;
    Ok(Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .exists())
}

fn step(title: &str, log: &'static str, command: Command) -> Step {
    Step {
        title: title.to_owned(),
        log,
        commands: vec![command],
        root: false,
    }
}

fn apt_get(names: &[&str]) -> Result<Vec<Command>> {
    if find_program("apt-get").is_none() {
        bail!(
            "missing: what Debian has in its packages {}; this system has no apt-get, \
             so install your system's counterparts and run this again",
            names.join(" ")
        );
    }
    let mut update = Command::new("apt-get");
    update.arg("update");
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(names);
    Ok(vec![update, install])
}

fn rustup_rust_src() -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["component", "add", "rust-src"])
        .current_dir(root());
    command
}

fn install_bpf_linker() -> Command {
    let mut command = install(&["bpf-linker", "--version", BPF_LINKER]);
    command.env("LLVM_PREFIX", "/usr/lib/llvm-22");
    command.args(["--no-default-features", "--features", "llvm-22"]);
    command
}

fn install_cargo_deny() -> Command {
    install(&["cargo-deny", "--version", CARGO_DENY])
}

/// `cargo install`, run in the workspace so that its pinned toolchain compiles.
fn install(what: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command
        .args(["install", "--locked"])
        .args(what)
        .current_dir(root());
    // Not in this workspace's target directory, whatever the caller has set.
    command.env_remove("CARGO_TARGET_DIR");
    command
}

fn install_kubernetes_validate() -> Vec<Command> {
    let directory = kubernetes_validate();
    let mut venv = Command::new(PYTHON);
    venv.args(["-m", "venv", "--clear"]).arg(&directory);
    let mut pip = Command::new(directory.join("bin/pip"));
    pip.args([
        "install",
        "--quiet",
        &format!("kubernetes-validate=={KUBERNETES_VALIDATE}"),
    ]);
    vec![venv, pip]
}

/// Adds to a failed step what the tool itself does not say.
fn explain(error: anyhow::Error) -> Result<()> {
    let llvm = "llvm-22-dev";
    if !error.to_string().contains(llvm) || prints(&["apt-cache", "show", llvm], "Package:") {
        return Err(error);
    }
    Err(error.context(format!(
        "none of this system's apt sources has {llvm}. Debian 13 has it in main, Debian 12 in its security \
         suite (bookworm-security, main); for other systems the LLVM project has a repository of packages. \
         Add the one that fits and run this again"
    )))
}
