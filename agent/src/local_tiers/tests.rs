//! What a host lets through on its own account, by the rules that it adds.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up shall fail"
)]

use std::collections::BTreeMap;

use policy::{Identity, PortKey, Revision};

use super::*;

fn local() -> LocalTiers {
    LocalTiers {
        controller_ports: [].into(),
        resolvers: [].into(),
        controllers: vec!["10.66.9.10:7443".parse().unwrap()],
        failsafe_subnets: vec!["10.66.0.0/24".parse().unwrap()],
        failsafe_tcp_ports: vec![22],
        dhcp_servers: Vec::new(),
        own_addresses: vec!["10.66.1.10".parse().unwrap()],
        other_ethertypes: OtherEthertypes::Drop,
        config_file: "/etc/bulkhead/agent.toml".into(),
    }
}

/// A policy that denies everything in a tier, with the host's own rules.
fn denying_in(tier: Tier, local: &LocalTiers) -> HostPolicy {
    let rule = |direction| Rule {
        direction,
        tier,
        action: Action::Deny,
        mode: Mode::Enforce,
        peers: PeerMatch::Any,
        ports: Vec::new(),
        log: false,
        expires: None,
        origin: Arc::new(Origin::unwritten("everything")),
    };
    local.merge(&HostPolicy {
        revision: Revision(1),
        identity: Identity::FIRST,
        rules: Direction::ALL.map(rule).to_vec(),
        addresses: BTreeMap::new(),
    })
}

/// The tier of the first rule that matches, where it allows.
fn allowed_by(
    policy: &HostPolicy,
    direction: Direction,
    peer: &str,
    slot: ProtocolSlot,
    key: u16,
) -> Option<Tier> {
    let peer = peer.parse().unwrap();
    let rule = policy
        .rules
        .iter()
        .find(|rule| rule.matches(direction, peer, None, PortKey { slot, key }))
        .unwrap();
    (rule.action == Action::Allow).then_some(rule.tier)
}

use Direction::{Egress, Ingress};
use ProtocolSlot::{Other, Tcp, Udp};

#[test]
fn quarantine_leaves_the_way_to_the_controller_and_to_an_address_and_no_other() {
    let policy = denying_in(Tier::Quarantine, &local());
    let lifeline = Some(Tier::Lifeline);
    assert_eq!(
        allowed_by(&policy, Egress, "10.66.9.10", Tcp, 7443),
        lifeline
    );
    assert_eq!(
        allowed_by(&policy, Egress, "255.255.255.255", Udp, 67),
        lifeline
    );
    assert_eq!(allowed_by(&policy, Egress, "ff02::1:2", Udp, 547), lifeline);
    // Of this host's own client alone, who may answer: the datapath knows which requests are open.
    for server in ["198.51.100.7", "10.66.1.11", "fe80::1", "2001:db8::7"] {
        let answered = allowed_by(&policy, Ingress, server, Other, local_service::DHCP_ANSWER);
        assert_eq!(answered, lifeline, "{server}");
        let renewed = allowed_by(&policy, Egress, server, Other, local_service::DHCP_RENEWAL);
        assert_eq!(renewed, None, "{server}");
    }
    for (direction, peer, slot, key) in [
        (Egress, "10.66.9.10", Tcp, 22),
        (Ingress, "10.66.9.10", Tcp, 7443),
        (Egress, "198.51.100.7", Udp, 67),
        (Egress, "2001:db8::7", Udp, 547),
        (Ingress, "198.51.100.7", Udp, 68),
        (Ingress, "2001:db8::7", Udp, 546),
        (Ingress, "fe80::1", Udp, 546),
        // It claims an address of this host.
        (Ingress, "10.66.1.10", Other, local_service::DHCP_ANSWER),
        (Ingress, "10.66.0.10", Tcp, 22),
    ] {
        let allowed = allowed_by(&policy, direction, peer, slot, key);
        assert_eq!(allowed, None, "{direction} {peer} {slot}/{key}");
    }
}

#[test]
fn no_policy_cuts_the_operators_way_in() {
    let policy = denying_in(Tier::Policy, &local());
    assert_eq!(
        allowed_by(&policy, Ingress, "10.66.0.10", Tcp, 22),
        Some(Tier::Failsafe)
    );
    assert_eq!(allowed_by(&policy, Ingress, "10.66.0.10", Tcp, 23), None);
    assert_eq!(allowed_by(&policy, Ingress, "10.66.1.11", Tcp, 22), None);
}

#[test]
fn agents_reach_a_controller_on_a_host_that_is_policed_itself() {
    let mut local = local();
    local.own_addresses = vec!["10.66.9.10".parse().unwrap()];
    let policy = denying_in(Tier::Policy, &local);
    assert_eq!(
        allowed_by(&policy, Ingress, "10.66.1.10", Tcp, 7443),
        Some(Tier::Lifeline)
    );
}

#[test]
fn the_fingerprint_changes_with_the_rules() {
    let before = local();
    let mut after = before.clone();
    assert_eq!(before.fingerprint(), after.fingerprint());
    after.failsafe_tcp_ports.push(2222);
    assert_ne!(before.fingerprint(), after.fingerprint());
}

#[test]
fn the_fingerprint_does_not_change_with_the_name_of_the_configuration_file() {
    let named = |name: &str| LocalTiers {
        config_file: name.into(),
        ..local()
    };
    assert_eq!(
        named("/etc/bulkhead/agent.toml").fingerprint(),
        named("../bulkhead//agent.toml").fingerprint()
    );
}

#[test]
fn a_controller_that_listens_here_is_reached_by_all_and_resolvers_by_this_host_alone() {
    let local = LocalTiers {
        controller_ports: [8443].into(),
        resolvers: ["10.0.0.53".parse().unwrap()].into(),
        ..local()
    };
    assert!(local.hosts_controller());
    let merged = denying_in(Tier::Quarantine, &local);
    let lifeline = |direction, slot, port| {
        let span = PortSpan {
            slot,
            first: port,
            last: port,
        };
        merged.rules.iter().find(|rule| {
            rule.tier == Tier::Lifeline && rule.direction == direction && rule.ports == [span]
        })
    };
    let opened = lifeline(Ingress, Tcp, 8443).unwrap();
    assert!(opened.peers.contains("198.51.100.7".parse().unwrap(), None));
    assert!(!opened.peers.contains("127.0.0.1".parse().unwrap(), None));
    for slot in [Udp, Tcp] {
        let opened = lifeline(Egress, slot, 53).unwrap();
        assert_eq!(opened.peers, of_subnets(["10.0.0.53/32".parse().unwrap()]));
        assert_eq!(lifeline(Ingress, slot, 53), None);
    }
}

#[test]
fn no_policy_cuts_the_renewal_of_a_lease_and_only_named_servers_answer_where_some_are_named() {
    let mut local = local();
    let answer = local_service::DHCP_ANSWER;
    let renewal = local_service::DHCP_RENEWAL;
    let asked = |local: &LocalTiers, server| {
        let policy = denying_in(Tier::Guardrail, local);
        [(Ingress, answer), (Egress, renewal)]
            .map(|(direction, key)| allowed_by(&policy, direction, server, Other, key))
    };
    let allowed = [Some(Tier::Lifeline), Some(Tier::Failsafe)];
    assert_eq!(asked(&local, "198.51.100.7"), allowed);
    local.dhcp_servers = vec!["10.66.1.0/24".parse().unwrap()];
    assert_eq!(asked(&local, "10.66.1.11"), allowed);
    for other in ["198.51.100.7", "fe80::1", "10.66.1.10"] {
        assert_eq!(asked(&local, other), [None, None], "{other}");
    }
}

#[test]
fn no_packet_comes_from_an_address_that_nobody_on_the_wire_has() {
    let mut local = local();
    local.failsafe_subnets = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    local.own_addresses.push("fd66:1::10".parse().unwrap());
    // A policy that lets everything in.
    let mut policy = denying_in(Tier::Guardrail, &local);
    for rule in &mut policy.rules {
        if rule.tier == Tier::Guardrail {
            rule.action = Action::Allow;
        }
    }
    for source in [
        "0.0.0.1",
        "127.0.0.1",
        "127.255.255.255",
        "224.0.0.1",
        "239.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
        "10.66.1.10",
        "::",
        "::1",
        "::10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.66.1.10",
        "::ffff:198.51.100.7",
        "ff02::1",
        "ff0e::7",
        "fd66:1::10",
    ] {
        for (slot, key) in [(Tcp, 22), (Tcp, 443), (Udp, 67), (Other, 47)] {
            let allowed = allowed_by(&policy, Ingress, source, slot, key);
            assert_eq!(allowed, None, "{source} {slot}/{key}");
        }
    }
    for source in [
        "10.66.1.11",
        "198.51.100.7",
        "fd66:1::11",
        "fe80::1",
        "2001:db8::1",
    ] {
        let allowed = allowed_by(&policy, Ingress, source, Tcp, 443);
        assert_eq!(allowed, Some(Tier::Guardrail), "{source}");
        let allowed = allowed_by(&policy, Ingress, source, Tcp, 22);
        assert_eq!(allowed, Some(Tier::Failsafe), "{source}");
    }
    // A DHCP client without an address, where policy lets it ask this host.
    let discover = allowed_by(&policy, Ingress, "0.0.0.0", Udp, 67);
    assert_eq!(discover, Some(Tier::Guardrail));
    for (slot, key) in [(Tcp, 443), (Tcp, 67), (Udp, 68), (Udp, 53)] {
        assert_eq!(allowed_by(&policy, Ingress, "0.0.0.0", slot, key), None);
    }
    assert_eq!(
        allowed_by(&policy, Egress, "::ffff:10.0.0.1", Tcp, 443),
        None
    );
    assert_eq!(
        allowed_by(&policy, Egress, "224.0.0.251", Udp, 5353),
        Some(Tier::Guardrail)
    );
}
