//! Real DHCP clients and servers in a lab's namespaces.

use std::{
    fs::{self, File},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use lab::{LONG, Lab, Namespace, wait_until};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// When leases are to be renewed and rebound, in seconds: as soon as may be, for nobody waits.
const RENEW: u32 = 3;
const REBIND: u32 = 8;

/// Clients that differ in where they take answers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Busybox: a packet socket of type ETH_P_IP, served behind TC ingress.
    Udhcpc,
    /// ISC: a packet socket of type ETH_P_ALL, served before it; unicast from a UDP socket.
    Dhclient,
    /// The one of most distributions: as busybox.
    Networkd,
}

/// A program that is ended, with all that it started, when it is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log).context("making a log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("sharing a log")?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {command:?}: install it (`cargo xtask setup`)"))?;
        Ok(Self { child, log })
    }

    pub fn log(&self) -> Result<String> {
        let log = fs::read(&self.log).context("reading a log")?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("sending a signal")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        // Shown where the test fails.
        eprintln!("{}", self.log().unwrap_or_default());
    }
}

/// A script, made executable.
fn script(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}")).context("writing a script")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("a script's mode")?;
    Ok(path)
}

impl Client {
    /// Starts it on the host's `eth0`.
    pub fn start(self, lab: &Lab, host: &str) -> Result<Process> {
        let directory = lab.directory().join(host);
        let namespace = lab.namespace(host)?;
        let path = |name: &str| directory.join(name).display().to_string();
        let command = match self {
            Self::Udhcpc => {
                let bind = script(
                    &directory,
                    "udhcpc.sh",
                    "case $1 in bound|renew) ip addr replace $ip/24 dev $interface\n\
                     ip route replace default via $router;; esac\n",
                )?;
                let mut command = namespace.command("udhcpc");
                command.args(["-f", "-i", "eth0", "-t", "100", "-T", "1", "-s"]);
                command.arg(bind);
                command
            }
            Self::Dhclient => dhclient(namespace, &directory, &[])?,
            Self::Networkd => {
                let config = "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n\
                     LinkLocalAddressing=no\nKeepConfiguration=no\n[DHCPv4]\nSendRelease=no\nClientIdentifier=mac\n";
                fs::write(path("eth0.network"), config).context("networkd's configuration")?;
                // Its own /run and configuration; and a sysfs that is not for writing says that there is no udev
                // to wait for.
                let start = format!(
                    "set -e\nmount -t tmpfs tmpfs /run\nmount -t tmpfs tmpfs /etc/systemd/network\n\
                     mount -o remount,bind,ro /sys\ncp {} /etc/systemd/network\n\
                     mkdir -p /run/systemd/network /run/systemd/netif/leases /run/systemd/netif/links /run/systemd/netif/lldp\n\
                     chown -R systemd-network: /run/systemd/netif\n\
                     exec /lib/systemd/systemd-networkd\n",
                    path("eth0.network")
                );
                let start = script(&directory, "networkd.sh", &start)?;
                let mut command = namespace.command("unshare");
                command.arg("--mount").arg(start);
                command
            }
        };
        Process::start(command, directory.join(format!("{self:?}.log")))
    }
}

/// `dhclient -6` on the host's `eth0`.
pub fn dhclient6(lab: &Lab, host: &str) -> Result<Process> {
    let directory = lab.directory().join(host);
    let command = dhclient(lab.namespace(host)?, &directory, &["-6"])?;
    Process::start(command, directory.join("dhclient6.log"))
}

fn dhclient(namespace: &Namespace, directory: &Path, flags: &[&str]) -> Result<Command> {
    let bind = script(
        directory,
        "dhclient.sh",
        "case $reason in\n\
         BOUND|RENEW|REBIND|REBOOT) ip addr replace $new_ip_address/24 dev $interface\n\
         ip route replace default via $new_routers;;\n\
         BOUND6|RENEW6|REBIND6) ip addr replace $new_ip6_address/64 dev $interface nodad;;\n\
         esac\n",
    )?;
    // Tries again after a second, and not after ten.
    let config = directory.join("dhclient.conf");
    fs::write(
        &config,
        "initial-interval 1; backoff-cutoff 2; retry 1; timeout 100;\n",
    )
    .context("dhclient's configuration")?;
    let mut command = namespace.command("dhclient");
    command.args(["-d", "-v"]).args(flags);
    for (flag, name) in [("-lf", "dhclient.leases"), ("-pf", "dhclient.pid")] {
        command.arg(flag).arg(directory.join(name));
    }
    command.arg("-sf").arg(bind).arg("-cf").arg(config);
    command.arg("eth0");
    Ok(command)
}

/// Starts dnsmasq on an interface, with one address to give for ten minutes of IPv4, and one of IPv6. Servers of
/// one lab know the same leases.
pub fn server(lab: &Lab, at: &Namespace, interface: &str, number: u32) -> Result<Process> {
    let path = |name: String| lab.directory().join(name).display().to_string();
    let mut command = at.command("dnsmasq");
    command
        .args(["--keep-in-foreground", "--log-facility=-", "--log-dhcp"])
        .args([
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ])
        .args([
            "--port=0",
            "--bind-interfaces",
            "--no-ping",
            "--dhcp-authoritative",
        ])
        .arg(format!(
            "--pid-file={}",
            path(format!("dnsmasq{number}.pid"))
        ))
        .arg(format!(
            "--dhcp-leasefile={}",
            path("dnsmasq.leases".into())
        ))
        .arg(format!("--interface={interface}"))
        .arg("--dhcp-range=10.66.1.10,10.66.1.10,10m")
        .arg("--dhcp-range=fd66:1::77,fd66:1::77,64,10m")
        .arg("--dhcp-option=option:router,10.66.1.1")
        .arg(format!("--dhcp-option=option:T1,{RENEW}"))
        .arg(format!("--dhcp-option=option:T2,{REBIND}"));
    let log = lab.directory().join(format!("dnsmasq{number}.log"));
    let server = Process::start(command, log)?;
    wait_until("dnsmasq to serve", LONG, || {
        Ok(server.log()?.contains("sockets bound"))
    })?;
    Ok(server)
}
