#![expect(clippy::unwrap_used, reason = "a failed conversion is a failed test")]

use std::{collections::BTreeMap, sync::Arc};

use policy::{
    HostPolicy, Identity, Origin, PeerMatch, PortSpan, Revision, Rule, SubnetMatch, Timestamp,
};

use super::*;
use crate::{DecodeError, decode_host_policy, encode_host_policy, sha256};

fn sample() -> HostPolicy {
    let origin = Arc::new(Origin {
        rule: "db/ingress[0]".into(),
        file: "db.yaml".into(),
        line: 7,
    });
    let rule = |direction, tier, action, peers, ports: Vec<_>, origin: &Arc<Origin>| Rule {
        direction,
        tier,
        action,
        mode: if ports.is_empty() {
            Mode::Enforce
        } else {
            Mode::Observe
        },
        peers,
        ports,
        log: true,
        expires: (tier == Tier::Exception).then_some(Timestamp(1_796_083_200)),
        origin: Arc::clone(origin),
    };
    let lists = PeerMatch::Of {
        identities: vec![Identity(256), Identity(300)],
        subnets: vec![SubnetMatch {
            subnet: "10.9.0.0/24".parse().unwrap(),
            except: vec![
                "10.9.0.7/32".parse().unwrap(),
                "10.9.0.128/25".parse().unwrap(),
            ],
        }],
    };
    let ports = ProtocolSlot::ALL
        .map(|slot| PortSpan {
            slot,
            first: 1,
            last: slot.last_key(),
        })
        .to_vec();
    let default = Arc::new(Origin {
        rule: "default".into(),
        file: String::new(),
        line: 0,
    });
    HostPolicy {
        revision: Revision(12),
        identity: Identity(256),
        rules: vec![
            rule(
                Direction::Ingress,
                Tier::Guardrail,
                Action::Pass,
                lists.clone(),
                ports.clone(),
                &origin,
            ),
            rule(
                Direction::Ingress,
                Tier::Exception,
                Action::Allow,
                lists.clone(),
                ports.clone(),
                &origin,
            ),
            rule(
                Direction::Ingress,
                Tier::Policy,
                Action::Allow,
                lists.clone(),
                ports.clone(),
                &origin,
            ),
            rule(
                Direction::Ingress,
                Tier::Policy,
                Action::Deny,
                PeerMatch::Any,
                vec![],
                &origin,
            ),
            rule(
                Direction::Ingress,
                Tier::Baseline,
                Action::Deny,
                lists,
                ports,
                &origin,
            ),
            rule(
                Direction::Ingress,
                Tier::Default,
                Action::Deny,
                PeerMatch::Any,
                vec![],
                &default,
            ),
            rule(
                Direction::Egress,
                Tier::Default,
                Action::Allow,
                PeerMatch::Any,
                vec![],
                &default,
            ),
        ],
        addresses: BTreeMap::from([
            ("10.1.2.3".parse().unwrap(), Identity(256)),
            ("fd00::7".parse().unwrap(), Identity::QUARANTINED),
        ]),
    }
}

#[test]
fn a_host_policy_arrives_as_it_was_sent() {
    let policy = sample();
    let (bytes, digest) = encode_host_policy(&policy);
    let arrived = decode_host_policy(&bytes, &digest).unwrap();
    assert_eq!(arrived, policy);
    // Rules from one place share it after the journey too.
    assert!(Arc::ptr_eq(
        &arrived.rules[0].origin,
        &arrived.rules[1].origin
    ));
}

#[test]
fn equal_policies_have_equal_bytes() {
    assert_eq!(encode_host_policy(&sample()), encode_host_policy(&sample()));
}

#[test]
fn a_policy_that_was_changed_on_the_way_is_refused() {
    let (mut bytes, digest) = encode_host_policy(&sample());
    bytes[3] ^= 1;
    assert!(matches!(
        decode_host_policy(&bytes, &digest),
        Err(DecodeError::Digest)
    ));
    let noise = [0xff; 8];
    assert!(matches!(
        decode_host_policy(&noise, &sha256(&noise)),
        Err(DecodeError::Message(_))
    ));
}

#[test]
fn a_policy_that_leaves_a_flow_without_a_verdict_is_refused() {
    let mut open = sample();
    open.rules.pop();
    let (bytes, digest) = encode_host_policy(&open);
    let refused = decode_host_policy(&bytes, &digest);
    assert!(
        matches!(refused, Err(DecodeError::Promise(_))),
        "{refused:?}"
    );
}

#[test]
fn what_the_policy_types_cannot_hold_is_refused() {
    type Damage = fn(&mut v1::HostPolicy);
    let damages: [(&str, Damage); 12] = [
        ("direction", |policy| policy.rules[0].direction = 0),
        ("tier", |policy| policy.rules[0].tier = 99),
        ("action", |policy| policy.rules[0].action = 4),
        ("no peer", |policy| policy.rules[0].peers = None),
        ("any and a list", |policy| {
            policy.rules[0].peers.as_mut().unwrap().any = true
        }),
        ("unsorted identities", |policy| {
            policy.rules[0].peers.as_mut().unwrap().identities.reverse();
        }),
        ("span", |policy| policy.rules[0].ports[0].last = 0),
        ("port", |policy| policy.rules[0].ports[0].last = 65_536),
        ("protocol", |policy| policy.rules[0].ports[5].last = 256),
        ("origin", |policy| policy.rules[0].origin = 2),
        ("address", |policy| {
            policy.addresses[0].address.pop();
        }),
        ("twice", |policy| {
            policy.addresses[1] = policy.addresses[0].clone()
        }),
    ];
    for (name, damage) in damages {
        let mut message = v1::HostPolicy::from(&sample());
        damage(&mut message);
        assert!(HostPolicy::try_from(message).is_err(), "{name}");
    }
}

#[test]
fn a_subnet_with_host_bits_or_too_long_a_prefix_is_refused() {
    for (address, prefix_length) in [([10, 0, 0, 1], 24), ([10, 0, 0, 0], 33), ([0; 4], 300)] {
        let subnet = v1::Subnet {
            address: address.to_vec(),
            prefix_length,
        };
        assert!(
            IpNet::try_from(subnet).is_err(),
            "{address:?}/{prefix_length}"
        );
    }
}
