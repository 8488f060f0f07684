//! Counters under load: what is counted is what was sent.

use std::net::UdpSocket;

use datapath::Reason;

use super::{
    wire::{INTERFACE, Wire},
    *,
};
use crate::kernel::testing::in_own_namespace;

/// More than there are CPUs, so that they take turns in the midst of it.
const SENDERS: u16 = 8;
const OF_EACH: u64 = 25_000;

#[test]
fn denied_packets_are_counted_one_by_one_whoever_sends_them_at_once() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let bpffs = Bpffs::new();
            let wire = Wire::new();
            let mut enforcer = bpffs.enforcer_on(hooking, INTERFACE).unwrap();
            let local = LocalTiers::default();
            let policy = Wire::policy(1);
            let live = enforcer.apply(&policy, [1; 32], &local, DAWN).unwrap();
            enforcer.attach().unwrap();
            let merged = local.merge(&policy);
            let deny = merged
                .rules
                .iter()
                .rposition(|rule| rule.direction == policy::Direction::Egress)
                .unwrap();
            let deny = u32::try_from(deny).unwrap();
            let counts = |enforcer: &Enforcer| {
                let reasons = enforcer.maps.reasons().unwrap();
                let of_policy = reasons
                    .into_iter()
                    .find(|(reason, _)| *reason == Reason::Policy)
                    .unwrap();
                let of_rule = enforcer.maps.rule(live.generation, deny).unwrap();
                (of_policy.1, of_rule)
            };
            let before = counts(&enforcer);
            // Nothing queues between a socket and the hook that packets leave by: each is judged once.
            std::thread::scope(|scope| {
                for sender in 0..SENDERS {
                    let socket = UdpSocket::bind(("10.9.0.1", 20_000 + sender)).unwrap();
                    scope.spawn(move || {
                        for _ in 0..OF_EACH {
                            // A drop may be told as an error.
                            let _ = socket.send_to(b"denied", ("10.9.0.2", 6000));
                        }
                    });
                }
            });
            let after = counts(&enforcer);
            let sent = u64::from(SENDERS) * OF_EACH;
            let bytes = sent * (14 + 20 + 8 + 6);
            for (before, after) in [(before.0, after.0), (before.1, after.1)] {
                assert_eq!(after.packets - before.packets, sent);
                assert_eq!(after.bytes - before.bytes, bytes);
            }
            wire.finish();
        });
    }
}
