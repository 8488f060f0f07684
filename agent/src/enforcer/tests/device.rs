//! Frames on a real device: tags that the kernel takes off before the programs run, headers in pages.

use std::{net::UdpSocket, time::Duration};

use super::{
    attaching::{enforcer, interface, ip, veth},
    *,
};
use crate::kernel::testing::{in_own_namespace, send_frame};

/// Denies all but UDP to port 53.
fn only_port_53() -> HostPolicy {
    let mut policy = uniform(Action::Deny);
    let mut allows = policy.rules.clone();
    for allow in &mut allows {
        allow.action = Action::Allow;
        allow.ports = vec![policy::PortSpan {
            slot: ProtocolSlot::Udp,
            first: 53,
            last: 53,
        }];
    }
    policy.rules.splice(0..0, allows);
    policy
}

#[test]
fn tags_hide_nothing_from_the_programs_that_they_do_not_hide_from_the_stack() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let outside = veth_pair();
        ip("addr add 10.9.0.1/24 dev bh0");
        let mut enforcer = enforcer(&bpffs, HookingChoice::Automatic, &["bh0"]);
        let local = LocalTiers::default();
        enforcer
            .apply(&only_port_53(), [2; 32], &local, DAWN)
            .unwrap();
        enforcer.attach().unwrap();
        let [open, closed] = [53, 54].map(|port| {
            let socket = UdpSocket::bind(("10.9.0.1", port)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket
        });
        // Linux takes any number of tags of VLAN 0 off, the first before the programs run.
        for tags in [0, 1, 2] {
            for port in [54, 53] {
                let mut frame = Vec::new();
                PacketBuilder::ethernet2([4; 6], HOST_MAC)
                    .ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64)
                    .udp(40_000 + tags, port)
                    .write(&mut frame, b"ahoy")
                    .unwrap();
                // The outer one is written last.
                for ether_type in &[[0x81, 0x00], [0x88, 0xa8]][..usize::from(tags)] {
                    frame.splice(12..12, [ether_type[0], ether_type[1], 0, 0]);
                }
                send_frame(&outside, &frame);
            }
            let (_, from) = open.recv_from(&mut [0; 16]).unwrap();
            assert_eq!(from.port(), 40_000 + tags, "behind {tags} tags");
            let Counters { reasons, .. } = enforcer.counters().unwrap();
            let denied = ("policy", u64::from(tags) + 1);
            assert!(reasons.contains(&denied), "{reasons:?}");
        }
        closed.set_nonblocking(true).unwrap();
        assert!(closed.recv_from(&mut [0; 16]).is_err());
    });
}

const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// `bh0`, and the end outside.
fn veth_pair() -> Interface {
    veth("bh0");
    ip("link set bh0 address 02:00:00:00:00:01");
    // Nothing but what the test sends.
    ip("link set bh0 addrgenmode none");
    ip("link set bh0-peer addrgenmode none");
    interface("bh0-peer")
}

#[test]
fn headers_that_lie_in_pages_are_read() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let interface = veth("bh0");
        ip("link set bh0-peer mtu 9000");
        ip("link set bh0 mtu 9000");
        let mut enforcer = enforcer(&bpffs, HookingChoice::Automatic, &["bh0"]);
        let policy = only_port_53();
        let local = LocalTiers::default();
        let live = enforcer.apply(&policy, [2; 32], &local, DAWN).unwrap();
        enforcer.attach().unwrap();
        let deny = local.merge(&policy).rules.iter().rposition(|rule| {
            rule.direction == policy::Direction::Egress && rule.action == Action::Deny
        });
        let deny = u32::try_from(deny.unwrap()).unwrap();
        for (number, family) in (1..).zip([4, 6]) {
            for port in [53, 54] {
                let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
                let mut frame = Vec::new();
                match family {
                    4 => link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
                    _ => link.ipv6([0xfd; 16], [0xfc; 16], 64),
                }
                .udp(40_000, port)
                .write(&mut frame, &[7; 5000])
                .unwrap();
                assert!(frame.len() > 4096, "a shorter one would be linear");
                send_frame(&interface, &frame);
            }
            // One of the two, by its port.
            let denied = enforcer.maps.rule(live.generation, deny).unwrap();
            assert_eq!(denied.packets, number, "of IPv{family}");
            let reasons = enforcer.counters().unwrap().reasons;
            assert!(reasons.contains(&("malformed", 0)), "{reasons:?}");
        }
    });
}
