//! Pairs of network namespaces, joined by a veth: a client, and a server with one of the firewalls.

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::AsFd as _,
    panic,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::workload::{CLIENT, SERVER};

/// The server's interface.
pub const INTERFACE: &str = "eth0";
/// How the namespaces are called; their process comes next.
const PREFIX: &str = "bulkhead-bench-";

/// Two namespaces. Dropping it removes both.
pub struct Pair {
    name: String,
}

/// One end of a pair.
#[derive(Clone, Copy)]
pub enum End {
    Client,
    Server,
}

impl Pair {
    pub fn new(name: &str) -> Result<Self> {
        let pair = Self {
            name: format!("{PREFIX}{}-{name}", std::process::id()),
        };
        let (client, server) = (pair.namespace(End::Client), pair.namespace(End::Server));
        run(
            &mut Command::new("ip"),
            &["-batch", "-"],
            &format!("netns add {client}\nnetns add {server}\n"),
        )?;
        // Permanent neighbours, so that no probe comes between; all that is sent has somewhere to go.
        let (here, there) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
        run(
            &mut Command::new("ip"),
            &["-netns", &client, "-batch", "-"],
            &format!(
                "link add {INTERFACE} address {here} type veth peer name {INTERFACE} address {there} netns {server}\n\
                 link set lo up\n\
                 link set {INTERFACE} up\n\
                 addr add {CLIENT}/32 dev {INTERFACE}\n\
                 neigh add {SERVER} lladdr {there} nud permanent dev {INTERFACE}\n\
                 route add {SERVER} dev {INTERFACE} src {CLIENT}\n\
                 route add local 10.100.0.0/16 dev lo\n\
                 route add local 10.200.0.0/16 dev lo\n\
                 route add local 10.99.0.0/16 dev lo\n"
            ),
        )?;
        run(
            &mut Command::new("ip"),
            &["-netns", &server, "-batch", "-"],
            &format!(
                "link set lo up\n\
                 link set {INTERFACE} up\n\
                 addr add {SERVER}/32 dev {INTERFACE}\n\
                 neigh add {CLIENT} lladdr {here} nud permanent dev {INTERFACE}\n\
                 route add 10.0.0.0/8 via {CLIENT} dev {INTERFACE} onlink\n"
            ),
        )?;
        for end in [End::Client, End::Server] {
            pair.inside(end, || -> Result<()> {
                for (name, value) in [
                    ("ipv4/conf/all/rp_filter", "0"),
                    ("ipv4/conf/eth0/rp_filter", "0"),
                    ("ipv6/conf/all/disable_ipv6", "1"),
                ] {
                    fs::write(Path::new("/proc/sys/net").join(name), value)
                        .with_context(|| format!("setting {name}"))?;
                }
                Ok(())
            })??;
        }
        Ok(pair)
    }

    pub fn namespace(&self, end: End) -> String {
        match end {
            End::Client => format!("{}-c", self.name),
            End::Server => format!("{}-s", self.name),
        }
    }

    /// Runs `work` on a thread inside; sockets that it makes stay inside.
    pub fn inside<T: Send>(&self, end: End, work: impl FnOnce() -> T + Send) -> Result<T> {
        let name = self.namespace(end);
        let file = File::open(Path::new("/run/netns").join(&name))
            .with_context(|| format!("opening the namespace {name}"))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("entering a namespace")?;
                Ok(work())
            });
            inside
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Runs a program at one end, with its input.
    pub fn run(&self, end: End, words: &[&str], input: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(end)]);
        run(&mut command, words, input)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for end in [End::Client, End::Server] {
            remove(&self.namespace(end));
        }
    }
}

fn remove(namespace: &str) {
    let _ = Command::new("ip")
        .args(["netns", "delete", namespace])
        .status();
}

/// Removes what a killed run left behind.
pub fn sweep() -> Result<()> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            remove(&name);
        }
    }
    Ok(())
}

/// Runs a program to its end.
fn run(command: &mut Command, words: &[&str], input: &str) -> Result<()> {
    let mut child = command
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {words:?}: `cargo xtask setup` installs it"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .context("writing its input")?;
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{words:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
