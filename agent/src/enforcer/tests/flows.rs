//! What the kernel remembers of connections, and what it forgets when there are too many.

use std::time::Duration;

use datapath::{
    headers::protocol,
    layout::{Opener, flow_state},
};

use super::{flips::segment, *};
use crate::kernel::{Census, KnownFlow, census, flows};

const PAIRS: [[&str; 2]; 2] = [["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]];

/// What others may open: 443 and no more.
fn only_443() -> HostPolicy {
    let mut policy = uniform(Action::Allow);
    policy.rules[0].ports = vec![policy::PortSpan {
        slot: ProtocolSlot::Tcp,
        first: 443,
        last: 443,
    }];
    policy
}

fn remembered(bpffs: &Bpffs) -> Vec<KnownFlow> {
    let mut list = Vec::new();
    flows(&bpffs.pin_dir(), |flow| list.push(flow)).unwrap();
    list.sort_by_key(|flow| flow.key.remote);
    list
}

fn pass(enforcer: &mut Enforcer, pair: [&str; 2], direction: Direction, client: u16, flags: &str) {
    let frame = segment(pair, direction, client, flags);
    let verdict = enforcer.programs.test_run(direction, &frame).unwrap();
    assert_eq!(verdict, Verdict::Pass, "{pair:?} {direction:?} {flags}");
}

/// Opens a connection from the other host, and speaks once more.
fn open(enforcer: &mut Enforcer, pair: [&str; 2], client: u16) {
    pass(enforcer, pair, Direction::Ingress, client, "S");
    pass(enforcer, pair, Direction::Egress, client, "SA");
    pass(enforcer, pair, Direction::Ingress, client, "A");
}

#[test]
fn flows_are_listed_with_what_passed_in_each_direction() {
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let local = LocalTiers::default();
    let live = enforcer.apply(&only_443(), [1; 32], &local, DAWN).unwrap();
    for pair in PAIRS {
        open(&mut enforcer, pair, 40_000);
    }
    let listed = remembered(&bpffs);
    assert_eq!(listed.len(), 2, "{listed:?}");
    for (flow, [here, there]) in listed.iter().zip(PAIRS) {
        let bytes = segment([here, there], Direction::Ingress, 40_000, "S").len() as u64;
        assert_eq!(flow.key.remote, there.parse::<IpAddr>().unwrap());
        assert_eq!(flow.key.local, here.parse::<IpAddr>().unwrap());
        assert_eq!((flow.key.remote_port, flow.key.local_port), (40_000, 443));
        assert_eq!(flow.key.protocol, protocol::TCP);
        assert_eq!(flow.record.state(), flow_state::ESTABLISHED);
        assert_eq!(flow.record.opener(), Opener::Remote);
        assert_eq!(flow.record.generation(), live.generation);
        assert_eq!(flow.ingress, (2, 2 * bytes));
        assert_eq!(flow.egress, (1, bytes));
        // On the clock that the programs read.
        assert!(flow.idle < Duration::from_secs(60), "{:?}", flow.idle);
        assert!(!flow.expired);
    }
    let [v4, v6] = census(&bpffs.pin_dir()).unwrap();
    assert_eq!((v4.live, v6.live), (1, 1));
    assert_eq!((v4.slots, v6.slots), (1024, 1024));
}

#[test]
fn a_full_table_forgets_what_is_silent_and_denies_no_connection_that_policy_allows() {
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let local = LocalTiers::default();
    enforcer.apply(&only_443(), [1; 32], &local, DAWN).unwrap();
    for pair in PAIRS {
        open(&mut enforcer, pair, 40_000);
        let is_first = |flow: &KnownFlow| {
            flow.key.remote_port == 40_000 && flow.key.remote == pair[1].parse::<IpAddr>().unwrap()
        };
        // Nine times as many as there is room for, of which no more is seen than how they open.
        for client in 41_000..50_000 {
            pass(&mut enforcer, pair, Direction::Ingress, client, "S");
        }
        assert!(
            remembered(&bpffs).iter().any(is_first),
            "a flood of SYNs takes no room from a connection"
        );
        // As many connections as it is one; it is silent meanwhile.
        for client in 50_000..59_000 {
            open(&mut enforcer, pair, client);
        }
        assert!(
            !remembered(&bpffs).iter().any(is_first),
            "the silent one made room"
        );
        // It goes on from either end, and is remembered again as what it was.
        pass(&mut enforcer, pair, Direction::Egress, 40_000, "A");
        pass(&mut enforcer, pair, Direction::Ingress, 40_000, "A");
        let listed = remembered(&bpffs);
        let flow = listed.into_iter().find(is_first).unwrap();
        assert_eq!(flow.record.opener(), Opener::Remote);
    }
    for Census { live, slots } in census(&bpffs.pin_dir()).unwrap() {
        assert!(live <= slots, "{live} of {slots}");
        assert!(live > slots / 2, "{live} of {slots}");
    }
    // And the middle of a connection that policy does not allow passes no more than before.
    let mut shut = only_443();
    shut.rules[0].action = Action::Deny;
    enforcer.apply(&shut, [2; 32], &local, DAWN).unwrap();
    for (pair, direction) in PAIRS.into_iter().zip([Direction::Ingress; 2]) {
        let frame = segment(pair, direction, 40_001, "A");
        let verdict = enforcer.programs.test_run(direction, &frame).unwrap();
        assert_eq!(verdict, Verdict::Drop);
    }
}
