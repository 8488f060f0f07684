#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use policy::{
    Direction, HostName, IdentityTable, Labels, PolicySet, Revision, SourceFile, Timestamp,
};
use proto::{
    host_report::{Enforcement, HostReport},
    spiffe::HostId,
    v1::Standing,
};

use super::{lockout::LostAccess, *};
use crate::{
    compiled::Compiled,
    model::{Host, PolicyFiles, Report},
    state::{PolicyInForce, State},
    store::Known,
};

const NOW: Timestamp = Timestamp(1_000);

/// Nobody but `admins` reaches a db, and an admin's host reaches nothing.
const CLOSED: &str = "\
apiVersion: bulkhead/v1
kind: Segment
name: db
match: {tier: db}
---
apiVersion: bulkhead/v1
kind: Segment
name: jump
match: {tier: jump}
---
apiVersion: bulkhead/v1
kind: Segment
name: admins
subnets: [10.9.0.0/24]
---
apiVersion: bulkhead/v1
kind: Policy
name: db
appliesTo: db
ingress:
  - from: [admins]
    allow: [tcp/22]
---
apiVersion: bulkhead/v1
kind: Policy
name: jump
appliesTo: jump
egress: []
";

fn parsed(text: &str) -> Arc<PolicySet> {
    let file = SourceFile {
        path: "policy.yaml".into(),
        content: text.into(),
    };
    Arc::new(policy::parse(&[file]).unwrap())
}

fn report(failsafe: &[&str], ports: &[u16]) -> HostReport {
    HostReport {
        enforcement: Enforcement::Enforcing,
        failsafe_subnets: failsafe.iter().map(|it| it.parse().unwrap()).collect(),
        failsafe_tcp_ports: ports.to_vec(),
        ..HostReport::default()
    }
}

fn host(number: u8, name: &str, tier: &str, address: &str, report: Option<HostReport>) -> Host {
    let labels = Labels::from([("tier".to_owned(), tier.to_owned())]);
    Host {
        id: HostId([number; 16]),
        name: HostName(name.to_owned()),
        identity: policy::Identity(policy::Identity::FIRST.0 + u32::from(number)),
        labels,
        address_subnets: Vec::new(),
        addresses: BTreeSet::from([address.parse().unwrap()]),
        quarantine: None,
        report: Report {
            host: report,
            ..Report::default()
        },
    }
}

/// A state in which nothing was ever applied, compiled and published.
fn state(hosts: Vec<Host>) -> State {
    let mut identities = IdentityTable::default();
    for host in &hosts {
        identities.insert(host.identity, host.labels.clone());
    }
    let known = Known {
        identities,
        tokens: Vec::new(),
        hosts,
    };
    let mut state = State::new(known, PolicyInForce::default());
    let (compiled, update) = state.take_work().run();
    state.take_over(compiled, update);
    state
}

fn candidate(state: &State, text: &str) -> Compiled {
    let mut candidate = Compiled::clone(&state.compiled().unwrap());
    candidate.apply(Revision(1), parsed(text), BTreeMap::new());
    candidate
}

/// Puts a set in force, as an apply does.
fn put_in_force(state: &mut State, text: &str) {
    let mut candidate = Compiled::clone(&state.compiled().unwrap());
    let set = parsed(text);
    let revision = Revision(state.policy.source.revision.0 + 1);
    let update = candidate.apply(revision, Arc::clone(&set), BTreeMap::new());
    state.policy = PolicyInForce {
        source: PolicyFiles {
            revision,
            files: Vec::new(),
        },
        set,
    };
    state.take_over(Arc::new(candidate), update);
}

fn from(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|it| it.parse().unwrap()).collect()
}

fn lost(state: &State, sources: &[&str]) -> Vec<LostAccess> {
    lost_access(state, &candidate(state, CLOSED), &from(sources), NOW)
}

#[test]
fn a_host_that_the_new_policy_closes_to_the_operator_is_named_with_the_rule() {
    let state = state(vec![
        host(1, "db-1", "db", "10.1.0.1", Some(report(&[], &[22]))),
        host(2, "web-1", "web", "10.1.0.2", Some(report(&[], &[22]))),
    ]);
    let lost = lost(&state, &["192.0.2.7"]);
    let [only] = lost.as_slice() else {
        panic!("{lost:?}")
    };
    assert_eq!((only.host.0.as_str(), only.port), ("db-1", 22));
    assert_eq!(only.direction, Direction::Ingress);
    assert_eq!(only.origin.place().unwrap(), "policy.yaml:20");
    assert!(!only.failsafe_unknown);
    let refusal = lockout_refusal(&lost).unwrap();
    for word in [
        "db-1",
        "192.0.2.7",
        "tcp/22",
        "[failsafe]",
        "--allow-lockout",
    ] {
        assert!(refusal.contains(word), "{refusal}");
    }
}

#[test]
fn what_the_policy_allows_or_the_failsafe_covers_is_not_lost() {
    let db = |report| state(vec![host(1, "db-1", "db", "10.1.0.1", report)]);
    // The policy allows it; the address is of the other family; the operator sits at the host itself.
    let open = db(Some(report(&[], &[22])));
    assert_eq!(lost(&open, &["10.9.0.3", "2001:db8::1", "10.1.0.1"]), []);
    let covered = db(Some(report(&["192.0.2.0/24"], &[22, 2222])));
    assert_eq!(lost(&covered, &["192.0.2.7"]), []);
    // Beside the failsafe's subnet, each of its ports is lost.
    let ports: Vec<u16> = lost(&covered, &["198.51.100.1"])
        .iter()
        .map(|it| it.port)
        .collect();
    assert_eq!(ports, [22, 2222]);
}

#[test]
fn a_host_that_never_reported_its_failsafe_is_named_and_refuses_nothing() {
    let state = state(vec![host(1, "db-1", "db", "10.1.0.1", None)]);
    let lost = lost(&state, &["192.0.2.7"]);
    assert!(lost[0].failsafe_unknown);
    assert_eq!(lockout_refusal(&lost), None);
}

#[test]
fn what_was_closed_before_is_not_lost_again() {
    let mut state = state(vec![host(
        1,
        "db-1",
        "db",
        "10.1.0.1",
        Some(report(&[], &[22])),
    )]);
    put_in_force(&mut state, CLOSED);
    assert_eq!(lost(&state, &["192.0.2.7"]), []);
}

#[test]
fn a_host_that_lets_its_operator_out_no_more_is_the_one_that_denies() {
    let state = state(vec![
        host(1, "jump-1", "jump", "10.1.0.1", Some(report(&[], &[22]))),
        host(
            2,
            "web-1",
            "web",
            "10.1.0.2",
            Some(report(&["10.0.0.0/8"], &[22])),
        ),
    ]);
    let lost = lost(&state, &["10.1.0.1"]);
    let [only] = lost.as_slice() else {
        panic!("{lost:?}")
    };
    assert_eq!(only.host.0, "web-1");
    assert_eq!(only.direction, Direction::Egress);
    assert_eq!(only.origin.rule, "jump/egress");
}

#[test]
fn the_hosts_that_no_policy_selects_are_the_open_ones() {
    let mut state = state(vec![
        host(1, "db-1", "db", "10.1.0.1", None),
        host(2, "web-1", "web", "10.1.0.2", None),
        host(3, "api-1", "api", "10.1.0.3", None),
    ]);
    let (selected, open) = selection(&state, &candidate(&state, CLOSED));
    let open: Vec<&str> = open.iter().map(|it| it.0.as_str()).collect();
    assert_eq!((selected, open), (1, vec!["api-1", "web-1"]));
    // What is only observed leaves a host open.
    let observed = CLOSED.replace("appliesTo: db\n", "appliesTo: db\nmode: observe\n");
    let (selected, open) = selection(&state, &candidate(&state, &observed));
    assert_eq!((selected, open.len()), (0, 3));

    let standing = |state: &State, number: u8| {
        let mut state_host = state.host(HostId([number; 16])).unwrap().clone();
        let current = state.publisher.current(state_host.id).unwrap();
        state_host.report.applied_digest = Some(current.digest);
        state.standing(&state_host)
    };
    assert_eq!(standing(&state, 1), Standing::NoPolicy);
    put_in_force(&mut state, &observed);
    assert_eq!(standing(&state, 1), Standing::Observed);
    put_in_force(&mut state, CLOSED);
    assert_eq!(standing(&state, 1), Standing::Enforced);
    assert_eq!(standing(&state, 2), Standing::NotSelected);
}

#[test]
fn what_a_host_reports_comes_before_what_it_has_acknowledged() {
    let mut state = state(vec![host(1, "db-1", "db", "10.1.0.1", None)]);
    let id = HostId([1; 16]);
    let digest = state.publisher.current(id).unwrap().digest;
    for (enforcement, expected) in [
        (Enforcement::Enforcing, Standing::NoPolicy),
        (Enforcement::NoPolicyYet, Standing::Pending),
        (Enforcement::PolicesNothing, Standing::PolicesNothing),
        (Enforcement::Degraded, Standing::Degraded),
        (Enforcement::Detached, Standing::Detached),
    ] {
        state.report(id, |report| {
            report.applied_digest = Some(digest);
            report.host = Some(HostReport {
                enforcement,
                ..HostReport::default()
            });
        });
        let source = "10.1.0.1".parse().unwrap();
        state.open_session(id, source);
        let host = state.host(id).unwrap();
        assert_eq!(state.standing(host), expected, "{enforcement:?}");
        assert_eq!(
            state.in_sync(host),
            expected == Standing::NoPolicy,
            "{enforcement:?}"
        );
    }
    // A host that is away is not in sync, whatever was heard last.
    let away = state.sessions.remove(&id).map(|it| it.number);
    assert!(away.is_some());
    assert!(!state.in_sync(state.host(id).unwrap()));
}

#[test]
fn the_host_on_which_the_controller_runs_is_told_by_its_addresses_its_session_or_its_word() {
    let mut state = state(vec![
        host(1, "db-1", "db", "10.1.0.1", None),
        host(2, "web-1", "web", "10.1.0.2", None),
    ]);
    state.own.port = 7443;
    state.own.addresses = from(&["10.1.0.1", "10.1.0.99"]);
    let runs = |state: &State, number: u8| {
        runs_controller(state, state.host(HostId([number; 16])).unwrap())
    };
    assert!(runs(&state, 1));
    assert!(!runs(&state, 2));
    let refusal = quarantine_refusal(&state, state.host(HostId([1; 16])).unwrap()).unwrap();
    assert!(
        refusal.starts_with("db-1 runs this controller")
            && refusal.contains("--including-the-controller"),
        "{refusal}"
    );

    // A host elsewhere names an address of the controller: a claim does not keep it out of quarantine.
    state.open_session(HostId([2; 16]), "10.1.0.2".parse().unwrap());
    if let Some(session) = state.sessions.get_mut(&HostId([2; 16])) {
        session.claimed = from(&["10.1.0.99"]);
    }
    assert!(!runs(&state, 2));
    assert_eq!(
        quarantine_refusal(&state, state.host(HostId([2; 16])).unwrap()),
        None
    );
    // It connects from the machine itself, and names nothing.
    state.open_session(HostId([2; 16]), "127.0.0.1".parse().unwrap());
    assert!(runs(&state, 2));
    // Behind a relay on the controller's machine, a host is the one whose addresses it names.
    if let Some(session) = state.sessions.get_mut(&HostId([2; 16])) {
        session.claimed = from(&["10.1.0.2"]);
    }
    assert!(!runs(&state, 2));
    // An agent that knows keeps the way open, so nothing is cut.
    state.report(HostId([2; 16]), |report| {
        report.host = Some(HostReport {
            hosts_controller: true,
            ..HostReport::default()
        });
    });
    assert!(runs(&state, 2));
    assert_eq!(
        quarantine_refusal(&state, state.host(HostId([2; 16])).unwrap()),
        None
    );
}

#[test]
fn an_operator_works_where_the_call_comes_from_or_at_the_far_end_of_its_session() {
    let mut state = state(Vec::new());
    state.own.addresses = from(&["10.1.0.99", "172.17.0.1"]);
    state.own.announced = from(&["10.1.0.99"]);
    let sources =
        |caller: &str, said: &[&str]| state.operator_sources(caller.parse().unwrap(), from(said));
    assert_eq!(
        sources("192.0.2.7", &["198.51.100.1"]),
        from(&["192.0.2.7"])
    );
    assert_eq!(
        sources("127.0.0.1", &["198.51.100.1"]),
        from(&["198.51.100.1"])
    );
    assert_eq!(
        sources("10.1.0.99", &["198.51.100.1"]),
        from(&["198.51.100.1"])
    );
    assert_eq!(sources("10.1.0.99", &[]), from(&["10.1.0.99"]));
    assert_eq!(sources("127.0.0.1", &["127.0.0.1"]), from(&["10.1.0.99"]));
}

#[test]
fn an_apply_that_closes_the_controllers_port_names_whom_it_cuts_off() {
    let mut state = state(vec![
        host(1, "db-1", "db", "10.1.0.1", None),
        host(2, "web-1", "web", "10.1.0.2", None),
    ]);
    state.own.port = 7443;
    let none = BTreeSet::new();
    assert_eq!(
        cut_off(&state, &candidate(&state, CLOSED), &none, NOW),
        None
    );
    state.own.addresses = from(&["10.1.0.1"]);
    let found = cut_off(&state, &candidate(&state, CLOSED), &none, NOW).unwrap();
    assert_eq!(found.source, "10.1.0.2".parse::<IpAddr>().unwrap());
    let refusal = found.refusal();
    for word in [
        "db-1 runs this controller",
        "policy.yaml:20",
        "10.1.0.2",
        "tcp/7443",
    ] {
        assert!(refusal.contains(word), "{refusal}");
    }
    let open = CLOSED.replace("allow: [tcp/22]", "allow: [tcp/22]\n  - allow: [tcp/7443]");
    assert_eq!(cut_off(&state, &candidate(&state, &open), &none, NOW), None);
}

#[test]
fn long_lists_are_counted() {
    let many: Vec<String> = (0..40).map(|number| format!("h{number}")).collect();
    assert_eq!(names(["a"]), "a");
    assert_eq!(names(["a", "b", "c"]), "a, b and c");
    assert_eq!(
        names(many.iter().map(String::as_str)),
        "h0, h1, h2, h3, h4, h5, h6, h7 and 32 more"
    );
}
