//! An emulated machine with Debian on its disk, and a shell on its console.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    base::Base,
    network::{Network, end},
    shell::Shell,
};
use crate::command;

/// A bound that only a machine that hangs exceeds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(900);

/// What distinguishes a machine from others.
pub struct Settings<'a> {
    /// The host name, and the name of its port.
    pub name: &'a str,
    /// Its address, with the prefix length.
    pub address: &'a str,
    /// Who may log in over SSH: a line of `authorized_keys`.
    pub operator_key: &'a str,
    /// `/var` is on a disk of its own.
    pub separate_var: bool,
}

/// A machine that is on.
pub struct Machine {
    child: Child,
    /// What is typed at its console goes through this.
    pub shell: Shell,
    prompt: String,
}

impl Machine {
    /// Makes the disks from the base system, and switches the machine on.
    ///
    /// # Errors
    ///
    /// A disk cannot be made, or the emulator does not start.
    pub fn start(
        base: &Base,
        network: &Network,
        work: &Path,
        settings: &Settings<'_>,
    ) -> Result<Self> {
        let name = settings.name;
        network.add_port(name)?;
        let disks = disks(base, work, settings)?;
        let mut qemu = network.command("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-accel", "tcg"])
            .args(["-cpu", "max", "-m", "1024", "-display", "none"])
            .args(["-serial", "stdio", "-device", "virtio-rng-pci"])
            .arg("-kernel")
            .arg(base.kernel()?)
            .arg("-initrd")
            .arg(base.initrd()?)
            .arg("-append")
            // KVM takes seconds to load.
            .arg(
                "console=ttyS0 root=/dev/vda rw quiet mitigations=off net.ifnames=0 panic=-1 \
                 module_blacklist=kvm,kvm_amd",
            )
            .arg("-netdev")
            .arg(format!("tap,id=port,ifname={name},script=no,downscript=no"))
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=port,mac={}", mac(settings)));
        for disk in &disks {
            qemu.arg("-drive")
                .arg(format!("file={},if=virtio,format=raw", disk.display()));
        }
        let mut child = qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{}`", command::line(&qemu)))?;
        let input = child.stdin.take().context("no input of the machine")?;
        let output = child.stdout.take().context("no output of the machine")?;
        let log = work.join(format!("{name}.log"));
        let shell = Shell::new(name, input, output, &log)?;
        Ok(Self {
            child,
            shell,
            prompt: format!("root@{name}:~# "),
        })
    }

    /// Waits until it has booted and somebody may type.
    ///
    /// # Errors
    ///
    /// It does not in time.
    pub fn wait_for_boot(&mut self) -> Result<()> {
        self.shell.wait_for(&self.prompt, BOOT_TIMEOUT)?;
        // The shell no longer shows what is typed, and the kernel no longer writes between the lines.
        self.shell.send(
            "stty -echo; bind 'set enable-bracketed-paste off'; PS1= PS2=; dmesg --console-off\n",
        )?;
        self.shell.succeed("true").map(drop)
    }

    /// Boots it again, as an operator does, and waits until somebody may type.
    ///
    /// # Errors
    ///
    /// It does not come back in time.
    pub fn reboot(&mut self) -> Result<()> {
        self.shell.send("systemctl reboot\n")?;
        self.wait_for_boot()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Locally administered, from the last two bytes of the address.
fn mac(settings: &Settings<'_>) -> String {
    let address = settings.address.split('/').next().unwrap_or_default();
    let bytes: Vec<u8> = address
        .split('.')
        .filter_map(|byte| byte.parse().ok())
        .collect();
    let [.., third, fourth] = bytes.as_slice() else {
        return "02:00:00:00:00:01".to_owned();
    };
    format!("02:00:00:00:{third:02x}:{fourth:02x}")
}

/// The root disk, and that of `/var` where it has one of its own.
fn disks(base: &Base, work: &Path, settings: &Settings<'_>) -> Result<Vec<PathBuf>> {
    let tree = work.join(format!("{}.root", settings.name));
    base.copy_to(&tree)?;
    let Settings {
        name,
        address,
        operator_key,
        separate_var,
    } = settings;
    let fstab = if *separate_var {
        "/dev/vdb /var ext4 defaults 0 2\n"
    } else {
        ""
    };
    let files = [
        ("etc/hostname", format!("{name}\n")),
        ("etc/hosts", format!("127.0.0.1 localhost\n127.0.1.1 {name}\n")),
        ("etc/fstab", fstab.to_owned()),
        ("root/.ssh/authorized_keys", format!("{operator_key}\n")),
        // Debian's installer sets interfaces up so.
        (
            "etc/network/interfaces",
            format!(
                "auto lo\niface lo inet loopback\n\
                 allow-hotplug eth0\niface eth0 inet static\n  address {address}\n"
            ),
        ),
        (
            "etc/systemd/network/eth0.network",
            format!("[Match]\nName=eth0\n\n[Network]\nAddress={address}\n"),
        ),
        // A login on the console without a password.
        (
            "etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf",
            "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I dumb\n".to_owned(),
        ),
    ];
    for (path, text) in files {
        let path = tree.join(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("making {}", directory.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    let mut disks = vec![disk(work, &format!("{name}.disk"), &tree)?];
    if *separate_var {
        disks.push(disk(work, &format!("{name}-var.disk"), &tree.join("var"))?);
    }
    command::run(Command::new("rm").arg("-r").arg(&tree))?;
    Ok(disks)
}

/// A file system with the content of a directory, in a file that takes no more room than that.
fn disk(work: &Path, name: &str, content: &Path) -> Result<PathBuf> {
    let path = work.join(name);
    // ext4 gets this size.
    command::run(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-d"])
            .arg(content)
            .arg(&path)
            .arg("3G")
            .stdout(Stdio::null()),
    )?;
    Ok(path)
}
