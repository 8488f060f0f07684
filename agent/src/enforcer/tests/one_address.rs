//! An address that comes or goes: what its packets meet, and what the maps hold.

use super::{flips::segment, *};

const PAIR: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const CLIENTS: Identity = Identity(1_000);

/// Lets in who has an identity, which 10.0.0.9 has, and nobody else; lets everything out.
fn identified(addresses: &[&str]) -> HostPolicy {
    let mut policy = uniform(Action::Deny);
    policy.rules[1].action = Action::Allow;
    let mut allowed = policy.rules[0].clone();
    allowed.action = Action::Allow;
    allowed.peers = PeerMatch::Of {
        identities: vec![CLIENTS],
        subnets: Vec::new(),
    };
    policy.rules.insert(0, allowed);
    let all = addresses.iter().chain(&["10.0.0.9"]);
    policy.addresses = all
        .map(|address| (address.parse().unwrap(), CLIENTS))
        .collect();
    policy
}

#[test]
fn an_address_comes_and_goes_without_new_tables_and_its_connections_are_cut() {
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let mut digest = 0;
    let mut apply = |enforcer: &mut Enforcer, policy: &HostPolicy| {
        digest += 1;
        let live = enforcer
            .apply(policy, [digest; 32], &LocalTiers::default(), DAWN)
            .unwrap();
        assert_eq!(enforcer.live().unwrap(), Some(live));
        live.generation
    };
    let run = |enforcer: &mut Enforcer, client, flags| {
        let frame = segment(PAIR, Direction::Ingress, client, flags);
        enforcer
            .programs
            .test_run(Direction::Ingress, &frame)
            .unwrap()
    };
    let (without, with) = (identified(&[]), identified(&["10.0.0.2"]));
    let first = apply(&mut enforcer, &without);
    for round in 0..2 {
        let (client, before) = (40_000 + round, first + 4 * u32::from(round));
        assert_eq!(run(&mut enforcer, client, "S"), Verdict::Drop);
        // The same slot: nothing was compiled.
        assert_eq!(apply(&mut enforcer, &with), before + 2);
        assert_eq!(run(&mut enforcer, client, "S"), Verdict::Pass);
        assert_eq!(run(&mut enforcer, client, "A"), Verdict::Pass);
        assert_eq!(apply(&mut enforcer, &without), before + 4);
        assert_eq!(
            run(&mut enforcer, client, "A"),
            Verdict::Drop,
            "revoked means cut"
        );
    }
    // The next whole plan forgets it.
    let mut other = without.clone();
    other.rules[1].log = true;
    apply(&mut enforcer, &other);
    let kept = enforcer.maps.observe().unwrap();
    let gone: ipnet::IpNet = "10.0.0.2/32".parse().unwrap();
    assert!(!kept.peers.contains_key(&gone), "{kept:?}");
    assert_eq!(enforcer.observed.unwrap().peers, kept.peers);
}

#[test]
fn an_address_that_a_rule_names_takes_new_tables() {
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let local = LocalTiers {
        own_addresses: vec!["10.0.0.2".parse().unwrap()],
        ..LocalTiers::default()
    };
    let first = enforcer
        .apply(&identified(&[]), [1; 32], &local, DAWN)
        .unwrap();
    let with = identified(&["10.0.0.2"]);
    let second = enforcer.apply(&with, [2; 32], &local, DAWN).unwrap();
    assert_eq!(second.generation, first.generation + 1);
    assert!(!enforcer.lets_in(), "nobody claims this host's address");
}
