//! Frames into the loaded programs, against what another parser says of them.

use std::{cell::Cell, collections::HashSet, time::Duration};

use datapath::{
    Reason,
    testing::{Asked, Expected, Model, frames_of, fuzz::corpus},
};
use policy::{PeerMatch, PortSpan, Tier, host_policy::SubnetMatch};

use super::{
    random::{Length, Random, seed},
    *,
};
use crate::{config::OtherEthertypes, enforcement::beginning::closed_policy};

/// For how long random changes are tried where their number is not given.
const TIME: Duration = Duration::from_secs(5);

/// Whether the kernel takes a frame for a test run: it has more than an Ethernet header, all of an IP header
/// right behind, and fits a page. Of shorter ones the datapath's own tests tell.
fn is_taken(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    };
    (least..2048).contains(&frame.len())
}

/// Friends may open some of everything.
fn some_of_everything() -> HostPolicy {
    let mut policy = uniform(Action::Deny);
    for rule in &mut policy.rules {
        rule.tier = Tier::Default;
    }
    let subnets = ["10.0.0.0/8", "fd00::/8"].map(|subnet| SubnetMatch {
        subnet: subnet.parse().unwrap(),
        except: Vec::new(),
    });
    let spans = |spans: &[(ProtocolSlot, u16, u16)]| {
        let spans = spans.iter().map(|(slot, first, last)| PortSpan {
            slot: *slot,
            first: *first,
            last: *last,
        });
        spans.collect::<Vec<_>>()
    };
    let ingress = spans(&[
        (ProtocolSlot::Tcp, 200, 443),
        (ProtocolSlot::Udp, 0, 53),
        (ProtocolSlot::Sctp, 3000, 4000),
        (ProtocolSlot::Icmp, 0x0300, 0x08ff),
        (ProtocolSlot::Icmpv6, 0x8000, 0x8000),
        (ProtocolSlot::Other, 4, 49),
    ]);
    let egress = spans(&[
        (ProtocolSlot::Tcp, 6000, 6000),
        (ProtocolSlot::Udp, 40_000, 50_000),
        (ProtocolSlot::Icmp, 0, 0x00ff),
        (ProtocolSlot::Other, 50, 200),
    ]);
    for (rule, ports) in [(0, ingress), (1, egress)] {
        let mut allow = policy.rules[rule].clone();
        allow.tier = Tier::Policy;
        allow.action = Action::Allow;
        allow.ports = ports;
        allow.peers = PeerMatch::Of {
            identities: Vec::new(),
            subnets: subnets.to_vec(),
        };
        policy.rules.push(allow);
    }
    policy
}

/// The first rule that speaks of it.
fn allows(merged: &HostPolicy, asked: Asked) -> bool {
    let slot = match asked.protocol {
        6 => ProtocolSlot::Tcp,
        17 => ProtocolSlot::Udp,
        132 => ProtocolSlot::Sctp,
        1 => ProtocolSlot::Icmp,
        58 => ProtocolSlot::Icmpv6,
        _ => ProtocolSlot::Other,
    };
    let direction = match asked.direction {
        Direction::Ingress => policy::Direction::Ingress,
        Direction::Egress => policy::Direction::Egress,
    };
    let port = PortKey {
        slot,
        key: asked.service,
    };
    let mut rules = merged.rules.iter();
    rules
        .find(|rule| rule.matches(direction, asked.remote, None, port))
        .is_some_and(|rule| rule.action == Action::Allow)
}

/// The host, and what it should do.
struct Bench {
    enforcer: Enforcer,
    merged: HostPolicy,
    /// Whose flows may be in the tables: the addresses of both ends, and the protocol.
    flows: HashSet<(IpAddr, IpAddr, u8)>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    dropped: u64,
    /// How often the flows were emptied.
    emptied: u64,
}

impl Bench {
    fn new(bpffs: &Bpffs) -> Self {
        let mut enforcer = bpffs.enforcer();
        let local = LocalTiers::default();
        let policy = some_of_everything();
        enforcer.apply(&policy, [1; 32], &local, DAWN).unwrap();
        Self {
            enforcer,
            merged: local.merge(&policy),
            flows: HashSet::new(),
            tally: Tally::default(),
        }
    }

    fn packets(&self, reason: Reason) -> u64 {
        self.enforcer.maps.reason(reason).unwrap().packets
    }

    /// Judges the frames of an input, each by the kernel and by the model. Flows stay until one of them may let
    /// pass what policy denies: the model knows of none.
    fn judge(&mut self, input: &[u8]) {
        let mut model = Model::default();
        self.enforcer.programs.forget_fragments().unwrap();
        for (direction, frame) in frames_of(input) {
            if !is_taken(frame) {
                continue;
            }
            let merged = &self.merged;
            let asked_of = Cell::new(None);
            let Expected { afresh, outcome } = model.expect(direction, frame, |asked| {
                asked_of.set(Some((asked.local, asked.remote, asked.protocol)));
                allows(merged, asked)
            });
            if afresh {
                self.enforcer.programs.forget_fragments().unwrap();
            }
            match (outcome, asked_of.get()) {
                (Ok(_), Some(ends)) => drop(self.flows.insert(ends)),
                (Err(Reason::Policy | Reason::TcpFlags), Some(ends)) if self.may_pass(ends) => {
                    self.enforcer.programs.forget_flows().unwrap();
                    self.flows.clear();
                    self.tally.emptied += 1;
                }
                _ => {}
            }
            let (Ok(reason) | Err(reason)) = outcome;
            let before = self.packets(reason);
            let verdict = self.enforcer.programs.test_run(direction, frame).unwrap();
            let expected = match outcome {
                Ok(_) => Verdict::Pass,
                Err(_) => Verdict::Drop,
            };
            assert_eq!(verdict, expected, "{outcome:?}, {direction:?} {frame:02x?}");
            let counted = self.packets(reason) - before;
            let silent = u64::from(outcome != Ok(Reason::Allowed));
            assert_eq!(counted, silent, "{outcome:?}, {direction:?} {frame:02x?}");
            match outcome {
                Ok(_) => self.tally.passed += 1,
                Err(_) => self.tally.dropped += 1,
            }
        }
    }

    /// Whether a flow may claim a packet: its own, or an ICMP error about it.
    fn may_pass(&self, ends: (IpAddr, IpAddr, u8)) -> bool {
        match ends.2 {
            1 | 58 => !self.flows.is_empty(),
            _ => self.flows.contains(&ends),
        }
    }
}

#[test]
fn the_kernel_judges_frames_as_another_parser_reads_them() {
    let bpffs = Bpffs::new();
    let mut bench = Bench::new(&bpffs);
    let inputs = corpus().unwrap();
    for input in &inputs {
        bench.judge(input);
    }
    let mut random = Random::new(seed());
    let (mut done, length) = (0, Length::of(TIME));
    while length.goes_on(done) {
        let mut input = inputs[random.below(inputs.len())].clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(input.len());
            input[at] = match random.below(3) {
                0 => random.below(256) as u8,
                1 => input[at] ^ 1 << random.below(8),
                _ => [0, 1, 0xff][random.below(3)],
            };
        }
        bench.judge(&input);
        done += 1;
    }
    let Tally {
        passed,
        dropped,
        emptied,
    } = bench.tally;
    println!(
        "{done} cases in {:?}: {passed} frames passed, {dropped} did not; flows were emptied {emptied} times",
        length.elapsed()
    );
    assert!(passed > 100 && dropped > 100, "{passed}, {dropped}");
}

#[test]
fn other_ethertypes_pass_by_the_setting_alone() {
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let policy = uniform(Action::Deny);
    let mut mpls = vec![0; 60];
    mpls[12..14].copy_from_slice(&[0x88, 0x47]);
    // Each time the same policy: the setting alone makes other tables.
    for (setting, verdict) in [
        (OtherEthertypes::Drop, Verdict::Drop),
        (OtherEthertypes::Pass, Verdict::Pass),
        (OtherEthertypes::Drop, Verdict::Drop),
    ] {
        let local = LocalTiers {
            other_ethertypes: setting,
            ..LocalTiers::default()
        };
        enforcer.apply(&policy, [1; 32], &local, DAWN).unwrap();
        for direction in [Direction::Ingress, Direction::Egress] {
            let judged = enforcer.programs.test_run(direction, &mpls).unwrap();
            assert_eq!(judged, verdict, "{setting:?}");
        }
    }
    let counters = enforcer.counters().unwrap();
    assert_eq!(counters.packets_denied, 4);
    assert!(counters.reasons.contains(&("ethertype-passed", 2)));
}

#[test]
fn in_quarantine_no_setting_lets_other_ethertypes_pass() {
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let local = LocalTiers {
        other_ethertypes: OtherEthertypes::Pass,
        ..LocalTiers::default()
    };
    let mut quarantine = uniform(Action::Deny);
    for rule in &mut quarantine.rules {
        rule.tier = Tier::Quarantine;
    }
    // MPLS and PPPoE.
    let frames = [[0x88, 0x47], [0x88, 0x64]].map(|ether_type| {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&ether_type);
        frame
    });
    for (number, policy, verdict) in [
        (1, uniform(Action::Allow), Verdict::Pass),
        (2, quarantine, Verdict::Drop),
        (3, uniform(Action::Deny), Verdict::Pass),
        (4, closed_policy(), Verdict::Drop),
    ] {
        enforcer.apply(&policy, [number; 32], &local, DAWN).unwrap();
        for frame in &frames {
            for direction in [Direction::Ingress, Direction::Egress] {
                let judged = enforcer.programs.test_run(direction, frame).unwrap();
                assert_eq!(judged, verdict, "policy {number}");
            }
        }
    }
}
