//! A host in quarantine can renew its address, and DHCP is no way out for anything else.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::AsFd,
};

use anyhow::{Context, Result, ensure};
use lab::{HostSpec, LONG, Lab, Namespace, Place, Rollout, Service, denied};
use rustix::net::netdevice::name_to_index;

use Service::Udp;

/// In the subnet of web-1, and without an agent.
const DHCP_SERVER: HostSpec = HostSpec {
    place: Place {
        name: "dhcp-1",
        subnet: 1,
        number: 20,
    },
    labels: &[],
};

/// Sent to every server in the subnet (RFC 8415).
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// A client's first message of DHCPv6, and the answer: type and transaction id.
const SOLICIT: [u8; 4] = [1, 7, 7, 7];
const ADVERTISE: [u8; 4] = [2, 7, 7, 7];

#[test]
fn and_its_ports_are_no_way_out() -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB, DHCP_SERVER], |lab| {
        lab.enrol(&[HostSpec::WEB])?;
        quarantine(lab)?;
        lab.serve("client-1", &[Udp(67), Udp(68), Udp(547)])?;
        lab.serve("web-1", &[Udp(67), Udp(68), Udp(546)])?;
        lab.serve("dhcp-1", &[Udp(67), Udp(547)])?;
        lab.check(&[
            // Nor a host on the link by its own address.
            denied("web-1", "dhcp-1", Udp(67)),
            denied("web-1", "dhcp-1", Udp(547)),
            denied("web-1", "client-1", Udp(67)),
            denied("web-1", "client-1", Udp(68)),
            denied("web-1", "client-1", Udp(547)),
            denied("client-1", "web-1", Udp(67)),
            denied("client-1", "web-1", Udp(68)),
            denied("client-1", "web-1", Udp(546)),
        ])
    })
}

#[test]
fn and_dhcp_works_on_the_link() -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB, DHCP_SERVER], |lab| {
        lab.enrol(&[HostSpec::WEB])?;
        quarantine(lab)?;
        let (web, server) = (lab.namespace("web-1")?, lab.namespace("dhcp-1")?);

        // Answers of IPv4 are in `a_host_keeps_its_lease`, with real clients.
        let servers = socket(server, (Ipv4Addr::UNSPECIFIED, 67))?;
        let client = socket(web, (Ipv4Addr::UNSPECIFIED, 68))?;
        client.set_broadcast(true)?;
        client.send_to(b"discover", (Ipv4Addr::BROADCAST, 67))?;
        expect(&servers, b"discover").context("a broadcast to the servers")?;

        let servers = socket(server, (Ipv6Addr::UNSPECIFIED, 547))?;
        let client = socket(web, (Ipv6Addr::UNSPECIFIED, 546))?;
        servers.join_multicast_v6(&ALL_SERVERS, name_to_index(servers.as_fd(), "eth0")?)?;
        let scope = name_to_index(client.as_fd(), "eth0")?;
        let all = SocketAddrV6::new(ALL_SERVERS, 547, 0, scope);
        client.send_to(&SOLICIT, all)?;
        let from = expect(&servers, &SOLICIT).context("a multicast to the servers")?;
        servers.send_to(&ADVERTISE, from)?;
        expect(&client, &ADVERTISE).context("an answer from the server")?;
        Ok(())
    })
}

fn quarantine(lab: &Lab) -> Result<()> {
    let command = ["quarantine", "web-1", "--reason", "a test of it"];
    lab.operator().one::<Rollout>(&command).map(drop)
}

fn socket(at: &Namespace, address: impl Into<SocketAddr> + Send) -> Result<UdpSocket> {
    let socket = at.inside(|| -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(address.into())?;
        socket.set_read_timeout(Some(LONG))?;
        Ok(socket)
    })?;
    socket.with_context(|| format!("making a socket in {}", at.name()))
}

fn expect(socket: &UdpSocket, words: &[u8]) -> Result<SocketAddr> {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    let heard = &buffer[..length];
    ensure!(heard == words, "heard {heard:?}");
    Ok(from)
}
