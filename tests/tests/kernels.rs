//! What depends on the kernel: programs load, attach, enforce, flip, and outlive their agent.
//! `cargo xtask test` runs this on this machine's kernel and, in virtual machines, on the older ones
//! that are supported.

#![forbid(unsafe_code)]

use std::{fs, net::UdpSocket, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lab::{Family, HostSpec, Lab, Lockstep, Service, allowed, denied, wait_until};

use Service::{Ping, Tcp};

/// Enforces, and is looked at.
const HOST: &str = "app-1";
const DATAGRAMS: u64 = 100;

#[test]
fn the_agent_lives_its_life_on_this_kernel() -> Result<()> {
    let kernel = Kernel::running()?;
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        println!("load, attach");
        lab.serve(HOST, &[Tcp(8080), Tcp(8081)])?;
        expect_hooks(lab, kernel.has_tcx())?;

        println!("enforce");
        lab.apply(&app_only_answers("tcp/8080, tcp/7000, udp/5000-5999"))?;
        lab.check(&[
            allowed("web-1", HOST, Tcp(8080)),
            denied("web-1", HOST, Tcp(8081)),
            denied("client-1", HOST, Tcp(8080)),
            denied("web-1", HOST, Ping),
            denied(HOST, "web-1", Ping),
        ])?;
        let datagrams = [
            lab.lockstep("web-1", HOST, 5004, Family::V4)?,
            lab.pushed("web-1", HOST, 5006, Family::V6)?,
        ];
        every_denied_packet_is_counted(lab)?;
        lab.wait_denial("a datagram from client-1", HOST, |denial| {
            denial.peer.as_deref() != Some("web-1") && denial.protocol == "udp"
        })?;

        println!("flip");
        let connection = lab.busy("web-1", HOST, 7000, Family::V6)?;
        connection.expect_progress()?;
        lab.apply(&app_only_answers("tcp/8081, udp/5000-5999"))?;
        connection.expect_silence()?;
        enforces_the_second_policy(lab)?;
        progress(&datagrams)?;

        println!("restart, adopt");
        let before = Status::of(lab)?;
        lab.agent(HOST)?.daemon().kill_9()?;
        enforces_the_second_policy(lab)?;
        progress(&datagrams)?;
        start(lab)?;
        progress(&datagrams)?;
        let after = Status::of(lab)?;
        ensure!(
            before.generation == after.generation && before.denied <= after.denied,
            "the maps were not adopted: {before:?}, then {after:?}"
        );
        enforces_the_second_policy(lab)?;

        println!("hook in by a setting");
        // The first clsact qdisc of an interface costs what is under way: the kernel sets its queues up anew.
        for flow in datagrams {
            flow.finish()?;
        }
        hooked_in_by(lab, "clsact", &[])?;
        expect_hooks(lab, false)?;
        let datagrams = [
            lab.lockstep("web-1", HOST, 5014, Family::V4)?,
            lab.pushed("web-1", HOST, 5016, Family::V6)?,
        ];
        if kernel.has_tcx() {
            hooked_in_by(lab, "tcx", &datagrams)?;
            expect_hooks(lab, true)?;
        } else {
            tcx_is_refused(lab)?;
            hooked_in_by(lab, "automatic", &datagrams)?;
            expect_hooks(lab, false)?;
        }

        println!("detach");
        for flow in datagrams {
            flow.finish()?;
        }
        lab.agent(HOST)?.daemon().kill_9()?;
        lab.agent(HOST)?.once("detach")?.fine()?;
        lab.check(&[
            allowed("client-1", HOST, Tcp(8080)),
            allowed("web-1", HOST, Ping),
        ])
    })
}

/// The running kernel's version.
struct Kernel(u32, u32);

impl Kernel {
    fn running() -> Result<Self> {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut number = || -> Option<u32> { numbers.next()?.parse().ok() };
        match (number(), number()) {
            (Some(major), Some(minor)) => Ok(Self(major, minor)),
            _ => bail!("this kernel's release is {release}, which has no version"),
        }
    }

    fn has_tcx(&self) -> bool {
        (self.0, self.1) >= (6, 6)
    }
}

/// What the kernel holds, as `bulkhead-agent status` shows it.
#[derive(Debug)]
struct Status {
    generation: u64,
    denied: u64,
}

impl Status {
    fn of(lab: &mut Lab) -> Result<Self> {
        let shown = lab.agent(HOST)?.once("status")?.fine()?.stdout;
        let number = |row: &str| -> Result<u64> {
            let value = shown.lines().find_map(|line| line.strip_prefix(row));
            let value = value.with_context(|| format!("no row {row:?} in\n{shown}"))?;
            value
                .trim()
                .parse()
                .with_context(|| format!("the row {row:?} in\n{shown}"))
        };
        Ok(Self {
            generation: number("generation")?,
            denied: number("packets denied")?,
        })
    }
}

/// HOST answers web-1 on these ports, and opens nothing.
fn app_only_answers(ports: &str) -> String {
    format!(
        "{{ apiVersion: bulkhead/v1, kind: Segment, name: web, match: {{ tier: web }} }}\n---\n\
         {{ apiVersion: bulkhead/v1, kind: Segment, name: app, match: {{ tier: app }} }}\n---\n\
         {{ apiVersion: bulkhead/v1, kind: Policy, name: app, appliesTo: app, \
           ingress: [{{ from: [web], allow: [{ports}] }}], egress: [] }}\n"
    )
}

fn enforces_the_second_policy(lab: &Lab) -> Result<()> {
    lab.check(&[
        allowed("web-1", HOST, Tcp(8081)),
        denied("web-1", HOST, Tcp(8080)),
        denied("client-1", HOST, Tcp(8081)),
    ])
}

fn every_denied_packet_is_counted(lab: &mut Lab) -> Result<()> {
    for family in Family::ALL {
        let to = lab.address(HOST, family)?;
        let before = Status::of(lab)?.denied;
        lab.namespace("client-1")?.inside(|| -> Result<()> {
            let any = match family {
                Family::V4 => "0.0.0.0:0",
                Family::V6 => "[::]:0",
            };
            let socket = UdpSocket::bind(any).context("opening a UDP socket")?;
            for _ in 0..DATAGRAMS {
                socket.send_to(b"denied", (to, 9))?;
            }
            Ok(())
        })??;
        wait_until("denied datagrams to be counted", lab::LONG, || {
            Ok(Status::of(lab)?.denied >= before + DATAGRAMS)
        })?;
        let counted = Status::of(lab)?.denied - before;
        ensure!(
            counted == DATAGRAMS,
            "{counted} packets were counted, and {DATAGRAMS} sent, over {family}"
        );
    }
    Ok(())
}

fn progress(datagrams: &[Lockstep]) -> Result<()> {
    datagrams
        .iter()
        .try_for_each(|flow| flow.expect_progress(100))
}

fn start(lab: &mut Lab) -> Result<()> {
    lab.agent(HOST)?.daemon().start()?;
    lab.wait_connected(HOST)
}

/// Restarts the agent under another setting; what is enforced stays.
fn hooked_in_by(lab: &mut Lab, hooking: &str, datagrams: &[Lockstep]) -> Result<()> {
    set_hooking(lab, hooking)?;
    // The agent is away after it was refused a setting.
    if lab.agent(HOST)?.daemon().is_running()? {
        lab.agent(HOST)?.daemon().kill_9()?;
    }
    start(lab)?;
    progress(datagrams)?;
    enforces_the_second_policy(lab)
}

fn tcx_is_refused(lab: &mut Lab) -> Result<()> {
    set_hooking(lab, "tcx")?;
    lab.agent(HOST)?.daemon().kill_9()?;
    let answer = lab.agent(HOST)?.once("run")?;
    answer.refused(78, &["TCX links came with 6.6", "\"automatic\""])?;
    enforces_the_second_policy(lab)
}

fn set_hooking(lab: &mut Lab, hooking: &str) -> Result<()> {
    lab.agent(HOST)?.configure(|config| {
        config.insert("hooking".to_owned(), hooking.into());
    })
}

/// Looks for pinned links: filters have none.
fn expect_hooks(lab: &Lab, tcx: bool) -> Result<()> {
    let pins = lab.directory().join(HOST).join("bpf/bulkhead");
    let versions = entries(&pins)?;
    let [version] = versions.as_slice() else {
        bail!("{} has {versions:?}", pins.display());
    };
    let links = entries(&version.join("links"))?;
    ensure!(
        links.len() == if tcx { 2 } else { 0 },
        "the pinned links are {links:?}, with tcx: {tcx}"
    );
    Ok(())
}

fn entries(directory: &PathBuf) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    entries
        .map(|entry| Ok(entry.context("reading a directory")?.path()))
        .collect()
}
