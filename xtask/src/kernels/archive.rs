//! Kernels from Debian's archive: apt finds the newest of a suite, and checks what it downloads.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::Kernel;
use crate::{command, root};

/// Of the package debian-archive-keyring: who may sign Debian's archive.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The public archive, and that of releases that have left it.
const PUBLIC: [&str; 2] = [
    "http://deb.debian.org/debian/",
    "http://archive.debian.org/debian/",
];
/// Depends on the newest kernel of its suite.
const NEWEST: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
pub struct Files {
    /// What a boot loader loads.
    pub image: PathBuf,
    /// `lib/modules/<release>`.
    pub modules: PathBuf,
}

impl Files {
    /// Finds them where [`fetch_if_missing`] has put them.
    ///
    /// # Errors
    ///
    /// They are not there.
    pub fn of(kernel: &Kernel) -> Result<Self> {
        let directory = directory(kernel);
        let boot = entries(&directory.join("boot"))?;
        let is_image = |path: &&PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with("vmlinuz-")
        };
        let image = boot
            .iter()
            .find(is_image)
            .with_context(|| format!("no kernel in {}", directory.display()))?;
        let modules = entries(&directory.join("lib/modules"))?;
        let modules = modules
            .first()
            .with_context(|| format!("no modules in {}", directory.display()))?;
        Ok(Self {
            image: image.clone(),
            modules: modules.clone(),
        })
    }
}

/// Downloads and unpacks a kernel, from the first mirror that has it.
///
/// # Errors
///
/// No mirror has it: each is named with why not.
pub fn fetch_if_missing(kernel: &Kernel) -> Result<()> {
    if directory(kernel).exists() {
        return Ok(());
    }
    let mut refusals = Vec::new();
    for mirror in mirrors()? {
        match fetch(kernel, &mirror) {
            Ok(()) => return Ok(()),
            Err(error) => refusals.push(format!("{mirror}: {error:#}")),
        }
    }
    let Kernel { version, suite } = kernel;
    bail!(
        "no mirror of Debian's archive gave Linux {version} of {suite}:\n{}",
        refusals.join("\n")
    )
}

fn fetch(kernel: &Kernel, mirror: &str) -> Result<()> {
    let Kernel { version, suite } = kernel;
    let title = format!("setup: Linux {version} of Debian {suite}");
    let log = |what| root().join(format!("target/setup/linux-{version}-{what}.log"));
    // It gets its name when it is whole.
    let unpacked = directory(kernel).with_extension("new");
    remove(&unpacked)?;
    let apt = Apt::new(&unpacked.join("apt"), mirror, suite)?;
    let mut update = apt.command("apt-get");
    update.arg("update");
    command::run_logged(&title, &log("index"), &mut [update])?;

    let package = apt.newest_kernel()?;
    ensure!(
        package.starts_with(&format!("linux-image-{version}.")),
        "{suite} has {package} and not Linux {version}: change the list in xtask/src/kernels.rs"
    );
    let mut download = apt.command("apt-get");
    download.args(["download", &package]);
    command::run_logged(
        &format!("setup: {package}"),
        &log("package"),
        &mut [download],
    )?;
    let archives = entries(&apt.directory)?;
    let archive = archives
        .iter()
        .find(|path| path.extension().is_some_and(|it| it == "deb"))
        .with_context(|| format!("apt-get has left no {package}"))?;
    command::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(archive)
            .arg(&unpacked),
    )?;
    remove(&apt.directory)?;
    let whole = directory(kernel);
    fs::rename(&unpacked, &whole).with_context(|| format!("making {}", whole.display()))
}

/// An apt that knows one suite of one mirror, and nothing of what this machine has installed.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn new(directory: &Path, mirror: &str, suite: &str) -> Result<Self> {
        for below in ["state/lists/partial", "cache/archives/partial"] {
            let path = directory.join(below);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        let shown = directory.display();
        let files = [
            (
                "sources.list",
                // Of a retired release nobody renews the signature.
                format!(
                    "deb [arch=amd64 signed-by={KEYRING} check-valid-until=no] {mirror} {suite} main\n"
                ),
            ),
            (
                "apt.conf",
                format!(
                    "Dir::Etc::SourceList \"{shown}/sources.list\";\n\
                     Dir::Etc::SourceParts \"-\";\n\
                     Dir::State \"{shown}/state\";\n\
                     Dir::State::status \"/dev/null\";\n\
                     Dir::Cache \"{shown}/cache\";\n\
                     APT::Architecture \"amd64\";\n\
                     APT::Sandbox::User \"root\";\n\
                     APT::Update::Error-Mode \"any\";\n\
                     Acquire::Languages \"none\";\n"
                ),
            ),
        ];
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// In its directory, beside the rest of this machine's configuration: proxies stay.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.directory.join("apt.conf"))
            .current_dir(&self.directory);
        command
    }

    /// The package that the newest kernel of the suite is in.
    fn newest_kernel(&self) -> Result<String> {
        let shown = command::output(self.command("apt-cache").args(["depends", NEWEST]))?;
        let name = shown
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .with_context(|| format!("{NEWEST} depends on no kernel:\n{shown}"))?;
        Ok(name.to_owned())
    }
}

/// Where Debian's archive may be: on a Debian machine its own mirrors first.
///
/// # Errors
///
/// There is no apt.
pub fn mirrors() -> Result<Vec<String>> {
    let format = "$(REPO_URI) $(ORIGIN)/$(LABEL)";
    let known = command::output(
        Command::new("apt-get")
            .args(["indextargets", "--format", format])
            .arg("Created-By: Packages"),
    )?;
    let mut mirrors = Vec::new();
    for line in known.lines() {
        // Before the first update apt knows the address alone.
        let is_debian = match line.split_once(' ') {
            Some((_, "Debian/Debian")) => true,
            Some((address, "/")) => address.trim_end_matches('/').ends_with("/debian"),
            _ => false,
        };
        let address = line.split(' ').next().unwrap_or_default().to_owned();
        if is_debian && !mirrors.contains(&address) {
            mirrors.push(address);
        }
    }
    for address in PUBLIC.map(str::to_owned) {
        if !mirrors.contains(&address) {
            mirrors.push(address);
        }
    }
    Ok(mirrors)
}

fn directory(kernel: &Kernel) -> PathBuf {
    root().join("target/setup/linux").join(kernel.version)
}

/// Removes a directory, if it is there.
fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("removing {}", directory.display())),
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("reading {}", directory.display());
    fs::read_dir(directory)
        .with_context(reading)?
        .map(|entry| Ok(entry.with_context(reading)?.path()))
        .collect()
}
