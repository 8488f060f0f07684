//! Fragments follow the verdict of their first one, over both families, and no way of cutting a packet up
//! gets it past a policy.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, TcpHeader};
use lab::{Family, HostSpec, LONG, Lab, Service, wait_until};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::policies::policy;

use Service::{Tcp, Udp};

/// More than two times what a link carries at once.
const LARGE: usize = 4000;

/// What is dropped is silent for this long.
const SILENCE: Duration = Duration::from_secs(1);

/// app-1 answers web-1, and opens nothing.
const BODY: &str = "appliesTo: app, egress: [], \
                    ingress: [{ from: [web], allow: [tcp/8080, udp/5353, icmp/8, icmpv6/128] }]";

/// Sends a datagram to a port of app-1 and gives how much comes back.
fn ask(lab: &Lab, port: u16, family: Family) -> Result<Option<usize>> {
    let to = SocketAddr::new(lab.address("app-1", family)?, port);
    let any: IpAddr = match family {
        Family::V4 => [0; 4].into(),
        Family::V6 => [0; 16].into(),
    };
    let web = lab.namespace("web-1")?;
    let socket = web.inside(|| UdpSocket::bind((any, 0)))??;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.send_to(&[7; LARGE], to)?;
    match socket.recv(&mut [0; 2 * LARGE]) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("waiting for an answer"),
    }
}

#[test]
fn large_datagrams_and_pings_pass_where_small_ones_do_and_nowhere_else() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &[Udp(5353), Udp(5354)])?;
        lab.apply(&policy(&[BODY]))?;
        for family in Family::ALL {
            ensure!(ask(lab, 5353, family)? == Some(LARGE), "{family}");
            ensure!(ask(lab, 5354, family)?.is_none(), "{family}");
            let to = lab.address("app-1", family)?.to_string();
            let ping = |from| {
                let mut ping = lab.namespace(from)?.command("ping");
                let ping = ping.args(["-n", "-q", "-c", "3", "-i", "0.2", "-W", "1", "-s", "3000"]);
                ping.arg(&to).output().context("running ping")
            };
            let answered = ping("web-1")?;
            let heard = String::from_utf8_lossy(&answered.stdout).into_owned();
            ensure!(heard.contains(" 0% packet loss"), "{heard}");
            ensure!(!ping("client-1")?.status.success(), "{family}");
        }
        let servers = lab.servers("app-1")?;
        ensure!(servers.arrivals(Udp(5353)) == 2 && servers.arrivals(Udp(5354)) == 0);
        // Of each datagram two more fragments than the first, and of each ping.
        let orphans = lab.counted("app-1", "fragment-orphan")?;
        ensure!(orphans == 2 * (2 + 3 * 2), "{orphans} orphans");
        Ok(())
    })
}

#[test]
fn a_scan_in_fragments_finds_nothing_and_is_counted() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8080)])?;
        lab.apply(&policy(&[BODY]))?;
        let to = lab.address("app-1", Family::V4)?.to_string();
        // The port is open to web-1, in whole packets. nmap cuts up IPv4 alone.
        for (options, state) in [(&["-sS"][..], "open"), (&["-sS", "-f"], "filtered")] {
            let mut nmap = lab.namespace("web-1")?.command("nmap");
            let nmap = nmap.args(["-n", "-Pn", "-p", "8080", "--max-retries", "1"]);
            let output = nmap.args(options).arg(&to).output();
            let output = output.context("running nmap: install the package nmap")?;
            let heard = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(
                heard.contains(&format!("8080/tcp {state}")),
                "{options:?}: {heard}"
            );
        }
        ensure!(
            lab.counted("web-1", "fragment-small")? + lab.counted("app-1", "fragment-small")? > 0
        );
        Ok(())
    })
}

/// A connection's first segment, in two fragments, the second of which begins at `from`.
fn segment(lab: &Lab, family: Family, to_port: u16, id: u16, from: usize) -> Result<[Vec<u8>; 2]> {
    let (source, destination) = (
        lab.address("client-1", family)?,
        lab.address("app-1", family)?,
    );
    let mut tcp = TcpHeader::new(40_000, to_port, 1, 1024);
    tcp.syn = true;
    let mut upper = tcp.to_bytes().to_vec();
    upper.extend([0; 20]);
    let pieces = [(0, 24, true), (from, 40, false)];
    let pieces = pieces.map(|(from, to, more)| {
        let offset = IpFragOffset::try_new(u16::try_from(from / 8)?)?;
        let payload = &upper[from..to];
        let mut packet = Vec::new();
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = u16::try_from(payload.len())?;
                let mut header = Ipv4Header::new(
                    length,
                    64,
                    IpNumber::TCP,
                    source.octets(),
                    destination.octets(),
                )?;
                (header.identification, header.fragment_offset) = (id, offset);
                (header.dont_fragment, header.more_fragments) = (false, more);
                header.write(&mut packet)?;
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    source: source.octets(),
                    destination: destination.octets(),
                    payload_length: u16::try_from(8 + payload.len())?,
                    next_header: IpNumber::IPV6_FRAGMENTATION_HEADER,
                    hop_limit: 64,
                    ..Ipv6Header::default()
                };
                header.write(&mut packet)?;
                Ipv6FragmentHeader::new(IpNumber::TCP, offset, more, id.into())
                    .write(&mut packet)?;
            }
            _ => bail!("the addresses are of two families"),
        }
        packet.extend(payload);
        Ok(packet)
    });
    let [first, second] = pieces;
    Ok([first?, second?])
}

/// Sends IP packets as they are.
fn send(lab: &Lab, family: Family, packets: &[Vec<u8>]) -> Result<()> {
    let to = SocketAddr::new(lab.address("app-1", family)?, 0);
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    lab.namespace("client-1")?.inside(|| {
        let socket = socket(domain, SocketType::RAW, Some(ipproto::RAW)).context("a raw socket")?;
        for packet in packets {
            sendto(&socket, packet, SendFlags::empty(), &to).context("sending a packet")?;
        }
        Ok(())
    })?
}

#[test]
fn an_overlap_that_would_rewrite_the_ports_and_an_orphan_go_nowhere() -> Result<()> {
    Lab::run(&[HostSpec::APP], |lab| {
        lab.apply(&policy(&["appliesTo: app, ingress: [\
            { from: [{ subnet: 10.66.9.0/24 }, { subnet: 'fd66:9::/64' }], allow: [tcp/8080] }]"]))?;
        for (number, family) in (1..).zip(Family::ALL) {
            // The second one of each pair: behind the headers, inside them, of another packet.
            let [first, rest] = segment(lab, family, 8080, 1, 24)?;
            send(lab, family, &[first, rest])?;
            let [first, overlap] = segment(lab, family, 8080, 2, 8)?;
            send(lab, family, &[first, overlap])?;
            let [_, orphan] = segment(lab, family, 8080, 3, 24)?;
            send(lab, family, &[orphan])?;
            // A first one that is denied takes the rest along.
            let [first, rest] = segment(lab, family, 8081, 4, 24)?;
            send(lab, family, &[first, rest])?;
            wait_until("the packets to be counted", LONG, || {
                let policy = lab.counted("app-1", "policy")?;
                Ok(policy == number && lab.counted("app-1", "fragment-orphan")? == 2 * number)
            })?;
            ensure!(
                lab.counted("app-1", "fragment-overlap")? == number,
                "{family}"
            );
            ensure!(lab.counted("app-1", "fragment-small")? == 0, "{family}");
        }
        Ok(())
    })
}
