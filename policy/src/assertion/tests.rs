#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, net::IpAddr};

use proptest::prelude::*;

use super::*;
use crate::{
    evaluate::{Flow, evaluate},
    inventory::{Host, Labels},
    parse::parse,
    reach::tests::{all_flows, passes, telling_addresses},
    set::Ports,
    source::SourceFile,
    testing::{Scenario, scenario},
};

/// Whether an address is one of an assertion's ends.
fn is_member(set: &PolicySet, inventory: &Inventory, at: IpAddr, segments: &[SegmentId]) -> bool {
    let host = inventory.holder(at);
    if host.is_some_and(|host| host.quarantined) {
        return false;
    }
    let addresses = host.map_or(vec![at], |host| host.addresses.clone());
    segments.iter().map(|id| set.segment(*id)).any(|segment| {
        let holds = |at: &IpAddr| segment.subnets.iter().any(|net| net.contains(at));
        host.is_some_and(|host| segment.selector.matches(&set.identity_labels(&host.labels)))
            || addresses.iter().any(holds)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_assertion_fails_exactly_where_a_flow_breaks_it(
        scenario in scenario(),
        picks in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u8>(), any::<bool>()), 4),
    ) {
        let Scenario { mut set, inventory, .. } = scenario;
        let segments = u32::try_from(set.segments.len()).unwrap();
        let ports = [
            Ports::Any,
            Ports::spans(vec![PortSpan { slot: ProtocolSlot::Tcp, first: 80, last: 80 }]),
            Ports::spans(vec![PortSpan { slot: ProtocolSlot::Icmp, first: 2048, last: 2048 }]),
            Ports::Of {
                spans: Vec::new(),
                named: vec![crate::set::NamedPort {
                    slot: ProtocolSlot::Tcp,
                    name: "http".to_owned(),
                }],
            },
        ];
        set.assertions = picks.iter().enumerate().map(|(index, (from, to, port, never))| {
            let id = |pick: &u8| SegmentId(u32::from(*pick) % segments);
            Assertion {
                name: format!("assertion-{index}"),
                claim: if *never { Claim::Never } else { Claim::Always },
                from: BTreeSet::from([id(from), SegmentId(0)]).into_iter().collect(),
                to: vec![id(to)],
                ports: ports[usize::from(*port) % ports.len()].clone(),
                origin: Arc::new(Origin::unwritten("assertion")),
            }
        }).collect();
        let decided = decide(&set, &inventory);
        let flows = all_flows(&telling_addresses(&[&set], &inventory), &inventory);
        for assertion in &set.assertions {
            let speaks_of = |flow: &&Flow| {
                let in_ports = match &assertion.ports {
                    Ports::Any => true,
                    Ports::Of { spans, named } => {
                        let labels = inventory.holder(flow.destination).map(|host| &host.labels);
                        let http = labels.and_then(|labels| labels.get("port:tcp/http"));
                        spans.iter().any(|span| span.contains(flow.port))
                            || !named.is_empty()
                                && flow.port.slot == ProtocolSlot::Tcp
                                && http.is_some_and(|numbers| {
                                    numbers.split(',').any(|at| at == flow.port.key.to_string())
                                })
                    }
                };
                in_ports
                    && is_member(&set, &inventory, flow.source, &assertion.from)
                    && is_member(&set, &inventory, flow.destination, &assertion.to)
            };
            let wanted = assertion.claim == Claim::Always;
            let mut spoken_of = flows.iter().filter(speaks_of);
            let is_vacuous = flows.iter().find(speaks_of).is_none();
            let is_broken = spoken_of.any(|flow| passes(&set, &inventory, flow) != wanted);
            let found = decided.failures.iter().find(|failure| failure.assertion == assertion.name);
            prop_assert_eq!(found.is_some(), is_broken, "{:?} {:?}", assertion, found);
            let noted = decided.vacuous.iter().any(|it| it.assertion == assertion.name);
            prop_assert_eq!(noted, is_vacuous, "{:?}", assertion);
            let Some(Failure { cause: Cause::Broken(witness), .. }) = found else { continue };
            let (source, destination) = (&witness.source, &witness.destination);
            let flow = Flow {
                source: source.address,
                destination: destination.address,
                port: witness.port,
            };
            prop_assert!(speaks_of(&&flow), "{:?}", witness);
            for party in [source, destination] {
                let holder = inventory.holder(party.address).map(|host| &host.name);
                prop_assert_eq!(holder, party.host.as_ref());
            }
            prop_assert!(source.host.is_none() || source.host != destination.host);
            let verdict = evaluate(&set, &inventory, &flow);
            prop_assert_eq!(&verdict.egress.enforced, &witness.egress);
            prop_assert_eq!(&verdict.ingress.enforced, &witness.ingress);
        }
    }
}

const SET: &str = "\
apiVersion: bulkhead/v1
kind: Segment
name: app
match: { tier: app }
---
apiVersion: bulkhead/v1
kind: Segment
name: db
match: { tier: db }
---
apiVersion: bulkhead/v1
kind: Segment
name: office
subnets: [10.9.0.0/24]
---
apiVersion: bulkhead/v1
kind: Policy
name: db
appliesTo: db
ingress:
  - from: [app]
    allow: [tcp/5432]
";

fn set(claim: Claim, from: &str, to: &str, ports: Ports) -> PolicySet {
    let mut set = parse(&[SourceFile {
        path: "p.yaml".to_owned(),
        content: SET.to_owned(),
    }])
    .unwrap();
    let id = |name: &str| {
        let mut segments = (0..).zip(&set.segments);
        let found = segments.find(|(_, segment)| segment.name == name);
        vec![SegmentId(found.unwrap().0)]
    };
    set.assertions = vec![Assertion {
        name: "promise".to_owned(),
        claim,
        from: id(from),
        to: id(to),
        ports,
        origin: Arc::new(Origin {
            rule: "promise".to_owned(),
            file: "p.yaml".to_owned(),
            line: 40,
        }),
    }];
    set
}

fn inventory(hosts: &[(&str, &str, &str)]) -> Inventory {
    let host = |(name, address, tier): &(&str, &str, &str)| Host {
        name: HostName((*name).to_owned()),
        addresses: vec![address.parse().unwrap()],
        labels: Labels::from([("tier".to_owned(), (*tier).to_owned())]),
        quarantined: false,
    };
    Inventory {
        hosts: hosts.iter().map(host).collect(),
    }
}

fn said(set: &PolicySet, inventory: &Inventory) -> Vec<String> {
    let failures = check(set, inventory).into_iter();
    failures.map(|failure| failure.to_string()).collect()
}

const POSTGRES: PortSpan = PortSpan {
    slot: ProtocolSlot::Tcp,
    first: 5432,
    last: 5432,
};

#[test]
fn a_failure_names_the_flow_and_both_rules() {
    let inventory = inventory(&[("app-1", "10.0.1.1", "app"), ("db-1", "10.0.2.1", "db")]);
    assert_eq!(
        said(&set(Claim::Never, "app", "db", Ports::Any), &inventory),
        [
            "assertion `promise` fails: app-1 (10.0.1.1) may reach db-1 (10.0.2.1) on tcp/5432: \
             egress allowed by default, ingress allowed by db/ingress[0] (p.yaml:21), which it \
             says never happens"
        ]
    );
    let postgres = || Ports::spans(vec![POSTGRES]);
    assert_eq!(
        said(&set(Claim::Always, "app", "db", postgres()), &inventory),
        [""; 0]
    );
    assert_eq!(
        said(&set(Claim::Always, "office", "db", postgres()), &inventory),
        [
            "assertion `promise` fails: 10.9.0.1 (held by no host) cannot reach db-1 (10.0.2.1) \
             on tcp/5432: ingress denied by db/ingress (p.yaml:20), which it says always passes"
        ]
    );
}

#[test]
fn a_host_in_quarantine_breaks_no_assertion() {
    let mut inventory = inventory(&[
        ("app-1", "10.0.1.1", "app"),
        ("app-2", "10.0.1.2", "app"),
        ("db-1", "10.0.2.1", "db"),
    ]);
    inventory.hosts[0].quarantined = true;
    let always = set(Claim::Always, "app", "db", Ports::spans(vec![POSTGRES]));
    assert_eq!(decide(&always, &inventory), Decided::default());
    inventory.hosts[1].quarantined = true;
    let decided = decide(&always, &inventory);
    assert_eq!((decided.failures.len(), decided.vacuous.len()), (0, 1));
}

#[test]
fn one_host_in_both_segments_has_no_flow_to_itself() {
    let mut both = inventory(&[("db-1", "10.0.2.1", "db")]);
    both.hosts[0].addresses.push("10.0.2.2".parse().unwrap());
    let never = set(Claim::Never, "db", "db", Ports::Any);
    let decided = decide(&never, &both);
    assert_eq!((decided.failures.len(), decided.vacuous.len()), (0, 1));
}

#[test]
fn where_nobody_enforces_nothing_is_impossible() {
    let nobody = Inventory::default();
    let never = set(Claim::Never, "office", "office", Ports::Any);
    let failures = said(&never, &nobody);
    assert!(
        failures[0].contains("10.9.0.1 (held by no host) may reach 10.9.0.2 (held by no host)")
            && failures[0].contains("egress allowed by unmanaged"),
        "{failures:?}"
    );
}
