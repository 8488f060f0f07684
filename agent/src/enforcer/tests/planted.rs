//! Frames that a peer sends to be let in by what they leave behind, into the loaded programs.

use policy::PortSpan;

use super::*;

/// The frames of a file: hexadecimal, a line each, behind comments.
fn frames(text: &str) -> Vec<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let byte = |line: &str, at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
    lines
        .map(|line| {
            (0..line.len())
                .step_by(2)
                .map(|at| byte(line, at))
                .collect()
        })
        .collect()
}

/// Everything out, and in what these spans hold.
fn letting_in(spans: &[(ProtocolSlot, u16, u16)]) -> HostPolicy {
    let mut policy = uniform(Action::Deny);
    policy.rules[1].action = Action::Allow;
    if !spans.is_empty() {
        let mut allow = policy.rules[0].clone();
        allow.action = Action::Allow;
        allow.ports = spans
            .iter()
            .map(|(slot, first, last)| PortSpan {
                slot: *slot,
                first: *first,
                last: *last,
            })
            .collect();
        policy.rules.insert(0, allow);
    }
    policy
}

struct Host {
    enforcer: Enforcer,
    applied: u8,
    local: LocalTiers,
    _bpffs: Bpffs,
}

impl Host {
    fn new(policy: &HostPolicy) -> Self {
        let bpffs = Bpffs::new();
        let mut host = Self {
            enforcer: bpffs.enforcer(),
            applied: 0,
            local: LocalTiers::default(),
            _bpffs: bpffs,
        };
        host.apply(policy);
        host
    }

    fn apply(&mut self, policy: &HostPolicy) {
        self.applied += 1;
        let digest = [self.applied; 32];
        self.enforcer
            .apply(policy, digest, &self.local, DAWN)
            .unwrap();
    }

    fn receives(&mut self, frame: &[u8]) -> Verdict {
        let programs = &mut self.enforcer.programs;
        programs.test_run(Direction::Ingress, frame).unwrap()
    }

    fn sends(&mut self, frame: &[u8]) -> Verdict {
        let programs = &mut self.enforcer.programs;
        programs.test_run(Direction::Egress, frame).unwrap()
    }

    fn denied(&self) -> u64 {
        let reason = datapath::Reason::Policy;
        self.enforcer.maps.reason(reason).unwrap().packets
    }
}

const HTTPS: (ProtocolSlot, u16, u16) = (ProtocolSlot::Tcp, 443, 443);

fn segment(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
    let builder = builder.tcp(from.1, to.1, 1, 1024);
    let builder = match flags {
        0x12 => builder.syn().ack(1),
        _ => builder.ack(1),
    };
    builder.write(&mut frame, &[0; 8]).unwrap();
    frame
}

#[test]
fn a_forged_answer_before_the_syn_does_not_choose_the_opener() {
    let frames = frames(include_str!("planted/opener-forged.hex"));
    let port = |frame: &[u8]| u16::from_be_bytes([frame[34], frame[35]]);
    let (peer, here) = (([10, 91, 0, 1], port(&frames[1])), ([10, 91, 0, 2], 443));
    let mut host = Host::new(&letting_in(&[HTTPS]));
    host.receives(&frames[0]);
    assert_eq!(host.receives(&frames[1]), Verdict::Pass);
    assert_eq!(host.sends(&segment(here, peer, 0x12)), Verdict::Pass);
    assert_eq!(host.receives(&segment(peer, here, 0x10)), Verdict::Pass);
    host.apply(&letting_in(&[HTTPS]));
    assert_eq!(host.receives(&segment(peer, here, 0x10)), Verdict::Pass);
    assert_eq!(host.sends(&segment(here, peer, 0x10)), Verdict::Pass);
    host.apply(&letting_in(&[]));
    assert_eq!(host.receives(&segment(peer, here, 0x10)), Verdict::Drop);
    assert_eq!(host.sends(&segment(here, peer, 0x10)), Verdict::Drop);
}

#[test]
fn who_may_ping_sends_no_redirect() {
    let pings = [
        (ProtocolSlot::Icmp, 0x0800, 0x08ff),
        (ProtocolSlot::Icmpv6, 0x8000, 0x80ff),
    ];
    let mut host = Host::new(&letting_in(&pings));
    for pair in frames(include_str!("planted/icmp-identifier.hex")).chunks(2) {
        assert_eq!(host.receives(&pair[0]), Verdict::Pass);
        assert_eq!(host.receives(&pair[1]), Verdict::Drop);
        host.apply(&letting_in(&pings));
        assert_eq!(host.receives(&pair[1]), Verdict::Drop);
    }
}

#[test]
fn a_segment_without_ack_is_denied_and_counted() {
    let mut host = Host::new(&letting_in(&[]));
    let frames = frames(include_str!("planted/stealth-scan.hex"));
    for frame in &frames {
        assert_eq!(host.receives(frame), Verdict::Drop);
    }
    assert_eq!(host.denied(), frames.len() as u64);
}

#[test]
fn an_ipv4_mapped_source_is_nobodys() {
    let mut host = Host::new(&uniform(Action::Allow));
    for frame in frames(include_str!("planted/v4-mapped-source.hex")) {
        assert_eq!(host.receives(&frame), Verdict::Drop);
    }
}

#[test]
fn group_membership_passes_on_its_link_and_no_further() {
    let mut host = Host::new(&uniform(Action::Deny));
    let query = &frames(include_str!("planted/igmp-query.hex"))[0];
    // The query, and reports of all versions.
    for kind in [0x11, 0x12, 0x16, 0x17, 0x22] {
        let mut frame = query.clone();
        frame[38] = kind;
        assert_eq!(host.receives(&frame), Verdict::Pass, "{kind:#x}");
        assert_eq!(host.sends(&frame), Verdict::Pass, "{kind:#x}");
        for (what, at, value) in [
            ("a TTL that passes routers", 22, 2),
            ("to one host", 30, 10),
            ("of another type", 38, 0x14),
            ("a fragment", 20, 0x20),
        ] {
            let mut other = frame.clone();
            other[at] = value;
            assert_eq!(host.receives(&other), Verdict::Drop, "{what}");
            assert_eq!(host.sends(&other), Verdict::Drop, "{what}");
        }
    }
}

#[test]
fn an_authentication_header_is_judged_alike_in_both_families() {
    let frames = frames(include_str!("planted/ah.hex"));
    for (spans, verdict) in [
        (HTTPS, Verdict::Drop),
        ((ProtocolSlot::Other, 51, 51), Verdict::Pass),
    ] {
        let mut host = Host::new(&letting_in(&[spans]));
        for frame in &frames {
            assert_eq!(host.receives(frame), verdict);
        }
    }
}
