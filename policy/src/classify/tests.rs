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
