//! The quarantine of peers in a host policy: it is enforced whatever becomes of the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use policy::{Action, Direction, HostPolicy, Identity, Mode, Origin, PeerMatch, Rule, Tier};

/// The addresses that a policy says are in quarantine.
pub(super) fn addresses(policy: &HostPolicy) -> BTreeSet<IpAddr> {
    let addresses = policy.addresses.iter();
    addresses
        .filter(|(_, identity)| **identity == Identity::QUARANTINED)
        .map(|(address, _)| *address)
        .collect()
}

/// Whether two policies mean the same but for the peers in quarantine.
pub(super) fn is_all_that_differs(one: &HostPolicy, other: &HostPolicy) -> bool {
    let quarantined = &addresses(one) | &addresses(other);
    one.identity == other.identity && rest(one, &quarantined) == rest(other, &quarantined)
}

/// A policy without these addresses, and without what only they give a meaning to.
fn rest(
    policy: &HostPolicy,
    quarantined: &BTreeSet<IpAddr>,
) -> (Vec<Rule>, BTreeMap<IpAddr, Identity>) {
    let mut addresses = policy.addresses.clone();
    addresses.retain(|address, _| !quarantined.contains(address));
    let held: BTreeSet<Identity> = addresses.values().copied().collect();
    let mut rules = policy.rules.clone();
    rules.retain_mut(|rule| match &mut rule.peers {
        PeerMatch::Any => true,
        PeerMatch::Of {
            identities,
            subnets,
        } => {
            // The compiler leaves out an identity that nobody holds any more.
            identities.retain(|identity| *identity < Identity::FIRST || held.contains(identity));
            rule.tier != Tier::Quarantine && !(identities.is_empty() && subnets.is_empty())
        }
    });
    (rules, addresses)
}

/// A policy with the peers in quarantine that another one has; none where it has them already.
pub(super) fn with_those_of(policy: &HostPolicy, other: &HostPolicy) -> Option<HostPolicy> {
    let missing = &addresses(other) - &addresses(policy);
    if missing.is_empty() {
        return None;
    }
    let mut policy = policy.clone();
    policy
        .addresses
        .extend(missing.into_iter().map(|it| (it, Identity::QUARANTINED)));
    for direction in Direction::ALL {
        let is_there = policy
            .rules
            .iter()
            .any(|rule| rule.direction == direction && rule.tier == Tier::Quarantine);
        if !is_there {
            // Before all others that a controller sends.
            policy.rules.insert(0, rule(direction));
        }
    }
    Some(policy)
}

/// What the compiler makes of a quarantine at its peers.
fn rule(direction: Direction) -> Rule {
    Rule {
        direction,
        tier: Tier::Quarantine,
        action: Action::Deny,
        mode: Mode::Enforce,
        peers: PeerMatch::Of {
            identities: vec![Identity::QUARANTINED],
            subnets: Vec::new(),
        },
        ports: Vec::new(),
        log: false,
        expires: None,
        origin: Arc::new(Origin::unwritten("quarantine")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::enforcement::beginning::closed_policy;

    /// Allows these identities, of which each holds the address of its number.
    fn allowing(identities: &[u32]) -> HostPolicy {
        let mut policy = closed_policy();
        let held = identities.iter().map(|it| Identity(*it)).collect();
        let allowed = Rule {
            tier: Tier::Policy,
            action: Action::Allow,
            peers: PeerMatch::Of {
                identities: held,
                subnets: Vec::new(),
            },
            ..policy.rules[0].clone()
        };
        policy.rules.insert(0, allowed);
        policy.addresses = identities
            .iter()
            .map(|it| (address(*it), Identity(*it)))
            .collect();
        policy
    }

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 | number).into()
    }

    /// As the controller compiles the quarantine of the one host of this identity.
    fn quarantined(mut policy: HostPolicy, number: u32) -> HostPolicy {
        policy
            .addresses
            .insert(address(number), Identity::QUARANTINED);
        policy.rules.splice(0..0, Direction::ALL.map(rule));
        policy
    }

    #[test]
    fn a_quarantine_alone_is_told_from_one_that_comes_with_other_rules() {
        let before = allowing(&[256, 257]);
        let after = quarantined(allowing(&[256]), 257);
        assert!(is_all_that_differs(&before, &after));
        assert!(is_all_that_differs(&after, &before));
        let bundled = quarantined(allowing(&[256, 258]), 257);
        assert!(!is_all_that_differs(&before, &bundled));
        let mut bundled = after.clone();
        bundled.rules[3].log = true;
        assert!(!is_all_that_differs(&before, &bundled));
    }

    #[test]
    fn quarantines_are_added_and_nothing_else() {
        let before = allowing(&[256, 257]);
        let newer = quarantined(allowing(&[258]), 257);
        let merged = with_those_of(&before, &newer).unwrap();
        merged.check().unwrap();
        assert!(is_all_that_differs(&before, &merged));
        assert_eq!(addresses(&merged), [address(257)].into());
        for direction in Direction::ALL {
            let first = merged.rules.iter().find(|rule| rule.direction == direction);
            assert_eq!(*first.unwrap(), rule(direction));
        }
        assert_eq!(with_those_of(&merged, &newer), None);
        let third = quarantined(allowing(&[258]), 256);
        let merged = with_those_of(&merged, &third).unwrap();
        assert_eq!(addresses(&merged), [address(256), address(257)].into());
        assert_eq!(merged.rules.len(), before.rules.len() + 2);
    }
}
