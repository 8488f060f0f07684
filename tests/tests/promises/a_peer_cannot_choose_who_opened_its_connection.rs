//! A peer that sends what the host's stack drops in silence, before its connection and beside it: who opened it stays
//! known, and so it is cut when it is revoked.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context, Result, ensure};
use lab::{Family, HostSpec, Lab, Service};

use crate::policies::policy;

const OPEN: &str = "appliesTo: app, ingress: [{ from: [\
    { subnet: 10.66.9.20/32 }, { subnet: 'fd66:9::20/128' }], allow: [tcp/8080] }]";
/// Nothing in; what app-1 opens itself is open still.
const REVOKED: &str = "appliesTo: app, ingress: []";

/// In it `local` and `remote` are the addresses of app-1 and client-1. It says a line when its connection has echoed
/// something, and for each line that it hears whether the connection does so once more.
const PEER: &str = r"
def forge(**fields):
    send(header(src=remote, dst=local)/TCP(sport=port, dport=8080, **fields), verbose=0)
def talks(connection, patience):
    connection.settimeout(patience)
    try:
        connection.sendall(b'x')
        return connection.recv(1) == b'x'
    except OSError:
        return False
def plant():
    for flags in ['SA', 'A', 'R', 'FA', 'RA', 'S', '', 'FPU']:
        forge(flags=flags, chksum=0x1234)
plant()
connection = socket.socket(family)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
connection.bind((remote, port))
connection.settimeout(20)
connection.connect((local, 8080))
assert talks(connection, 20)
plant()
# With the right checksum, and numbers that are not in the window.
for flags in ['SA', 'R', 'FA', 'S', 'A']:
    forge(flags=flags, seq=1, ack=1)
print('open' if talks(connection, 20) else 'lost', flush=True)
for line in sys.stdin:
    print('open' if talks(connection, 3) else 'cut', flush=True)
";

struct Peer {
    child: Child,
    ask: ChildStdin,
    says: BufReader<ChildStdout>,
}

impl Peer {
    fn connect(lab: &Lab, family: Family, port: u16) -> Result<Self> {
        let (header, number) = match family {
            Family::V4 => ("IP", "AF_INET"),
            Family::V6 => ("IPv6", "AF_INET6"),
        };
        let script = format!(
            "from scapy.all import *\nimport socket, sys\n\
             header, family, port = {header}, socket.{number}, {port}\nlocal, remote = {local:?}, {remote:?}\n{PEER}",
            local = lab.address("app-1", family)?.to_string(),
            remote = lab.address("client-1", family)?.to_string(),
        );
        let mut python = lab.namespace("client-1")?.command("/usr/bin/python3");
        python.args(["-c", &script]);
        let child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.context("running python3: install it (`cargo xtask setup`)")?;
        let ask = child.stdin.take().context("its standard input")?;
        let says = BufReader::new(child.stdout.take().context("its standard output")?);
        Ok(Self { child, ask, says })
    }

    fn says(&mut self) -> Result<String> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn ask(&mut self) -> Result<String> {
        writeln!(self.ask)?;
        self.says()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_it_plants_does_not_outlive_the_revocation() -> Result<()> {
    Lab::run(&[HostSpec::APP], |lab| {
        lab.serve("app-1", &[Service::Tcp(8080)])?;
        lab.apply(&policy(&[OPEN]))?;
        let mut peers = Vec::new();
        for family in Family::ALL {
            // Of a client, of nobody in particular, and of a server.
            for port in [45_000, 1_500, 443] {
                let mut peer = Peer::connect(lab, family, port)?;
                let first = peer.says()?;
                ensure!(first == "open", "{family}, from port {port}: {first:?}");
                peers.push((family, port, peer));
            }
        }
        // Another revision that allows it changes nothing for it.
        lab.apply(&policy(&[OPEN, "appliesTo: db, ingress: []"]))?;
        for (family, port, peer) in &mut peers {
            let now = peer.ask()?;
            ensure!(now == "open", "{family}, from port {port}: {now:?}");
        }
        lab.apply(&policy(&[REVOKED]))?;
        for (family, port, peer) in &mut peers {
            let now = peer.ask()?;
            ensure!(now == "cut", "{family}, from port {port}: {now:?}");
            let now = peer.ask()?;
            ensure!(now == "cut", "{family}, from port {port}: {now:?}");
        }
        lab.wait_denial("of what is revoked", "app-1", |denial| {
            denial.reason == "revoked" && denial.local_port == 8080
        })?;
        Ok(())
    })
}
