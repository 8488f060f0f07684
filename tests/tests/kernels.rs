//! What depends on the kernel: programs load, attach, enforce, flip, and outlive their agent.
//! `cargo xtask test` runs this on this machine's kernel and, in virtual machines, on the older ones
//! that are supported.

#![forbid(unsafe_code)]

use std::{env, fs, io::ErrorKind, net::UdpSocket, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    CLIENT, Family, HostSpec, LONG, Lab, Lockstep, Service, Vlan, allowed, denied, kernel_has_sctp,
    wait_until,
};

use Service::{Ping, Sctp, Tcp, Udp};

/// Enforces, and is looked at.
const HOST: &str = "app-1";
const DATAGRAMS: u64 = 100;
/// Where nobody listens, and nobody may send to.
const UNSERVED: u16 = 9;
/// Where datagrams with tags are answered.
const TAGGED: u16 = 5900;
const VLANS: [Vlan; 2] = [Vlan::Single, Vlan::Double];
/// Of these machines' kernels nothing is left out.
const WHOLE: &str = "WHOLE";

#[test]
fn the_agent_lives_its_life_on_this_kernel() -> Result<()> {
    let kernel = Kernel::running()?;
    Lab::run_bare(&[HostSpec::APP], |lab| {
        println!("load, attach");
        let sctp = is_part("SCTP", kernel_has_sctp()?)?;
        let vlans = is_part("VLANs", lab.kernel_has_vlans()?)?;
        let mut services = vec![Tcp(8080), Tcp(8081), Udp(TAGGED)];
        if sctp {
            services.extend([Sctp(8080), Sctp(8081)]);
        }
        lab.serve(HOST, &services)?;
        let token = lab.create_token(&HostSpec::APP)?;
        lab.agent(HOST)?.give_token(&token)?;
        start(lab)?;
        expect_hooks(lab, kernel.has_tcx())?;

        println!("enforce");
        lab.apply(&host_only_answers(
            "tcp/8080, tcp/7000, udp/5000-5999, sctp/8080",
        ))?;
        let mut enforced = vec![
            allowed("client-1", HOST, Tcp(8080)),
            denied("client-1", HOST, Tcp(8081)),
            denied("client-1", HOST, Ping),
            denied("admin-1", HOST, Tcp(8080)),
            denied(HOST, "client-1", Ping),
        ];
        if sctp {
            enforced.push(allowed("client-1", HOST, Sctp(8080)));
            enforced.push(denied("client-1", HOST, Sctp(8081)));
        }
        lab.check(&enforced)?;
        every_denied_packet_is_counted(lab)?;
        lab.wait_denial("a datagram from admin-1", HOST, |denial| {
            denial.protocol == "udp" && denial.local_port == UNSERVED
        })?;
        if sctp {
            lab.wait_denial("an association from client-1", HOST, |denial| {
                denial.protocol == "sctp" && denial.local_port == 8081
            })?;
        }
        if vlans {
            println!("VLANs, policed on the device below them");
            VLANS
                .iter()
                .try_for_each(|vlan| lab.add_vlan(HOST, *vlan))?;
            polices_vlans(lab)?;
        }

        println!("restart, adopt");
        let traffic = Traffic::start(lab, 5000)?;
        let before = Status::of(lab)?;
        lab.agent(HOST)?.daemon().kill_9()?;
        traffic.goes_on()?;
        lab.check(&enforced)?;
        // From now on it takes VLANs too: they have addresses.
        lab.agent(HOST)?.configure(|config| {
            config.remove("interfaces");
        })?;
        if !kernel.has_tcx() {
            tcx_is_refused(lab)?;
            set_hooking(lab, "clsact")?;
        }
        start(lab)?;
        traffic.goes_on()?;
        lab.check(&enforced)?;
        let after = Status::of(lab)?;
        // The addresses of VLANs are the host's own, which is a flip of its own. New maps begin with 1.
        ensure!(
            before.generation <= after.generation && before.denied <= after.denied,
            "the maps were not adopted: {before:?}, then {after:?}"
        );
        if vlans {
            println!("VLANs, policed themselves");
            expect_interfaces(lab, &["double", "eth0", "single"])?;
            polices_vlans(lab)?;
            lab.remove_vlan(HOST, Vlan::Double)?;
            lab.add_vlan(HOST, Vlan::Double)?;
            expect_interfaces(lab, &["double", "eth0", "single"])?;
            polices_vlans(lab)?;
        }

        println!("flip");
        let connection = lab.busy("client-1", HOST, 7000, Family::V6)?;
        connection.expect_progress()?;
        lab.apply(&host_only_answers("tcp/8081, udp/5000-5999"))?;
        connection.expect_silence()?;
        enforces_the_second_policy(lab)?;
        // An interface's first clsact qdisc costs what is under way: the kernel sets its queues up anew.
        traffic.end()?;

        // The verifier takes its time on an emulated machine: no more loading than tells something new.
        if kernel.has_tcx() {
            println!("hook in by a setting");
            lab.agent(HOST)?.daemon().kill_9()?;
            set_hooking(lab, "clsact")?;
            start(lab)?;
            expect_hooks(lab, false)?;
            enforces_the_second_policy(lab)?;
        }

        println!("detach");
        lab.agent(HOST)?.daemon().kill_9()?;
        lab.agent(HOST)?.once("detach")?.fine()?;
        lab.check(&[
            allowed("admin-1", HOST, Tcp(8080)),
            allowed("client-1", HOST, Ping),
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

/// Says whether something is tested that not every kernel has.
fn is_part(what: &str, has: bool) -> Result<bool> {
    ensure!(
        has || env::var_os(WHOLE).is_none(),
        "this kernel should have {what}"
    );
    let word = if has { "with" } else { "without" };
    println!("{word} {what}");
    Ok(has)
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

/// Datagrams that need the host's word in both directions, none of which may be lost.
struct Traffic([Lockstep; 2]);

impl Traffic {
    fn start(lab: &Lab, port: u16) -> Result<Self> {
        Ok(Self([
            lab.lockstep("client-1", HOST, port, Family::V4)?,
            lab.pushed("client-1", HOST, port + 1, Family::V6)?,
        ]))
    }

    fn goes_on(&self) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|flow| flow.expect_progress(DATAGRAMS))
    }

    fn end(self) -> Result<()> {
        self.0.into_iter().try_for_each(|flow| {
            let returned = flow.finish()?;
            ensure!(returned > 0, "no datagram was sent");
            Ok(())
        })
    }
}

/// The host answers client-1 on these ports, and opens nothing.
fn host_only_answers(ports: &str) -> String {
    format!(
        "{{ apiVersion: bulkhead/v1, kind: Segment, name: app, match: {{ tier: app }} }}\n---\n\
         {{ apiVersion: bulkhead/v1, kind: Segment, name: client, subnets: [{}, \"{}\", 10.67.0.0/16] }}\n---\n\
         {{ apiVersion: bulkhead/v1, kind: Policy, name: app, appliesTo: app, \
           ingress: [{{ from: [client], allow: [{ports}] }}], egress: [] }}\n",
        format_args!("{}/32", CLIENT.address(Family::V4)),
        format_args!("{}/128", CLIENT.address(Family::V6)),
    )
}

fn enforces_the_second_policy(lab: &Lab) -> Result<()> {
    lab.check(&[
        allowed("client-1", HOST, Tcp(8081)),
        denied("client-1", HOST, Tcp(8080)),
        denied("admin-1", HOST, Tcp(8081)),
    ])
}

fn every_denied_packet_is_counted(lab: &mut Lab) -> Result<()> {
    for family in Family::ALL {
        let to = lab.address(HOST, family)?;
        let before = Status::of(lab)?.denied;
        lab.namespace("admin-1")?.inside(|| -> Result<()> {
            let any = match family {
                Family::V4 => "0.0.0.0:0",
                Family::V6 => "[::]:0",
            };
            let socket = UdpSocket::bind(any).context("opening a UDP socket")?;
            for _ in 0..DATAGRAMS {
                socket.send_to(b"denied", (to, UNSERVED))?;
            }
            Ok(())
        })??;
        wait_until("denied datagrams to be counted", LONG, || {
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

/// On each VLAN what is allowed is answered, and what is denied is counted, once, and goes nowhere.
fn polices_vlans(lab: &mut Lab) -> Result<()> {
    const EACH: u64 = 10;
    let before = Status::of(lab)?.denied;
    let mut sent = 0;
    for vlan in VLANS {
        let (host, router) = (vlan.host(), vlan.router());
        let ours = lab.namespace(HOST)?;
        let ours = ours.inside(|| UdpSocket::bind((host, UNSERVED)))??;
        let theirs = lab
            .router()
            .inside(|| UdpSocket::bind((router, UNSERVED)))??;
        theirs.set_read_timeout(Some(LONG))?;
        for _ in 0..EACH {
            theirs.send_to(b"denied", (host, UNSERVED))?;
            // A drop may be told as an error.
            let _ = ours.send_to(b"denied", (router, UNSERVED));
            sent += 2;
            theirs.send_to(b"allowed", (host, TAGGED))?;
            let mut answer = [0; 7];
            let answered = theirs.recv(&mut answer);
            answered.with_context(|| format!("waiting for an answer over {vlan:?}"))?;
            ensure!(&answer == b"allowed", "what is denied came over {vlan:?}");
        }
        for socket in [ours, theirs] {
            socket.set_nonblocking(true)?;
            let silent = socket.recv(&mut [0; 7]);
            ensure!(
                silent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
                "what is denied came over {vlan:?}"
            );
        }
    }
    wait_until("what is denied in VLANs to be counted", LONG, || {
        Ok(Status::of(lab)?.denied >= before + sent)
    })?;
    let counted = Status::of(lab)?.denied - before;
    ensure!(counted == sent, "{counted} packets were counted, of {sent}");
    Ok(())
}

/// Waits until these are policed, and perhaps others.
fn expect_interfaces(lab: &mut Lab, names: &[&str]) -> Result<()> {
    let mut shown = String::new();
    wait_until(
        &format!("enforcement on {}", names.join(", ")),
        LONG,
        || {
            shown = lab.agent(HOST)?.once("status")?.fine()?.stdout;
            let row = shown
                .lines()
                .find_map(|line| line.strip_prefix("enforcement"));
            let policed = row.and_then(|row| row.trim().strip_prefix("on "));
            let policed: Vec<&str> = policed.unwrap_or_default().split(", ").collect();
            Ok(names.iter().all(|name| policed.contains(name)))
        },
    )
    .with_context(|| format!("the last status was\n{shown}"))
}

/// Starts the agent, and waits until it has taken up what is enforced.
fn start(lab: &mut Lab) -> Result<()> {
    // Its own word for it: the operator's tool takes long on an emulated machine.
    let connected = |lab: &mut Lab| -> Result<usize> {
        let log = lab.agent(HOST)?.daemon().log()?;
        Ok(log.matches("connected to a controller").count())
    };
    let before = connected(lab)?;
    lab.agent(HOST)?.daemon().start()?;
    wait_until("the agent to come back", LONG, || {
        Ok(connected(lab)? > before)
    })
}

fn tcx_is_refused(lab: &mut Lab) -> Result<()> {
    set_hooking(lab, "tcx")?;
    let answer = lab.agent(HOST)?.once("run")?;
    answer.refused(78, &["TCX links came with 6.6", "\"automatic\""])?;
    Ok(())
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
