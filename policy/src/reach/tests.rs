//! Reach against the reference evaluation, over all pairs of addresses and keys at which any of the
//! sets changes its mind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::{
    evaluate::{Flow, evaluate},
    service::PortKey,
    set::{Peer, Peers, Ports},
    testing::{Scenario, scenario},
    words::Effect,
};

/// Addresses on both sides of every prefix that is named, and all that are held.
pub(crate) fn telling_addresses(sets: &[&PolicySet], inventory: &Inventory) -> Vec<IpAddr> {
    let mut prefixes: BTreeSet<IpNet> = BTreeSet::new();
    for set in sets {
        prefixes.extend(set.segments.iter().flat_map(|segment| &segment.subnets));
        let ordered = set.guardrails.iter().chain(&set.baselines);
        let ordered = ordered.flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
        let allows = set
            .policies
            .iter()
            .flat_map(|policy| [&policy.ingress, &policy.egress]);
        let allows = allows.flatten().flat_map(|side| &side.rules);
        let peers = ordered
            .map(|rule| &rule.peers)
            .chain(allows.map(|allow| &allow.peers));
        for peer in peers {
            let Peers::Of(peers) = peer else { continue };
            for peer in peers {
                if let Peer::Subnet(matched) = peer {
                    prefixes.insert(matched.subnet);
                    prefixes.extend(&matched.except);
                }
            }
        }
    }
    let held = inventory.hosts.iter().flat_map(|host| &host.addresses);
    prefixes.extend(held.map(|address| IpNet::from(*address)));
    let mut addresses = BTreeSet::new();
    for prefix in prefixes {
        for end in [prefix.network(), prefix.broadcast()] {
            let around = match end {
                IpAddr::V4(end) => {
                    let bits = end.to_bits();
                    [bits.wrapping_sub(1), bits, bits.wrapping_add(1)]
                        .map(|at| IpAddr::V4(at.into()))
                }
                IpAddr::V6(end) => {
                    let bits = end.to_bits();
                    [bits.wrapping_sub(1), bits, bits.wrapping_add(1)]
                        .map(|at| IpAddr::V6(at.into()))
                }
            };
            addresses.extend(around);
        }
    }
    addresses.into_iter().collect()
}

/// A key of each run that no port of [`crate::testing`] tells apart, of the protocols of a family.
pub(crate) fn telling_keys(v4: bool) -> Vec<PortKey> {
    let all: [(ProtocolSlot, &[u16]); 6] = [
        (
            ProtocolSlot::Tcp,
            &[0, 1, 80, 81, 82, 90, 91, 443, 444, 1024, 1025, u16::MAX],
        ),
        (ProtocolSlot::Udp, &[0, 53, 54, 81]),
        (ProtocolSlot::Sctp, &[79, 80, 81]),
        (ProtocolSlot::Icmp, &[0, 1795, 2048, 2049, 2304]),
        (ProtocolSlot::Icmpv6, &[0, 32_768, 32_769, 33_024]),
        (ProtocolSlot::Other, &[0, 40, 47, 48, 51, 112, 113, 255]),
    ];
    let foreign = if v4 {
        ProtocolSlot::Icmpv6
    } else {
        ProtocolSlot::Icmp
    };
    all.into_iter()
        .filter(|(slot, _)| *slot != foreign)
        .flat_map(|(slot, keys)| keys.iter().map(move |key| PortKey { slot, key: *key }))
        .collect()
}

/// Every flow between some addresses that is not within one host.
pub(crate) fn all_flows(addresses: &[IpAddr], inventory: &Inventory) -> Vec<Flow> {
    let mut flows = Vec::new();
    for source in addresses {
        for destination in addresses {
            let hosts =
                [source, destination].map(|end| inventory.holder(*end).map(|host| &host.name));
            let is_one = source == destination || hosts[0].is_some() && hosts[0] == hosts[1];
            if source.is_ipv4() != destination.is_ipv4() || is_one {
                continue;
            }
            flows.extend(telling_keys(source.is_ipv4()).into_iter().map(|port| Flow {
                source: *source,
                destination: *destination,
                port,
            }));
        }
    }
    flows
}

pub(crate) fn passes(set: &PolicySet, inventory: &Inventory, flow: &Flow) -> bool {
    let verdict = evaluate(set, inventory, flow);
    [verdict.egress, verdict.ingress]
        .iter()
        .all(|side| side.enforced.effect == Effect::Allow)
}

/// The names of the groups that an address is in; none for those in quarantine.
fn groups_of(sets: &[&PolicySet], inventory: &Inventory, address: IpAddr) -> BTreeSet<String> {
    let host = inventory.holder(address);
    if host.is_some_and(|host| host.quarantined) {
        return BTreeSet::new();
    }
    let addresses = host.map_or(vec![address], |host| host.addresses.clone());
    let mut names = BTreeSet::new();
    for set in sets {
        for segment in &set.segments {
            let by_labels = host
                .is_some_and(|host| segment.selector.matches(&set.identity_labels(&host.labels)));
            let holds = |at: &IpAddr| segment.subnets.iter().any(|net| net.contains(at));
            if by_labels || addresses.iter().any(holds) {
                names.insert(segment.name.clone());
            }
        }
    }
    if names.is_empty() {
        names.insert(if host.is_some() { "(other)" } else { "world" }.to_owned());
    }
    names
}

/// By protocol and key: how many flows hold, of how many.
type Counts = BTreeMap<(u8, u16), (usize, usize)>;

/// For each flow that some host judges and pair of groups: what `holds` says of it is in the extents.
fn agrees(
    sets: &[&PolicySet],
    inventory: &Inventory,
    holds: impl Fn(&Flow) -> bool,
    extents: &[(String, String, Extent)],
) -> Result<(), TestCaseError> {
    let addresses = telling_addresses(sets, inventory);
    // For each pair of groups and key: flows that hold, and all.
    let mut counted: BTreeMap<(String, String), Counts> = BTreeMap::new();
    for flow in all_flows(&addresses, inventory) {
        let ends = [flow.source, flow.destination];
        if ends.iter().all(|end| inventory.holder(*end).is_none()) {
            continue;
        }
        let [from, to] = ends.map(|end| groups_of(sets, inventory, end));
        let holds = usize::from(holds(&flow));
        for src in &from {
            for dst in &to {
                let keys = counted.entry((src.clone(), dst.clone())).or_default();
                let counts = keys
                    .entry((flow.port.slot as u8, flow.port.key))
                    .or_default();
                counts.0 += holds;
                counts.1 += 1;
            }
        }
    }
    for ((src, dst), keys) in &counted {
        let found = extents
            .iter()
            .find(|(from, to, _)| from == src && to == dst);
        for ((slot, key), (holding, all)) in keys {
            let slot = ProtocolSlot::ALL[usize::from(*slot)];
            let port = PortKey { slot, key: *key };
            let is_in = |spans: &[PortSpan]| spans.iter().any(|span| span.contains(port));
            let found = found.map(|(_, _, extent)| (is_in(&extent.all), is_in(&extent.some)));
            let expected = (holding == all, *holding > 0 && holding < all);
            prop_assert_eq!(
                found.unwrap_or_default(),
                expected,
                "{} {} {}",
                src,
                dst,
                port
            );
        }
    }
    for (src, dst, extent) in extents {
        let is_known = counted.contains_key(&(src.clone(), dst.clone()));
        prop_assert!(is_known || extent.is_empty(), "{src} {dst} {extent:?}");
    }
    Ok(())
}

proptest! {
    // Each case asks the reference about some ten thousand flows.
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn reach_by_host_is_what_evaluation_allows_for_every_flow(scenario in scenario()) {
        let Scenario { set, inventory, .. } = &scenario;
        let found = reach(set, inventory).unwrap();
        let held: Vec<IpAddr> =
            inventory.hosts.iter().flat_map(|host| host.addresses.clone()).collect();
        for flow in all_flows(&held, inventory) {
            let verdict = evaluate(set, inventory, &flow);
            let of_pair: Vec<_> = found
                .iter()
                .filter(|reach| reach.addresses.contains(&(flow.source, flow.destination)))
                .collect();
            prop_assert_eq!(of_pair.len(), 1);
            let passing: Vec<_> =
                of_pair[0].allowed.iter().filter(|item| item.ports.contains(flow.port)).collect();
            let allowed = passes(set, inventory, &flow);
            prop_assert_eq!(passing.len(), usize::from(allowed), "{:?} {:?}", flow, of_pair);
            if let [passing] = passing[..] {
                prop_assert_eq!(&passing.egress, &verdict.egress.enforced.origin);
                prop_assert_eq!(&passing.ingress, &verdict.ingress.enforced.origin);
            }
        }
    }

    #[test]
    fn reach_by_segment_says_what_holds_for_all_and_for_some(scenario in scenario()) {
        let Scenario { set, inventory, .. } = &scenario;
        let question = Question::default();
        let mut survey = Survey::new(set, inventory, &question).unwrap();
        let extents: Vec<_> =
            survey.segments().map(|found| (found.src, found.dst, found.extent)).collect();
        agrees(&[set], inventory, |flow| passes(set, inventory, flow), &extents)?;
    }

    #[test]
    fn differences_are_what_one_set_allows_and_the_other_does_not(
        before in scenario(), after in scenario(),
    ) {
        let (inventory, before, after) = (&before.inventory, &before.set, &after.set);
        let question = Question::default();
        let mut difference = Difference::new(before, after, inventory, &question).unwrap();
        let changes: Vec<_> = difference.segments().collect();
        let of = |closes: bool| changes.iter().map(move |change| {
            let extent = if closes { &change.closes } else { &change.opens };
            (change.src.clone(), change.dst.clone(), extent.clone())
        }).collect::<Vec<_>>();
        let [old, new] = [before, after].map(|set| move |flow: &Flow| passes(set, inventory, flow));
        agrees(&[before, after], inventory, |flow| new(flow) && !old(flow), &of(false))?;
        agrees(&[before, after], inventory, |flow| old(flow) && !new(flow), &of(true))?;

        let by_host: Vec<Change> = difference.hosts().collect();
        let held: Vec<IpAddr> =
            inventory.hosts.iter().flat_map(|host| host.addresses.clone()).collect();
        for flow in all_flows(&held, inventory) {
            let pair = (flow.source, flow.destination);
            let has = |spans: &[PortSpan]| spans.iter().any(|span| span.contains(flow.port));
            let found: Vec<_> =
                by_host.iter().filter(|change| change.addresses.contains(&pair)).collect();
            let opens = found.iter().any(|change| has(&change.opens));
            let closes = found.iter().any(|change| has(&change.closes));
            let expected = (new(&flow) && !old(&flow), old(&flow) && !new(&flow));
            prop_assert_eq!((opens, closes), expected, "{:?}", flow);
        }
    }

    #[test]
    fn a_question_cuts_the_answer_and_changes_nothing_of_it(
        scenario in scenario(),
        subnet in proptest::sample::select(vec!["10.0.1.0/30", "10.0.0.0/8", "10.0.1.3", "fd00:1::/64"]),
        reversed in any::<bool>(),
    ) {
        let Scenario { set, inventory, .. } = &scenario;
        let port = PortKey { slot: ProtocolSlot::Tcp, key: 80 };
        let span = PortSpan { slot: port.slot, first: 80, last: 80 };
        let mut question =
            Question { service: Some(Ports::spans(vec![span])), ..Question::default() };
        let end = if reversed { &mut question.to } else { &mut question.from };
        *end = Some(End::from(subnet));
        let End::Subnet(subnet) = End::from(subnet) else { unreachable!() };
        let mut survey = Survey::new(set, inventory, &question).unwrap();
        let answers: Vec<Reach> = survey.hosts().collect();
        for address in telling_addresses(&[set], inventory) {
            for host in &inventory.hosts {
                for own in &host.addresses {
                    let (source, destination) =
                        if reversed { (*own, address) } else { (address, *own) };
                    let flow = Flow { source, destination, port };
                    let is_asked = subnet.contains(&address)
                        && address.is_ipv4() == own.is_ipv4()
                        && !host.addresses.contains(&address);
                    let found = answers.iter().find(|reach| reach.addresses.contains(&(source, destination)));
                    if inventory.holder(address).is_some() {
                        prop_assert_eq!(found.is_some(), is_asked, "{:?} {:?}", flow, answers);
                    }
                    if let Some(found) = found {
                        prop_assert_eq!(!found.allowed.is_empty(), passes(set, inventory, &flow));
                        prop_assert!(found.allowed.iter().all(|allowed| allowed.ports == span));
                    }
                }
            }
        }
    }
}
