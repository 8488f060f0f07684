//! Tables small enough to check by hand, and shapes that the generators never make.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::host_policy::{Origin, PeerMatch, Rule, SubnetMatch};
use crate::words::{Effect, Identity, Mode, Revision, Tier};

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

fn allow(identities: &[u32], subnets: &[(&str, &[&str])], ports: &[PortSpan]) -> Rule {
    let subnets = subnets
        .iter()
        .map(|(subnet, except)| SubnetMatch {
            subnet: subnet.parse().unwrap(),
            except: nets(except),
        })
        .collect();
    let identities = identities.iter().copied().map(Identity).collect();
    Rule {
        peers: PeerMatch::Of {
            identities,
            subnets,
        },
        ports: ports.to_vec(),
        ..any(Effect::Allow)
    }
}

fn any(effect: Effect) -> Rule {
    Rule {
        direction: Direction::Ingress,
        tier: Tier::Policy,
        action: effect.into(),
        expires: None,
        mode: Mode::Enforce,
        peers: PeerMatch::Any,
        ports: Vec::new(),
        log: false,
        origin: Origin::unwritten("test").into(),
    }
}

fn policy(mut rules: Vec<Rule>, addresses: &[(&str, u32)]) -> HostPolicy {
    rules.push(any(Effect::Deny));
    rules.push(Rule {
        direction: Direction::Egress,
        ..any(Effect::Allow)
    });
    HostPolicy {
        revision: Revision(1),
        identity: Identity::FIRST,
        rules,
        addresses: addresses
            .iter()
            .map(|(address, identity)| (address.parse().unwrap(), Identity(*identity)))
            .collect(),
    }
}

/// The rule that each address meets on tcp/80.
fn rules_of(policy: &HostPolicy, addresses: &[&str]) -> Vec<u32> {
    let classes = classify(policy).unwrap();
    let port = PortKey {
        slot: ProtocolSlot::Tcp,
        key: 80,
    };
    addresses
        .iter()
        .map(|address| {
            classes
                .decide(Direction::Ingress, address.parse().unwrap(), port)
                .enforced
                .0
        })
        .collect()
}

#[test]
fn holes_within_subnets_within_holes() {
    // Two subnets of one list: what one excepts, the other may hold.
    let subnets: &[(&str, &[&str])] = &[
        ("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24"]),
        ("10.1.2.0/25", &["10.1.2.3/32"]),
    ];
    let policy = policy(vec![allow(&[], subnets, &[])], &[]);
    let addresses = [
        "10.9.9.9",
        "10.1.1.1",
        "10.1.2.1",
        "10.1.2.3",
        "10.1.2.200",
        "11.0.0.0",
    ];
    assert_eq!(rules_of(&policy, &addresses), [0, 1, 0, 1, 1, 1]);
}

#[test]
fn a_hole_as_large_as_its_subnet_or_larger_leaves_nothing() {
    let subnets: &[(&str, &[&str])] = &[
        ("10.0.0.0/24", &["10.0.0.0/24"]),
        ("10.0.1.0/24", &["10.0.0.0/8"]),
    ];
    let policy = policy(vec![allow(&[], subnets, &[])], &[]);
    assert_eq!(rules_of(&policy, &["10.0.0.1", "10.0.1.1"]), [1, 1]);
}

#[test]
fn an_address_has_its_identity_and_every_subnet_around_it() {
    let rules = vec![
        allow(&[300], &[], &[]),
        allow(&[], &[("10.0.0.0/24", &["10.0.0.1/32"])], &[]),
        allow(&[301], &[("10.0.0.0/16", &[])], &[]),
    ];
    let policy = policy(
        rules,
        &[("10.0.0.1", 300), ("10.0.0.2", 301), ("10.9.0.1", 301)],
    );
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.1.2", "10.9.0.1", "10.9.0.2"];
    assert_eq!(rules_of(&policy, &addresses), [0, 1, 2, 2, 3]);
    let classes = classify(&policy).unwrap();
    assert_eq!(classes.addresses.len(), 3);
    assert_eq!(classes.subnets.len(), 2);
}

#[test]
fn families_do_not_mix() {
    let policy = policy(vec![allow(&[], &[("0.0.0.0/0", &[])], &[])], &[]);
    assert_eq!(
        rules_of(&policy, &["0.0.0.0", "::", "::ffff:10.0.0.1"]),
        [0, 1, 1]
    );
}

#[test]
fn spans_of_one_rule_may_overlap() {
    let span = |first, last| PortSpan {
        slot: ProtocolSlot::Tcp,
        first,
        last,
    };
    let rules = vec![allow(
        &[],
        &[("10.0.0.0/8", &[])],
        &[span(1, 100), span(50, 79), span(90, 90)],
    )];
    let policy = policy(rules, &[]);
    assert_eq!(rules_of(&policy, &["10.0.0.1"]), [0]);
    let classes = classify(&policy).unwrap();
    assert_eq!(classes.port_classes, 3);
    assert_eq!((classes.peer_classes, classes.matrix.len()), (2, 6));
}

#[test]
fn subnets_with_bits_behind_the_prefix_count_as_the_subnet() {
    let policy = policy(
        vec![allow(&[], &[("10.0.0.77/24", &["10.0.0.9/31"])], &[])],
        &[],
    );
    assert_eq!(
        rules_of(&policy, &["10.0.0.1", "10.0.0.8", "10.0.0.10"]),
        [0, 1, 0]
    );
}

fn at(line: u32, rule: Rule) -> Rule {
    let origin = Origin {
        rule: format!("rule-{line}"),
        file: "policies.yaml".to_owned(),
        line,
    };
    Rule {
        origin: origin.into(),
        ..rule
    }
}

#[test]
fn what_does_not_fit_names_the_rules_that_cost_most() {
    let tcp = |first, last| PortSpan {
        slot: ProtocolSlot::Tcp,
        first,
        last,
    };
    // Each alone costs nothing to speak of: a row, or a column.
    let mut rules: Vec<Rule> = (0..750)
        .map(|n| {
            let subnet = format!("10.{}.{}.0/24", n / 256, n % 256);
            at(10 + n, allow(&[], &[(&subnet, &[])], &[tcp(1, 9)]))
        })
        .collect();
    // Many columns, and twice the rows.
    let ports: Vec<PortSpan> = (0..900).map(|n| tcp(100 + n * 20, 105 + n * 20)).collect();
    rules.push(at(
        2,
        allow(&[], &[("10.0.0.0/9", &["10.0.7.128/25"])], &ports),
    ));
    let ports: Vec<PortSpan> = (0..900).map(|n| tcp(103 + n * 20, 112 + n * 20)).collect();
    rules.push(at(3, allow(&[], &[("10.1.0.0/16", &[])], &ports)));
    rules.extend((0..700).map(|n| {
        let port = 30_000 + n as u16 * 2;
        at(
            2_000 + n,
            allow(&[], &[("10.0.0.0/8", &[])], &[tcp(port, port)]),
        )
    }));
    let error = check_fit(&policy(rules, &[])).unwrap_err();
    assert_eq!(error.what, "matrix cells with each host's own rules");
    assert!(error.needed > error.limit);
    let lines: Vec<u32> = error
        .costliest
        .iter()
        .map(|cost| cost.origin.line)
        .collect();
    assert_eq!(lines.len(), 5);
    assert!(
        error
            .costliest
            .is_sorted_by(|a, b| a.entries >= b.entries && a.entries > 0)
    );
    let text = error.to_string();
    assert!(
        text.contains("is the most; the rules that cost most: rule-"),
        "{text}"
    );
    assert!(text.contains(" at policies.yaml:"), "{text}");
}

#[test]
fn a_rule_costs_what_would_vanish_without_it() {
    let tcp = |first, last| PortSpan {
        slot: ProtocolSlot::Tcp,
        first,
        last,
    };
    let cells = |policy: &HostPolicy| {
        let peers = Peers::new(policy).unwrap();
        peers.signatures.len() * Ports::new(policy).signatures.len()
    };
    let rules = vec![
        at(1, allow(&[], &[("10.0.0.0/8", &[])], &[tcp(80, 80)])),
        at(2, allow(&[], &[("10.0.0.0/16", &[])], &[tcp(80, 90)])),
        at(
            3,
            allow(
                &[],
                &[("10.0.0.0/24", &[]), ("11.0.0.0/8", &[])],
                &[tcp(85, 95), tcp(443, 443)],
            ),
        ),
    ];
    let whole = policy(rules.clone(), &[]);
    let too_large = TooLarge {
        what: "matrix cells",
        needed: 2,
        limit: 1,
        costliest: Vec::new(),
    };
    let costs = too_large.blame(&whole).costliest;
    assert_eq!(costs.len(), 3);
    for cost in costs {
        let mut others = rules.clone();
        others.retain(|rule| rule.origin != cost.origin);
        let vanish = cells(&whole) - cells(&policy(others, &[]));
        assert_eq!(cost.entries, vanish, "{cost}");
    }
}

#[test]
fn too_many_peers_and_rules_are_blamed_on_those_that_name_them() {
    let many: Vec<(String, u32)> = (0..limits::MAX_PEERS)
        .map(|n| (format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255), 300))
        .collect();
    let many: Vec<(&str, u32)> = many.iter().map(|(text, id)| (text.as_str(), *id)).collect();
    let rules = vec![
        at(7, allow(&[300], &[], &[])),
        at(8, allow(&[], &[("10.0.0.0/8", &[])], &[])),
    ];
    let error = check_fit(&policy(rules, &many)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "peers: 131073 needed, 131072 is the most; the rules that cost most: \
         rule-7 at policies.yaml:7 (131072), rule-8 at policies.yaml:8 (1)"
    );
    let mut rules = vec![at(9, any(Effect::Allow)); limits::MAX_RULES - 100];
    rules.extend(vec![at(4, any(Effect::Allow)); 101]);
    let error = check_fit(&policy(rules, &[])).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "the rules that cost most: rule-9 at policies.yaml:9 (16284), rule-4 at policies.yaml:4 (101)"
        ),
        "{error}"
    );
}
