//! Under any policy and in quarantine: real clients get, renew and rebind their leases, and nobody else gets in
//! by their ports.

mod clients;

use std::{net::IpAddr, net::UdpSocket, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{Family, HostSpec, LONG, Lab, Place, Rollout, Service, denied, wait_until};
use rustix::process::Signal;

use self::clients::{Client, Process, dhclient6, server};
use crate::policies::policy;

/// In the subnet of web-1, and without an agent.
const NEIGHBOUR: HostSpec = HostSpec {
    place: Place {
        name: "dhcp-1",
        subnet: 1,
        number: 20,
    },
    labels: &[],
};

const WEB: &str = "web-1";
const RENEWALS: &str = "failsafe/dhcp-renewals-at-servers-that-answered";

/// A host that may talk to nobody, and that had its address from nowhere: it has none.
fn without_address(scenario: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB, NEIGHBOUR], |lab| {
        lab.enrol(&[HostSpec::WEB])?;
        lab.apply(&policy(&["appliesTo: web, ingress: [], egress: []"]))?;
        take_address(lab)?;
        scenario(lab)
    })
}

fn ip(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let output = lab.namespace(WEB)?.command("ip").args(arguments).output();
    let output = output.context("running ip")?;
    ensure!(output.status.success(), "ip {arguments:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn take_address(lab: &Lab) -> Result<()> {
    ip(lab, &["-4", "addr", "flush", "dev", "eth0"]).map(drop)
}

fn has_address(lab: &Lab, address: &str) -> Result<bool> {
    let addresses = ip(lab, &["-oneline", "addr", "show", "dev", "eth0"])?;
    Ok(addresses.contains(&format!(" {address}/")))
}

/// The host has its address, and a way to its controller.
fn leased(lab: &mut Lab) -> Result<()> {
    wait_until("a lease", LONG, || has_address(lab, "10.66.1.10"))?;
    lab.wait_connected(WEB)
}

/// What a rule of the host itself has let through.
fn passed(lab: &mut Lab, rule: &str) -> Result<u64> {
    let rules = lab.agent(WEB)?.once("rules")?.fine()?.stdout;
    let line = rules.lines().find(|line| line.contains(rule));
    let line = line.with_context(|| format!("no rule {rule} in\n{rules}"))?;
    let packets = line.split_whitespace().rev().nth(1);
    packets
        .and_then(|packets| packets.parse().ok())
        .with_context(|| format!("no count in {line}"))
}

/// How often a server has given a lease, or given it again.
fn acknowledged(server: &Process) -> Result<usize> {
    Ok(server.log()?.matches("DHCPACK(").count())
}

/// It is renewed at the server that gave it, by unicast.
fn renews(lab: &mut Lab, server: &Process) -> Result<()> {
    let before = acknowledged(server)?;
    wait_until("a renewal by unicast", LONG, || {
        Ok(passed(lab, RENEWALS)? > 0 && acknowledged(server)? > before)
    })
}

/// The server that gave it is gone, and another one gives it again.
fn rebinds(lab: &Lab, first: Process) -> Result<Process> {
    drop(first);
    let second = server(lab, lab.namespace(NEIGHBOUR.place.name)?, "eth0", 2)?;
    wait_until("another server to give it again", LONG, || {
        Ok(acknowledged(&second)? > 0)
    })?;
    Ok(second)
}

fn quarantine(lab: &Lab) -> Result<()> {
    let command = ["quarantine", WEB, "--reason", "a test of it"];
    lab.operator().one::<Rollout>(&command).map(drop)
}

fn a_lease_is_got_renewed_and_rebound(client: Client) -> Result<()> {
    without_address(|lab| {
        let first = server(lab, lab.router(), "subnet1", 1)?;
        let running = client.start(lab, WEB)?;
        leased(lab)?;
        if client == Client::Udhcpc {
            // It goes by the length of the lease alone, and asks when it is told to.
            running.signal(Signal::USR1)?;
        }
        renews(lab, &first)?;
        if client != Client::Udhcpc {
            rebinds(lab, first)?;
        }
        lab.check(&[denied("client-1", WEB, Service::Tcp(22))])
    })
}

#[test]
fn udhcpc_gets_and_renews_one() -> Result<()> {
    a_lease_is_got_renewed_and_rebound(Client::Udhcpc)
}

#[test]
fn dhclient_gets_renews_and_rebinds_one() -> Result<()> {
    a_lease_is_got_renewed_and_rebound(Client::Dhclient)
}

#[test]
fn networkd_gets_renews_and_rebinds_one() -> Result<()> {
    a_lease_is_got_renewed_and_rebound(Client::Networkd)
}

#[test]
fn in_quarantine_it_is_not_renewed_by_unicast_and_rebound_by_broadcast() -> Result<()> {
    without_address(|lab| {
        let server = server(lab, lab.router(), "subnet1", 1)?;
        let client = Client::Networkd.start(lab, WEB)?;
        leased(lab)?;
        renews(lab, &server)?;
        quarantine(lab)?;
        lab.wait_denial("a renewal by unicast", WEB, |denial| {
            denial.direction == "egress"
                && denial.tier == "quarantine"
                && (denial.protocol.as_str(), denial.peer_port) == ("udp", 67)
                && denial.peer_address == IpAddr::from([10, 66, 1, 1])
        })?;
        let before = acknowledged(&server)?;
        wait_until("the lease to be given again", LONG, || {
            Ok(acknowledged(&server)? > before)
        })?;
        drop(client);
        // And one that begins in quarantine.
        for client in [Client::Udhcpc, Client::Dhclient] {
            take_address(lab)?;
            let _client = client.start(lab, WEB)?;
            leased(lab)?;
        }
        Ok(())
    })
}

fn a_host_that_boots_without_address_gets_one(client: Client) -> Result<()> {
    without_address(|lab| {
        let agent = lab.agent(WEB)?;
        agent.daemon().terminate()?;
        // What a reboot does to the kernel; the disk stays.
        agent.once("detach")?.fine()?;
        ip(lab, &["link", "set", "eth0", "down"])?;
        let agent = lab.agent(WEB)?;
        agent.daemon().start()?;
        wait_until("the policy from disk to be in force", LONG, || {
            Ok(lab.agent(WEB)?.once("status")?.code == 0)
        })?;
        ip(lab, &["link", "set", "eth0", "up"])?;
        // The kernel has dropped them with the link.
        ip(
            lab,
            &["addr", "replace", "fd66:1::10/64", "dev", "eth0", "nodad"],
        )?;
        let _client = client.start(lab, WEB)?;
        let _server = server(lab, lab.router(), "subnet1", 1)?;
        leased(lab)?;
        lab.check(&[denied("client-1", WEB, Service::Tcp(22))])
    })
}

#[test]
fn a_host_that_boots_with_udhcpc_and_its_policy_from_disk_gets_one() -> Result<()> {
    a_host_that_boots_without_address_gets_one(Client::Udhcpc)
}

#[test]
fn a_host_that_boots_with_networkd_and_its_policy_from_disk_gets_one() -> Result<()> {
    a_host_that_boots_without_address_gets_one(Client::Networkd)
}

#[test]
fn of_ipv6_too_from_a_server_with_a_global_address_and_in_quarantine() -> Result<()> {
    without_address(|lab| {
        ip(lab, &["-4", "addr", "add", "10.66.1.10/24", "dev", "eth0"])?;
        ip(lab, &["route", "replace", "default", "via", "10.66.1.1"])?;
        lab.wait_connected(WEB)?;
        // A server that has no link-local address answers from the one that it has.
        for arguments in [
            "-6 addr flush dev subnet1 scope link",
            "-6 route replace fe80::/64 dev subnet1",
        ] {
            let mut command = lab.router().command("ip");
            let status = command.args(arguments.split(' ')).status();
            ensure!(status.context("running ip")?.success(), "ip {arguments}");
        }
        let _server = server(lab, lab.router(), "subnet1", 1)?;
        for round in ["under policy", "in quarantine"] {
            let client = dhclient6(lab, WEB)?;
            wait_until(&format!("an address {round}"), LONG, || {
                has_address(lab, "fd66:1::77")
            })?;
            let answer = "Reply message on eth0 from fd66:1::1.";
            ensure!(client.log()?.contains(answer), "no {answer}");
            drop(client);
            ip(lab, &["addr", "del", "fd66:1::77/64", "dev", "eth0"])?;
            quarantine(lab)?;
        }
        Ok(())
    })
}

/// Sends what scapy makes of an expression, on the link of web-1.
fn forge(lab: &Lab, frame: &str) -> Result<()> {
    let mac = lab
        .namespace(WEB)?
        .command("cat")
        .arg("/sys/class/net/eth0/address")
        .output();
    let mac = String::from_utf8(mac.context("asking for a MAC address")?.stdout)?;
    let script = format!(
        "from scapy.all import *\nmac = {mac:?}\n\
         def offer(to, xid): return BOOTP(op=2, xid=xid, yiaddr='10.66.1.99')/DHCP(options=[('message-type', 'offer'), ('server_id', '10.66.1.20'), 'end'])\n\
         sendp({frame}, iface='eth0', verbose=0)\n",
        mac = mac.trim(),
    );
    let mut python = lab
        .namespace(NEIGHBOUR.place.name)?
        .command("/usr/bin/python3");
    let output = python.args(["-c", &script]).output();
    let output = output.context("running python3: install it (`cargo xtask setup`)")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn and_who_answers_what_was_not_asked_is_denied_and_reported() -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB, NEIGHBOUR], |lab| {
        lab.enrol(&[HostSpec::WEB])?;
        lab.apply(&policy(&["appliesTo: web, ingress: [], egress: []"]))?;
        let client = lab
            .namespace(WEB)?
            .inside(|| UdpSocket::bind("0.0.0.0:68"))??;
        client.set_read_timeout(Some(Duration::from_millis(500)))?;
        let rogue = lab.address(NEIGHBOUR.place.name, Family::V4)?;
        for quarantined in [false, true] {
            if quarantined {
                quarantine(lab)?;
            }
            let tier = if quarantined { "quarantine" } else { "policy" };
            for (mac, to) in [
                ("'ff:ff:ff:ff:ff:ff'", "255.255.255.255"),
                ("mac", "10.66.1.10"),
            ] {
                forge(
                    lab,
                    &format!(
                        "Ether(dst={mac})/IP(src='{rogue}', dst='{to}')/UDP(sport=67, dport=68)/offer('{to}', 0x12345678)"
                    ),
                )?;
                lab.wait_denial("an answer to nothing", WEB, |denial| {
                    denial.tier == tier
                        && denial.direction == "ingress"
                        && denial.peer_address == rogue
                        && denial.local_address.to_string() == to
                        && (denial.peer_port, denial.local_port) == (67, 68)
                })?;
                let heard = client.recv(&mut [0; 1024]);
                ensure!(heard.is_err(), "{to}: it came through");
            }
        }
        Ok(())
    })
}
