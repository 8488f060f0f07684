//! What a flip does to flows that are there, what it counts, and what happens when writing fails.

use super::*;
use crate::kernel::testing::forget_peer;

/// This host and another, in both families.
const PAIRS: [[&str; 2]; 2] = [["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]];

/// A segment of a connection from the other host's `client` port to this one's 443.
pub(super) fn segment(
    [here, there]: [&str; 2],
    direction: Direction,
    client: u16,
    flags: &str,
) -> Vec<u8> {
    let (here, there): (IpAddr, IpAddr) = (here.parse().unwrap(), there.parse().unwrap());
    let inward = direction == Direction::Ingress;
    let (from, to) = if inward { (there, here) } else { (here, there) };
    let (from_port, to_port) = if inward { (client, 443) } else { (443, client) };
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let network = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("pairs are of one family"),
    };
    let mut tcp = network.tcp(from_port, to_port, 1, 1024);
    if flags.contains('S') {
        tcp = tcp.syn();
    }
    if flags.contains('A') {
        tcp = tcp.ack(1);
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, &[]).unwrap();
    frame
}

/// A policy that says this of what comes in, and lets everything out.
fn inward(action: Action, mode: Mode) -> HostPolicy {
    let mut policy = uniform(action);
    policy.rules[0].mode = mode;
    policy.rules[1].action = Action::Allow;
    policy
}

#[test]
fn a_flip_ends_established_connections_in_each_direction_on_its_own() {
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let local = LocalTiers::default();
    let mut digest = 0;
    for pair in PAIRS {
        for first_after in [Direction::Egress, Direction::Ingress] {
            // A connection of its own each time: what the flip did to another proves nothing.
            let client = 40_000 + u16::from(digest);
            let mut apply = |enforcer: &mut Enforcer, action| {
                digest += 1;
                let policy = inward(action, Mode::Enforce);
                enforcer.apply(&policy, [digest; 32], &local, DAWN).unwrap();
            };
            let run = |enforcer: &mut Enforcer, direction, flags| {
                let frame = segment(pair, direction, client, flags);
                enforcer.programs.test_run(direction, &frame).unwrap()
            };
            apply(&mut enforcer, Action::Allow);
            for (direction, flags) in [
                (Direction::Ingress, "S"),
                (Direction::Egress, "SA"),
                (Direction::Ingress, "A"),
                (Direction::Egress, "A"),
            ] {
                let verdict = run(&mut enforcer, direction, flags);
                assert_eq!(verdict, Verdict::Pass, "{pair:?} {direction:?} {flags}");
            }
            apply(&mut enforcer, Action::Deny);
            let verdict = run(&mut enforcer, first_after, "A");
            assert_eq!(verdict, Verdict::Drop, "{pair:?} {first_after:?}");
            let verdict = run(&mut enforcer, first_after, "A");
            assert_eq!(verdict, Verdict::Drop, "{pair:?} {first_after:?}, again");
        }
    }
}

#[test]
fn what_is_staged_passes_and_is_reported_once_for_each_connection() {
    const CONNECTIONS: u16 = 5;
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let mut policy = inward(Action::Deny, Mode::Observe);
    let mut allowed = policy.rules[0].clone();
    allowed.action = Action::Allow;
    allowed.mode = Mode::Enforce;
    policy.rules.push(allowed);
    enforcer
        .apply(&policy, [1; 32], &LocalTiers::default(), DAWN)
        .unwrap();
    let mut denials = enforcer.denials().unwrap();
    for pair in PAIRS {
        for client in 0..CONNECTIONS {
            for (direction, flags) in [
                (Direction::Ingress, "S"),
                (Direction::Egress, "SA"),
                (Direction::Ingress, "A"),
            ] {
                let frame = segment(pair, direction, 40_000 + client, flags);
                let verdict = enforcer.programs.test_run(direction, &frame).unwrap();
                assert_eq!(verdict, Verdict::Pass);
            }
        }
    }
    // The ring keeps order: what comes before this one is all that the staged rule has told.
    let deny = uniform(Action::Deny);
    enforcer
        .apply(&deny, [2; 32], &LocalTiers::default(), DAWN)
        .unwrap();
    let last = segment(PAIRS[0], Direction::Ingress, 50_000, "S");
    enforcer
        .programs
        .test_run(Direction::Ingress, &last)
        .unwrap();
    let mut staged = Vec::new();
    'read: loop {
        for denial in denials.blocking_next().unwrap() {
            if denial.peer_port == 50_000 {
                break 'read;
            }
            assert!(denial.staged);
            staged.push((denial.peer_address, denial.peer_port));
        }
    }
    let told = staged.len();
    staged.sort();
    staged.dedup();
    assert_eq!(staged.len(), told, "no connection is told of twice");
    assert_eq!(told, 2 * usize::from(CONNECTIONS));
    assert_eq!(enforcer.counters().unwrap().packets_denied, 1);
}

#[test]
fn what_fails_after_the_flip_does_not_refuse_the_policy() {
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let policy = uniform(Action::Deny);
    let none = LocalTiers::default();
    let some = LocalTiers {
        controllers: vec!["10.0.0.9:7443".parse().unwrap()],
        ..none.clone()
    };
    enforcer.apply(&policy, [1; 32], &some, DAWN).unwrap();
    // Its removal after the next flip is going to fail.
    forget_peer(&bpffs.pin_dir(), [10, 0, 0, 9].into());
    let second = enforcer.apply(&policy, [2; 32], &none, DAWN).unwrap();
    assert_eq!(enforcer.live().unwrap(), Some(second));
    // What the maps hold was read again.
    let third = enforcer.apply(&policy, [3; 32], &some, DAWN).unwrap();
    assert_eq!(enforcer.live().unwrap(), Some(third));
    assert_eq!(enforcer.observed, Some(enforcer.maps.observe().unwrap()));
}

#[test]
fn tables_of_an_agent_that_lowered_otherwise_are_written_anew() {
    let bpffs = Bpffs::new();
    let policy = uniform(Action::Allow);
    let local = LocalTiers::default();
    let mut enforcer = bpffs.enforcer();
    let merged = local.merge(&policy);
    let classes = policy::classify(&merged).unwrap();
    // As an agent would that knew of no version.
    let stamp = Stamp {
        revision: 1,
        digest: [1; 32],
        local: local.fingerprint(),
        ..stamp()
    };
    for operation in plan(&Observed::default(), &lower(&merged, &classes), &stamp).unwrap() {
        enforcer
            .maps
            .execute(std::slice::from_ref(&operation))
            .unwrap();
    }
    drop(enforcer);
    let mut enforcer = bpffs.enforcer();
    let live = enforcer.apply(&policy, [1; 32], &local, DAWN).unwrap();
    assert_eq!(live.generation, 2);
    assert_eq!(
        enforcer.apply(&policy, [1; 32], &local, DAWN).unwrap(),
        live
    );
}
