//! Of a denial, the rule that would have allowed the flow with the least difference.

use std::{
    cmp::Reverse,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{
    Asked, Considered, Nearest, Role,
    candidate::{Candidate, candidates},
};
use crate::{
    evaluate::Flow,
    explain::reason::Mismatch,
    host_policy::SubnetMatch,
    inventory::Host,
    service::PortKey,
    set::{Peer, Peers, Ports},
    words::{Action, Direction, Mode, Tier},
};

/// So many rules, the nearest at first sight, are tried on the flow that they would allow.
const TRIED: usize = 64;

/// How far a rule is from allowing the flow; less is nearer.
///
/// Whether it is for another host; how many things would have to be different; then which, a port
/// being nearer than a peer; how far the port is; the order of precedence.
type Distance = (bool, usize, u8, u32, usize);

/// Rules before the one that denies are near if little keeps them from matching: on that flow the
/// rule is tried, as another may deny it first. Rules behind are near only if they match already.
pub(super) fn nearest(
    asked: &Asked<'_>,
    rules: &[Candidate<'_>],
    considered: &[Considered],
) -> Option<Nearest> {
    let decides = |rule: &Considered| rule.enforced == Role::Decides;
    let denies = considered.iter().position(decides)?;
    let mut near: Vec<(Distance, usize)> = (considered.iter().enumerate())
        .filter(|(index, rule)| is_candidate(considered, *index, rule, denies))
        .map(|(index, rule)| (distance(asked, &rules[index], rule, index), index))
        .collect();
    near.sort_unstable();
    near.truncate(TRIED);
    let tried = near.into_iter().map(|(distance, index)| {
        let denied_by = match index > denies {
            true => Some(denies),
            false => denied_by(asked, &rules[index], &considered[index], index),
        };
        let (other_host, differences, weight, ports, order) = distance;
        let differences = differences + usize::from(denied_by.is_some());
        let distance: Distance = (other_host, differences, weight, ports, order);
        (
            distance,
            Nearest {
                rule: index,
                denied_by,
            },
        )
    });
    tried
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, it)| it)
}

/// Whether a rule could allow the flow at all.
fn is_candidate(considered: &[Considered], index: usize, rule: &Considered, denies: usize) -> bool {
    if rule.action != Action::Allow || rule.tier == Tier::Default {
        return false;
    }
    if index > denies {
        let passes = |other: &Considered| {
            other.tier == rule.tier && other.action == Action::Pass && other.acts()
        };
        return rule.acts() && !considered[..index].iter().any(passes);
    }
    // If it were enforced, nothing observed before it would stand in its way either.
    rule.enforced == Role::Misses
        || rule.enforced == Role::Observed && matches!(rule.staged, Role::Misses | Role::Decides)
}

impl Considered {
    /// Whether it is enforced and matches.
    fn acts(&self) -> bool {
        self.mode == Mode::Enforce && self.mismatches.is_empty()
    }
}

fn distance(
    asked: &Asked<'_>,
    rule: &Candidate<'_>,
    considered: &Considered,
    index: usize,
) -> Distance {
    let weight = |mismatch: &Mismatch| match mismatch {
        Mismatch::Port(_) => 1,
        Mismatch::Peer(_) => 2,
        Mismatch::Host(_) => 4,
    };
    let observed = considered.mode == Mode::Observe;
    let mismatches = &considered.mismatches;
    let port = mismatches.iter().any(|it| matches!(it, Mismatch::Port(_)));
    let steps = match port {
        true => near_port(asked, rule.ports).map_or(u32::MAX, |(steps, _)| steps),
        false => 0,
    };
    (
        !considered.selects(),
        mismatches.len() + usize::from(observed),
        mismatches.iter().map(weight).sum(),
        steps,
        index,
    )
}

/// The first rule that denies the flow which this one would match; none where it would pass, or no
/// such flow is known.
fn denied_by(
    asked: &Asked<'_>,
    rule: &Candidate<'_>,
    considered: &Considered,
    index: usize,
) -> Option<usize> {
    if considered.mismatches.is_empty() || !considered.selects() {
        return None;
    }
    let mut flow = *asked.flow;
    let (mut peer, mut other) = (asked.peer, asked.other);
    for mismatch in &considered.mismatches {
        match mismatch {
            Mismatch::Host(_) => {}
            Mismatch::Port(_) => flow.port = near_port(asked, rule.ports)?.1,
            Mismatch::Peer(_) => {
                (peer, other) = some_peer(asked, &rule.peers)?;
                flow = match asked.direction {
                    Direction::Egress => Flow {
                        destination: peer,
                        ..flow
                    },
                    Direction::Ingress => Flow {
                        source: peer,
                        ..flow
                    },
                };
            }
        }
    }
    let changed = Asked {
        peer,
        other,
        flow: &flow,
        ..*asked
    };
    let before = candidates(&changed, false).0;
    let mut passed = None;
    let before = before.iter().enumerate().take(index);
    for (index, rule) in before.filter(|(_, rule)| rule.acts()) {
        match rule.action {
            _ if passed == Some(rule.tier) => {}
            Action::Pass => passed = Some(rule.tier),
            Action::Deny => return Some(index),
            // Then that one is near too.
            Action::Allow => return None,
        }
    }
    None
}

/// The port of a rule that is nearest to the one asked for, and how many numbers lie between; ports of
/// another protocol are further than any.
fn near_port(asked: &Asked<'_>, ports: &Ports) -> Option<(u32, PortKey)> {
    let PortKey { slot, key } = asked.flow.port;
    let Ports::Of { spans, named } = ports else {
        return None;
    };
    let by_number = spans.iter().map(|span| (span.slot, span.first, span.last));
    let by_name = named.iter().flat_map(|port| {
        asked
            .numbers(port)
            .map(|number| (port.slot, number, number))
    });
    by_number
        .chain(by_name)
        .map(|(other, first, last)| {
            let near = key.clamp(first, last);
            let steps = match other == slot {
                true => u32::from(near.abs_diff(key)),
                false => u32::from(u16::MAX) + 1,
            };
            (
                steps,
                PortKey {
                    slot: other,
                    key: near,
                },
            )
        })
        .min_by_key(|(steps, port)| (*steps, Reverse(port.slot == slot), port.key))
}

/// Somebody whom a rule names, of the family of the flow.
fn some_peer<'a>(asked: &Asked<'a>, peers: &Peers) -> Option<(IpAddr, Option<&'a Host>)> {
    let Peers::Of(peers) = peers else {
        return None;
    };
    peers
        .iter()
        .find_map(|peer| match peer {
            Peer::Subnet(subnet) => {
                let address = some_address(subnet)?;
                Some((address, asked.inventory.holder(address)))
            }
            Peer::Segment(id) => {
                let hosts = asked.inventory.hosts.iter();
                let others = hosts.filter(|host| host.name != asked.host.name && !host.quarantined);
                let member = others
                    .filter(|host| asked.outside(*id, Some(host), &host.addresses).is_none())
                    .find_map(|host| {
                        let addresses = host.addresses.iter().copied();
                        let of_family = addresses
                            .clone()
                            .find(|it| it.is_ipv4() == asked.peer.is_ipv4());
                        Some((of_family?, Some(host)))
                    });
                let subnets = &asked.set.segment(*id).subnets;
                let subnet = subnets
                    .iter()
                    .find(|it| it.addr().is_ipv4() == asked.peer.is_ipv4());
                member.or_else(|| Some((subnet?.addr(), asked.inventory.holder(subnet?.addr()))))
            }
        })
        .filter(|(address, _)| address.is_ipv4() == asked.peer.is_ipv4())
}

/// An address of a subnet that is in none of its holes.
fn some_address(SubnetMatch { subnet, except }: &SubnetMatch) -> Option<IpAddr> {
    let mut address = subnet.network();
    // Each hole is left at its end, so no hole is met twice.
    for _ in 0..=except.len() {
        if !subnet.contains(&address) {
            return None;
        }
        match except.iter().find(|hole| hole.contains(&address)) {
            None => return Some(address),
            Some(hole) => address = after(hole)?,
        }
    }
    None
}

/// The address behind a subnet.
fn after(subnet: &IpNet) -> Option<IpAddr> {
    Some(match subnet.broadcast() {
        IpAddr::V4(last) => Ipv4Addr::from_bits(last.to_bits().checked_add(1)?).into(),
        IpAddr::V6(last) => Ipv6Addr::from_bits(last.to_bits().checked_add(1)?).into(),
    })
}
