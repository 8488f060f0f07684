#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use super::{claims::Judged, *};
use crate::model::Report;

const NO_GRACE: Duration = Duration::ZERO;
const GRACE: Duration = Duration::from_secs(3600);

fn host(number: u8, name: &str, addresses: &[&str], subnets: &[&str]) -> Host {
    Host {
        id: HostId([number; 16]),
        name: HostName(name.to_owned()),
        labels: BTreeMap::new(),
        identity: policy::Identity::FIRST,
        address_subnets: subnets
            .iter()
            .map(|subnet| subnet.parse().unwrap())
            .collect(),
        addresses: set(addresses),
        quarantine: None,
        report: Report::default(),
    }
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses
        .iter()
        .map(|address| address.parse().unwrap())
        .collect()
}

fn state(hosts: Vec<Host>) -> State {
    let known = Known {
        identities: IdentityTable::default(),
        tokens: Vec::new(),
        hosts,
    };
    State::new(known, PolicyInForce::default())
}

fn judge(state: &State, number: u8, claimed: &[&str], grace: Duration) -> Judged {
    let source = "10.0.0.1".parse().unwrap();
    state.judge(HostId([number; 16]), source, &set(claimed), grace)
}

#[test]
fn an_address_is_believed_from_its_own_connection_or_in_the_tokens_subnets() {
    let state = state(vec![host(1, "web-1", &[], &["10.1.0.0/24", "fd00::/64"])]);
    let judged = judge(
        &state,
        1,
        &["10.0.0.1", "10.1.0.9", "fd00::1", "10.2.0.1"],
        NO_GRACE,
    );
    assert_eq!(judged.accepted, set(&["10.0.0.1", "10.1.0.9", "fd00::1"]));
    assert_eq!(judged.refused, set(&["10.2.0.1"]));
}

#[test]
fn the_source_is_the_hosts_whatever_the_host_says() {
    let mut state = state(vec![
        host(1, "web-1", &[], &["10.1.0.0/24"]),
        host(2, "web-2", &[], &[]),
    ]);
    let judged = judge(&state, 1, &["10.1.0.9"], NO_GRACE);
    assert_eq!(judged.accepted, set(&["10.0.0.1", "10.1.0.9"]));
    assert_eq!(judge(&state, 1, &[], NO_GRACE).accepted, set(&["10.0.0.1"]));

    // Behind address translation it is the first one's; the other is no liar, and waits.
    let source = "10.0.0.1".parse().unwrap();
    let (number, _) = state.open_session(HostId([1; 16]), source);
    state.set_addresses(HostId([1; 16]), set(&["10.0.0.1"]));
    state.open_session(HostId([2; 16]), source);
    assert_eq!(judge(&state, 2, &[], NO_GRACE), Judged::default());
    assert_eq!(state.hosts_to_judge_again(), [HostId([2; 16])]);
    state.close_session(HostId([1; 16]), number);
    assert_eq!(judge(&state, 2, &[], NO_GRACE).accepted, set(&["10.0.0.1"]));
}

#[test]
fn a_source_that_means_nothing_beyond_its_link_is_not_the_hosts_unless_it_says_so() {
    let state = state(vec![host(1, "web-1", &[], &[])]);
    let source = "127.0.0.1".parse().unwrap();
    let judged = |claimed| state.judge(HostId([1; 16]), source, &set(claimed), NO_GRACE);
    assert_eq!(judged(&[]), Judged::default());
    assert_eq!(judged(&["127.0.0.1"]).accepted, set(&["127.0.0.1"]));
}

#[test]
fn in_quarantine_a_host_loses_no_address() {
    let mut state = state(vec![
        host(1, "web-1", &["10.1.0.9", "192.0.2.1"], &["10.1.0.0/16"]),
        host(2, "db-1", &[], &["10.1.0.0/24"]),
    ]);
    state.set_quarantine(HostId([1; 16]), Some("it scans".to_owned()));
    // One of its addresses is where it once connected from: its own now, claimed or not.
    let judged = judge(&state, 1, &["10.1.0.11", "192.0.2.1"], NO_GRACE);
    assert_eq!(
        judged.accepted,
        set(&["10.0.0.1", "10.1.0.9", "10.1.0.11", "192.0.2.1"])
    );
    assert_eq!(judged.refused, set(&[]));
    // It is gone for longer than the grace, and still they are its own.
    let other = judge(&state, 2, &["10.1.0.9"], NO_GRACE);
    assert_eq!(other.refused, set(&["10.1.0.9"]));
    assert_eq!(other.left_to, BTreeMap::new());

    // What it adds is bounded as ever, but for where it speaks from.
    let many: Vec<String> = (0..300)
        .map(|n| format!("10.1.{}.{}", 1 + n / 256, n % 256))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let judged = judge(&state, 1, &many, NO_GRACE);
    assert_eq!(judged.accepted.len(), 256);
    assert!(judged.accepted.is_superset(&set(&["10.0.0.1", "10.1.0.9"])));

    state.set_quarantine(HostId([1; 16]), None);
    assert_eq!(judge(&state, 1, &[], NO_GRACE).accepted, set(&["10.0.0.1"]));
}

#[test]
fn link_local_addresses_are_neither_believed_nor_an_event() {
    let state = state(vec![host(1, "web-1", &[], &["::/0", "0.0.0.0/0"])]);
    let judged = judge(
        &state,
        1,
        &["fe80::1", "127.0.0.1", "169.254.1.1", "ff02::1"],
        NO_GRACE,
    );
    assert_eq!(judged.accepted, set(&["10.0.0.1"]));
    assert_eq!(judged.refused, set(&[]));
}

#[test]
fn an_address_of_a_live_host_cannot_be_taken() {
    let hosts = vec![
        host(1, "web-1", &[], &["10.1.0.0/24"]),
        host(2, "db-1", &["10.1.0.9", "10.1.0.10"], &[]),
    ];
    let mut state = state(hosts);
    // It was there when the controller stopped, so it may come back.
    assert_eq!(
        judge(&state, 1, &["10.1.0.9"], GRACE).refused,
        set(&["10.1.0.9"])
    );

    let (number, _) = state.open_session(HostId([2; 16]), "10.1.0.9".parse().unwrap());
    assert_eq!(
        judge(&state, 1, &["10.1.0.9"], NO_GRACE).refused,
        set(&["10.1.0.9"])
    );

    state.close_session(HostId([2; 16]), number);
    assert_eq!(
        judge(&state, 1, &["10.1.0.9"], GRACE).refused,
        set(&["10.1.0.9"])
    );
    let judged = judge(&state, 1, &["10.1.0.9"], NO_GRACE);
    assert!(judged.accepted.is_superset(&set(&["10.1.0.9"])));
    assert_eq!(
        judged.left_to,
        BTreeMap::from([(HostId([2; 16]), set(&["10.1.0.10"]))])
    );
}

#[test]
fn an_address_that_moves_has_one_owner() {
    let mut state = state(vec![
        host(1, "web-1", &[], &[]),
        host(2, "db-1", &["10.1.0.9"], &[]),
    ]);
    state.set_addresses(HostId([1; 16]), set(&["10.1.0.9"]));
    state.set_addresses(HostId([2; 16]), set(&[]));
    assert_eq!(
        state.owner("10.1.0.9".parse().unwrap()).unwrap().name.0,
        "web-1"
    );
}

#[test]
fn the_same_refusal_is_one_event() {
    let mut state = state(vec![host(1, "web-1", &[], &[])]);
    let id = HostId([1; 16]);
    assert_eq!(state.note_refused(id, set(&["10.9.0.1"])).len(), 1);
    assert_eq!(state.note_refused(id, set(&["10.9.0.1"])).len(), 0);
    assert_eq!(
        state.note_refused(id, set(&["10.9.0.1", "10.9.0.2"])).len(),
        1
    );
    assert_eq!(state.note_refused(id, set(&[])).len(), 0);
    assert_eq!(state.refused(id).count(), 0);
}

#[test]
fn a_host_that_enrols_again_ends_its_old_stream_and_its_old_addresses() {
    let mut state = state(vec![host(1, "web-1", &["10.1.0.9"], &[])]);
    let (_, end) = state.open_session(HostId([1; 16]), "10.1.0.9".parse().unwrap());
    state.insert_host(host(2, "web-1", &[], &[]));
    assert!(end.is_cancelled());
    assert!(state.host(HostId([1; 16])).is_none());
    assert!(state.owner("10.1.0.9".parse().unwrap()).is_none());
    assert_eq!(state.host_named("web-1").unwrap().id, HostId([2; 16]));
}

#[test]
fn a_wrong_name_is_answered_with_the_near_ones() {
    let state = state(vec![
        host(1, "web-1", &[], &[]),
        host(2, "web-2", &[], &[]),
        host(3, "database", &[], &[]),
    ]);
    assert_eq!(
        state.no_such_host("web1"),
        "there is no host `web1`; did you mean web-1, web-2?"
    );
    assert_eq!(
        state.no_such_host("data"),
        "there is no host `data`; did you mean database?"
    );
    assert_eq!(
        state.no_such_host("mailserver"),
        "there is no host `mailserver`: `bulkhead hosts` lists them"
    );
}
