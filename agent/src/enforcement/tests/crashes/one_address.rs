//! The same of a change of one address, which is made in the live tables.

use datapath::Verdict;
use etherparse::PacketBuilder;
use policy::Identity;

use super::*;

/// Always of the identity that may come to port 5001.
const KNOWN: &str = "10.77.0.1";
/// Comes and goes.
const OTHER: &str = "10.77.0.2";
const FRIEND: Identity = Identity(900);

/// All revisions have the same rules.
fn policy(revision: u64, with_other: bool) -> EncodedPolicy {
    let mut policy = Wire::policy(2);
    policy.revision = Revision(revision);
    let deny_all = policy.rules.last().unwrap();
    let mut friends = policy.rules[1].clone();
    assert_eq!(
        (friends.ports[0].first, deny_all.action),
        (5000, Action::Deny)
    );
    (friends.ports[0].first, friends.ports[0].last) = (5001, 5001);
    friends.peers = policy::PeerMatch::Of {
        identities: vec![FRIEND],
        subnets: Vec::new(),
    };
    policy.rules.insert(1, friends);
    let addresses = [(KNOWN, true), (OTHER, with_other)];
    policy.addresses = addresses
        .into_iter()
        .filter(|(_, is_there)| *is_there)
        .map(|(address, _)| (address.parse().unwrap(), FRIEND))
        .collect();
    policy.check().unwrap();
    EncodedPolicy::encode(policy)
}

/// Whether the kernel lets the address come to port 5001, from a port that no flow has.
fn may_come(task: &mut EnforcementTask, port: u16) -> bool {
    let link = PacketBuilder::ethernet2([2; 6], [2; 6]);
    let other: std::net::Ipv4Addr = OTHER.parse().unwrap();
    let datagram = link.ipv4(other.octets(), [10, 9, 0, 1], 64).udp(port, 5001);
    let mut frame = Vec::new();
    datagram.write(&mut frame, &[0; 18]).unwrap();
    let judged = task
        .enforcer
        .time_packet(datapath::Direction::Ingress, &frame, 1);
    judged.unwrap().0 == Verdict::Pass
}

/// Takes a policy with trouble at a step: the agent after it, and the revision that is to be enforced, where
/// it is either of the two.
type Trouble =
    fn(&Machine, EnforcementTask, EncodedPolicy, Point) -> (EnforcementTask, Option<u64>);

/// Lets the address come and go, with trouble at each step.
fn trouble_everywhere(trouble: Trouble) {
    in_own_namespace(|| {
        let (mut machine, mut task) = Machine::new(HookingChoice::Tcx);
        let mut ports = 20_000_u16..;
        for with_other in [true, false] {
            // A whole plan, and one address.
            machine.revision += 1;
            task.take(policy(machine.revision, !with_other)).unwrap();
            machine.revision += 1;
            let change = policy(machine.revision, with_other);
            let (taken, steps) = machine.watch(None, || task.take(change));
            taken.unwrap();
            assert!(!steps.borrow().contains(&"writing a cell"), "{steps:?}");
            for point in ends_of_kinds(&steps) {
                machine.revision += 1;
                task.take(policy(machine.revision, !with_other)).unwrap();
                machine.revision += 1;
                let change = policy(machine.revision, with_other);
                let expected;
                (task, expected) = trouble(&machine, task, change, point);
                let enforced = task.enforcer.live().unwrap().unwrap().revision.0;
                if let Some(expected) = expected {
                    assert_eq!(enforced, expected, "{point:?}");
                }
                let is_there = (enforced == machine.revision) == with_other;
                assert_eq!(
                    may_come(&mut task, ports.next().unwrap()),
                    is_there,
                    "{point:?}, with it: {with_other}, revision {enforced} of {}",
                    machine.revision
                );
                machine.wire.check("after trouble with an address");
            }
        }
        machine.wire.finish();
    });
}

#[test]
fn a_write_that_fails_while_one_address_changes_leads_to_the_whole_policy() {
    trouble_everywhere(|machine, mut task, change, point| {
        let (taken, _) = machine.watch(Some(point), || task.take(change));
        let of_the_tables = taken.is_ok();
        (task, of_the_tables.then_some(machine.revision))
    });
}

#[test]
fn an_agent_that_dies_while_one_address_changes_comes_back_to_one_policy_or_the_other() {
    trouble_everywhere(|machine, mut task, change, point| {
        let _ = machine.watch_dying(point, || task.take(change));
        drop(task);
        machine.wire.check("without an agent");
        (machine.start().unwrap(), None)
    });
}
