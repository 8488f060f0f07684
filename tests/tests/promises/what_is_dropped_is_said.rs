//! A packet that no rule can judge is an event too, with what was seen of it; and what hosts need beside IP passes.

use anyhow::{Context, Result, ensure};
use lab::{Denial, HostSpec, LONG, Lab, Place, Service::Udp, wait_until};

use crate::policies::policy;

/// In the subnet of web-1, and without an agent.
const NEIGHBOUR: HostSpec = HostSpec {
    place: Place {
        name: "peer-1",
        subnet: 1,
        number: 20,
    },
    labels: &[],
};

const MAC: &str = "02:00:00:00:00:99";

fn everything_allowed(scenario: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB, NEIGHBOUR], |lab| {
        lab.enrol(&[HostSpec::WEB])?;
        scenario(lab)
    })
}

/// Sends frames that scapy's expressions make, from a host's interface. In them `dst` is the MAC address of web-1,
/// `ether` a header from [`MAC`] to it, and `ip` and `ip6` are headers to its addresses.
fn send(lab: &Lab, from: &str, frames: &[&str]) -> Result<()> {
    let address = "/sys/class/net/eth0/address";
    let mac = lab.namespace("web-1")?.command("cat").arg(address).output();
    let mac = String::from_utf8(mac.context("asking for a MAC address")?.stdout)?;
    let script = format!(
        "from scapy.all import *\n\
         dst = {mac:?}\n\
         def ether(**fields): return Ether(**{{'src': '{MAC}', 'dst': dst, **fields}})\n\
         ip = lambda **f: IP(src='10.66.1.20', dst='10.66.1.10', **f)\n\
         ip6 = lambda **f: IPv6(src='fd66:1::20', dst='fd66:1::10', **f)\n\
         try: sendp([{frames}], iface='eth0', verbose=0)\n\
         except OSError as error: assert error.errno == 105 # What is dropped on its way out.\n",
        mac = mac.trim(),
        frames = frames.join(", "),
    );
    let mut python = lab.namespace(from)?.command("/usr/bin/python3");
    let output = python.args(["-c", &script]).output();
    let output = output.context("running python3: install it (`cargo xtask setup`)")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn wait(lab: &Lab, frame: &str, like: impl Fn(&Denial) -> bool) -> Result<Denial> {
    let denial = lab.wait_denial(frame, "web-1", |denial| {
        denial.interface.as_deref() == Some("eth0") && like(denial)
    })?;
    ensure!(
        denial.tier.is_empty() && denial.rule.is_empty() && denial.packets > 0,
        "{denial:?}"
    );
    Ok(denial)
}

#[test]
fn whatever_it_is_with_what_was_seen() -> Result<()> {
    everything_allowed(|lab| {
        // What is sent, why it is dropped, and its protocol if it has addresses.
        let cases = [
            ("ether(type=0x8847)/(b'x'*60)", "ethertype", "0x8847", None),
            ("ether(type=0x8864)/(b'x'*60)", "ethertype", "0x8864", None),
            (
                "ether()/ip(frag=100, proto=17)/(b'x'*60)",
                "fragment-orphan",
                "0x0800",
                Some("udp"),
            ),
            (
                "ether()/ip(flags='MF', proto=6)/(b'x'*8)",
                "fragment-small",
                "0x0800",
                Some("tcp"),
            ),
            (
                "ether()/ip()/UDP(len=4)/(b'x'*60)",
                "malformed",
                "0x0800",
                Some("udp"),
            ),
            (
                "ether()/ip6()/IPv6ExtHdrDestOpt()/IPv6ExtHdrDestOpt()/IPv6ExtHdrDestOpt()/IPv6ExtHdrDestOpt()\
                 /IPv6ExtHdrDestOpt()/IPv6ExtHdrDestOpt()/IPv6ExtHdrDestOpt()/UDP()",
                "extension-headers",
                "0x86dd",
                Some("ipv6-opts"),
            ),
            // The kernel takes the outermost tag off before.
            (
                "ether()/Dot1Q(vlan=1)/Dot1Q(vlan=2)/Dot1Q(vlan=3)/Dot1Q(vlan=4)/ip()/UDP()",
                "vlan-tags",
                "0x8100",
                None,
            ),
        ];
        let frames = cases.map(|case| case.0);
        send(lab, "peer-1", &frames)?;
        for (frame, reason, ether_type, protocol) in cases {
            let denial = wait(lab, frame, |denial| {
                denial.reason == reason && denial.ether_type.as_deref() == Some(ether_type)
            })?;
            ensure!(
                denial.direction == "ingress" && denial.peer_mac.as_deref() == Some(MAC),
                "{denial:?}"
            );
            match protocol {
                Some(_) => ensure!(
                    denial.peer_address == denial_address(denial.peer_address.is_ipv6())
                        && !denial.protocol.is_empty(),
                    "{denial:?}"
                ),
                None => ensure!(denial.protocol.is_empty(), "{denial:?}"),
            }
            if let Some("udp" | "tcp") = protocol {
                ensure!(Some(denial.protocol.as_str()) == protocol, "{denial:?}");
            }
        }
        // And what goes out: to the one whose MAC address it has.
        send(
            lab,
            "web-1",
            &["ether(src=dst, dst='02:00:00:00:00:77', type=0x88a2)/(b'x'*60)"],
        )?;
        wait(lab, "ATA over Ethernet", |denial| {
            denial.direction == "egress"
                && denial.ether_type.as_deref() == Some("0x88a2")
                && denial.peer_mac.as_deref() == Some("02:00:00:00:00:77")
        })?;
        // As people see it.
        let table = lab.operator().run(&["denials"])?.fine()?.stdout;
        for words in [MAC, "0x8847 (MPLS)", "0x8864 (PPPoE)", "ethertype", "eth0"] {
            ensure!(table.contains(words), "no {words} in\n{table}");
        }
        Ok(())
    })
}

fn denial_address(is_ipv6: bool) -> std::net::IpAddr {
    if is_ipv6 {
        std::net::Ipv6Addr::new(0xfd66, 1, 0, 0, 0, 0, 0, 0x20).into()
    } else {
        [10, 66, 1, 20].into()
    }
}

#[test]
fn and_a_flood_of_it_hides_no_denial() -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB, NEIGHBOUR], |lab| {
        lab.enrol(&[HostSpec::WEB])?;
        lab.apply(&policy(&["appliesTo: web, ingress: [], egress: []"]))?;
        // Each of another EtherType and another sender.
        let flood = "*[ether(src='02:00:00:00:%02x:%02x' % (i >> 8, i & 255), type=0x3000 + i)/(b'x'*60) for i in range(1000)]";
        let knock = "ether()/ip()/UDP(sport=4711, dport=4712)";
        send(lab, "peer-1", &[flood, knock])?;
        lab.wait_denial("a datagram", "web-1", |denial| {
            denial.protocol == "udp" && denial.local_port == 4712 && denial.tier == "policy"
        })?;
        let dropped = lab.counted("web-1", "ethertype")?;
        ensure!(dropped >= 1000, "{dropped} of 1000 are counted");
        Ok(())
    })
}

#[test]
fn and_what_hosts_need_beside_ip_passes() -> Result<()> {
    everything_allowed(|lab| {
        let dropped = lab.counted("web-1", "ethertype")?;
        let passed = lab.counted("web-1", "link-control")?;
        let frames = [
            // RARP: a machine has moved to another host.
            "ether(dst='ff:ff:ff:ff:ff:ff', type=0x8035)/(b'x'*46)",
            // PTP, both addresses; LLDP; LACP; MVRP; CDP; PVST+; port authentication.
            "ether(dst='01:1b:19:00:00:00', type=0x88f7)/(b'x'*46)",
            "ether(dst='01:80:c2:00:00:0e', type=0x88f7)/(b'x'*46)",
            "ether(dst='01:80:c2:00:00:0e', type=0x88cc)/(b'x'*46)",
            "ether(dst='01:80:c2:00:00:02', type=0x8809)/(b'x'*46)",
            "ether(dst='01:80:c2:00:00:21', type=0x88f5)/(b'x'*46)",
            "Dot3(src='02:00:00:00:00:99', dst='01:00:0c:cc:cc:cc')/(b'x'*46)",
            "Dot3(src='02:00:00:00:00:99', dst='01:00:0c:cc:cc:cd')/(b'x'*46)",
            "ether(type=0x888e)/(b'x'*46)",
            // What a bond teaches its switches.
            "ether(dst='02:00:00:00:00:99', type=0x9000)/(b'x'*46)",
        ];
        for from in ["peer-1", "web-1"] {
            send(lab, from, &frames)?;
        }
        let passed = lab.counted("web-1", "link-control")? - passed;
        // All that leave, and six that arrive: the bridge between the two takes the rest.
        ensure!(passed >= frames.len() as u64 + 6, "{passed} passed");
        ensure!(lab.counted("web-1", "ethertype")? == dropped);
        Ok(())
    })
}

/// Sends datagrams from web-1 to peer-1 through a packet socket, past the queueing disciplines or not.
fn send_raw(lab: &Lab, port: u16, past_qdiscs: bool) -> Result<()> {
    let script = format!(
        "from scapy.all import *\nimport socket\n\
         mac = getmacbyip('10.66.1.20')\n\
         frame = Ether(src=get_if_hwaddr('eth0'), dst=mac)/IP(src='10.66.1.10', dst='10.66.1.20')/UDP(sport=4000, dport={port})/b'x'\n\
         raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
         raw.bind(('eth0', 0))\n\
         raw.setsockopt(263, 20, {bypass}) # SOL_PACKET, PACKET_QDISC_BYPASS\n\
         try: raw.send(bytes(frame))\n\
         except OSError as error: assert error.errno == 105\n",
        bypass = u8::from(past_qdiscs),
    );
    let mut python = lab.namespace("web-1")?.command("/usr/bin/python3");
    let output = python.args(["-c", &script]).output();
    let output = output.context("running python3: install it (`cargo xtask setup`)")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Not a promise but its limit, which ARCHITECTURE.md names: should this fail one day, Bulkhead reaches farther.
#[test]
fn but_for_what_a_raw_socket_sends_below_the_egress_hook() -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB, NEIGHBOUR], |lab| {
        lab.enrol(&[HostSpec::WEB])?;
        lab.apply(&policy(&["appliesTo: web, ingress: [], egress: []"]))?;
        lab.serve("peer-1", &[Udp(4001), Udp(4002)])?;
        send_raw(lab, 4001, false)?;
        lab.wait_denial("a datagram from a raw socket", "web-1", |denial| {
            denial.direction == "egress" && denial.peer_port == 4001
        })?;
        send_raw(lab, 4002, true)?;
        wait_until("what went past the hook to arrive", LONG, || {
            Ok(lab.servers("peer-1")?.arrivals(Udp(4002)) == 1)
        })?;
        ensure!(lab.servers("peer-1")?.arrivals(Udp(4001)) == 0);
        Ok(())
    })
}
