//! Packets that no honest stack sends, made with scapy: what gets through, and what is said of the rest.

use std::{collections::BTreeMap, net::IpAddr, os::fd::OwnedFd, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{Family, HostSpec, LONG, Lab, wait_until};
use rustix::{
    io::Errno,
    net::{AddressFamily, Protocol, RawProtocol, RecvFlags, SocketType, recv, socket, sockopt},
};

use crate::policies::policy;

/// What is to arrive is there by then.
const SILENCE: Duration = Duration::from_millis(500);

/// Sends what a list of scapy's expressions makes, from client-1. In them `ip` makes an IP header to app-1, and
/// `local` and `remote` are the addresses of app-1 and client-1.
fn forge(lab: &Lab, family: Family, packets: &[&str]) -> Result<()> {
    let header = match family {
        Family::V4 => "IP",
        Family::V6 => "IPv6",
    };
    let script = format!(
        "from functools import reduce\nfrom scapy.all import *\n\
         local, remote = {local:?}, {remote:?}\n\
         def ip(**fields): return {header}(**{{'src': remote, 'dst': local, **fields}})\n\
         for packet in [{packets}]: send(packet, verbose=0)\n",
        local = lab.address("app-1", family)?.to_string(),
        remote = lab.address("client-1", family)?.to_string(),
        packets = packets.join(", "),
    );
    let mut python = lab.namespace("client-1")?.command("/usr/bin/python3");
    let output = python.args(["-c", &script]).output();
    let output = output.context("running python3: install it (`cargo xtask setup`)")?;
    ensure!(
        output.status.success(),
        "scapy, of the package python3-scapy: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// What comes to app-1's IP layer of a protocol.
struct Ear(OwnedFd);

impl Ear {
    fn open(lab: &Lab, family: Family, protocol: u8) -> Result<Self> {
        let domain = match family {
            Family::V4 => AddressFamily::INET,
            Family::V6 => AddressFamily::INET6,
        };
        let protocol = RawProtocol::new(protocol.into()).map(Protocol::from_raw);
        let socket = lab.namespace("app-1")?.inside(|| {
            let socket = socket(domain, SocketType::RAW, protocol)?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(SILENCE))?;
            Ok::<_, Errno>(socket)
        })?;
        Ok(Self(socket.context("a raw socket")?))
    }

    /// How many packets came, until it is silent.
    fn heard(&self) -> Result<u32> {
        let mut packets = 0;
        loop {
            match recv(&self.0, &mut [0; 2048][..], RecvFlags::empty()) {
                Ok(_) => packets += 1,
                Err(Errno::AGAIN) => return Ok(packets),
                Err(error) => return Err(error).context("listening to a raw socket"),
            }
        }
    }
}

#[test]
fn protocols_pass_by_their_number_and_their_port() -> Result<()> {
    Lab::run(&[HostSpec::APP], |lab| {
        lab.apply(&policy(&[
            "appliesTo: app, egress: [], ingress: [{ from: [\
            { subnet: 10.66.9.20/32 }, { subnet: 'fd66:9::20/128' }], \
            allow: [gre, sctp/5000, protocol/253] }]",
        ]))?;
        for family in Family::ALL {
            let number = match family {
                Family::V4 => "proto",
                Family::V6 => "nh",
            };
            let by_number = |protocol: u8| format!("ip({number}={protocol})/(b'x'*32)");
            let sctp = |port: u16| format!("ip()/SCTP(sport=40000, dport={port})/(b'x'*16)");
            // What is sent, its protocol and its word in reports, and whether it is allowed.
            let cases = [
                (by_number(47), 47, "gre", true),
                (by_number(253), 253, "protocol/253", true),
                (by_number(254), 254, "protocol/254", false),
                (sctp(5000), 132, "sctp", true),
                (sctp(5001), 132, "sctp", false),
                (by_number(112), 112, "vrrp", false),
                (by_number(4), 4, "ipip", false),
                (by_number(2), 2, "igmp", false),
            ];
            let mut ears = BTreeMap::new();
            for (_, protocol, ..) in &cases {
                ears.insert(*protocol, Ear::open(lab, family, *protocol)?);
            }
            forge(lab, family, &cases.each_ref().map(|case| case.0.as_str()))?;
            for (protocol, ear) in &ears {
                let allowed = cases.iter().filter(|case| case.1 == *protocol && case.3);
                let (heard, allowed) = (ear.heard()?, allowed.count());
                ensure!(
                    heard as usize == allowed,
                    "{family}, protocol {protocol}: {heard} packets arrived, {allowed} are allowed"
                );
            }
            let from: IpAddr = lab.address("client-1", family)?;
            for (packet, _, word, _) in cases.iter().filter(|case| !case.3) {
                let denial = lab.wait_denial(packet, "app-1", |denial| {
                    denial.protocol == *word && denial.peer_address == from
                })?;
                let port = if *word == "sctp" { 5001 } else { 0 };
                ensure!(denial.local_port == port, "{denial:?}");
                ensure!(denial.reason == "policy", "{denial:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_forged_answer_is_no_answer_and_options_hide_nothing() -> Result<()> {
    Lab::run(&[HostSpec::APP], |lab| {
        lab.apply(&policy(&[
            "appliesTo: app, egress: [], ingress: [{ from: [\
            { subnet: 10.66.9.20/32 }, { subnet: 'fd66:9::20/128' }], allow: [tcp/8080] }]",
        ]))?;
        // Answers to what app-1 never said, of servers and of routers.
        forge(
            lab,
            Family::V4,
            &[
                "ip()/UDP(sport=53, dport=40001)/DNS(qr=1)",
                "ip()/TCP(sport=443, dport=40002, flags='SA')",
                "ip()/ICMP(type=3, code=4, nexthopmtu=576)\
                 /IP(src=local, dst=remote)/TCP(sport=40003, dport=443)",
                "ip(options=[IPOption_RR(), IPOption_NOP()])/TCP(dport=8081, flags='S')",
                "ip(src=local)/TCP(sport=8080, dport=8080, flags='S')",
            ],
        )?;
        forge(
            lab,
            Family::V6,
            &[
                "ip()/UDP(sport=53, dport=40001)/DNS(qr=1)",
                "ip()/TCP(sport=443, dport=40002, flags='SA')",
                "ip()/ICMPv6PacketTooBig(mtu=1280)\
                 /IPv6(src=local, dst=remote)/TCP(sport=40003, dport=443)",
                "ip()/IPv6ExtHdrDestOpt()/IPv6ExtHdrDestOpt()/TCP(dport=8081, flags='S')",
                "reduce(lambda packet, _: packet/IPv6ExtHdrDestOpt(), range(20), ip())/TCP(dport=8080)",
            ],
        )?;
        for family in Family::ALL {
            let (from, error) = (
                lab.address("client-1", family)?,
                match family {
                    Family::V4 => "icmp",
                    Family::V6 => "icmpv6",
                },
            );
            for (what, protocol, ports) in [
                ("of a forged answer", "udp", &[40_001][..]),
                ("of a forged accept", "tcp", &[40_002]),
                ("of a forged error", error, &[]),
                ("behind options", "tcp", &[8081]),
            ] {
                lab.wait_denial(what, "app-1", |denial| {
                    denial.protocol == protocol
                        && denial.peer_address == from
                        && ports.iter().all(|port| denial.local_port == *port)
                        && denial.direction == "ingress"
                })?;
            }
        }
        lab.wait_denial("of its own address", "app-1", |denial| {
            denial.tier == "anti-spoofing" && denial.local_port == 8080
        })?;
        wait_until("the endless chain to be counted", LONG, || {
            Ok(lab.counted("app-1", "extension-headers")? == 1)
        })?;
        ensure!(lab.counted("app-1", "related")? == 0);
        Ok(())
    })
}
