//! The rules of one direction in order of precedence, each with why it does not match.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use super::{
    Asked, Considered, Role,
    reason::{Mismatch, NamedNumbers, Outside, PortMismatch, Unmet},
};
use crate::{
    host_policy::{Origin, SubnetMatch},
    inventory::{Host, named_port},
    set::{NamedPort, OrderedPolicy, Peer, Peers, Policy, Ports, SegmentId},
    words::{Action, Direction, Mode, Tier},
};

/// What a rule matches.
pub(super) struct Candidate<'a> {
    pub peers: Cow<'a, Peers>,
    pub ports: &'a Ports,
}

/// All rules that the judging host could be asked about, and what each matches; the last one matches
/// everything.
pub(super) fn candidates<'a>(
    asked: &Asked<'a>,
    quarantined: bool,
) -> (Vec<Considered>, Vec<Candidate<'a>>) {
    let mut list = List {
        asked,
        rules: Vec::new(),
        candidates: Vec::new(),
    };
    if quarantined {
        list.unwritten(Tier::Quarantine, Action::Deny, "quarantine");
    }
    list.ordered(&asked.set.guardrails, Tier::Guardrail);
    list.exceptions();
    list.policies();
    list.ordered(&asked.set.baselines, Tier::Baseline);
    list.unwritten(Tier::Default, Action::Allow, "default");
    (list.rules, list.candidates)
}

struct List<'l, 'a> {
    asked: &'l Asked<'a>,
    rules: Vec<Considered>,
    candidates: Vec<Candidate<'a>>,
}

impl<'a> List<'_, 'a> {
    fn ordered(&mut self, policies: &'a [OrderedPolicy], tier: Tier) {
        for policy in policies {
            let host = self.asked.outside_all(&policy.applies_to);
            for rule in policy.rules(self.asked.direction) {
                let peers = Cow::Borrowed(&rule.peers);
                self.written(
                    (tier, rule.action, policy.mode),
                    &rule.origin,
                    &host,
                    (peers, &rule.ports),
                );
            }
        }
    }

    fn exceptions(&mut self) {
        let asked = self.asked;
        for exception in &asked.set.exceptions {
            let (own, others) = match asked.direction {
                Direction::Ingress => (&exception.to, &exception.from),
                Direction::Egress => (&exception.from, &exception.to),
            };
            let host = asked.outside_all(own);
            let others = Peers::Of(others.iter().copied().map(Peer::Segment).collect());
            self.written(
                (Tier::Exception, Action::Allow, Mode::Enforce),
                &exception.origin,
                &host,
                (Cow::Owned(others), &exception.ports),
            );
        }
    }

    /// What the policies allow, and the deny that being selected by one brings. That deny bears
    /// the name of the first policy that is enforced, and of one that is observed if there is no other.
    fn policies(&mut self) {
        let asked = self.asked;
        let mut deny: Option<(&Policy, &Arc<Origin>)> = None;
        for policy in &asked.set.policies {
            let Some(side) = policy.side(asked.direction) else {
                continue;
            };
            let host = asked.outside_all(&policy.applies_to);
            if host.is_none() && deny.is_none_or(|(before, _)| policy.mode < before.mode) {
                deny = Some((policy, &side.origin));
            }
            for allow in &side.rules {
                self.written(
                    (Tier::Policy, Action::Allow, policy.mode),
                    &allow.origin,
                    &host,
                    (Cow::Borrowed(&allow.peers), &allow.ports),
                );
            }
        }
        if let Some((policy, origin)) = deny {
            let what = (Tier::Policy, Action::Deny, policy.mode);
            self.push(what, origin, Vec::new(), ANYTHING);
        }
    }

    fn unwritten(&mut self, tier: Tier, action: Action, rule: &str) {
        let origin = Arc::new(Origin::unwritten(rule));
        let what = (tier, action, Mode::Enforce);
        self.push(what, &origin, Vec::new(), ANYTHING);
    }

    fn written(
        &mut self,
        what: (Tier, Action, Mode),
        origin: &Arc<Origin>,
        host: &Option<Mismatch>,
        (peers, ports): (Cow<'a, Peers>, &'a Ports),
    ) {
        let mismatches = self.asked.mismatches(host, &peers, ports);
        self.push(what, origin, mismatches, Candidate { peers, ports });
    }

    fn push(
        &mut self,
        (tier, action, mode): (Tier, Action, Mode),
        origin: &Arc<Origin>,
        mismatches: Vec<Mismatch>,
        candidate: Candidate<'a>,
    ) {
        self.candidates.push(candidate);
        self.rules.push(Considered {
            tier,
            action,
            mode,
            origin: Arc::clone(origin),
            mismatches,
            enforced: Role::NotReached,
            staged: Role::NotReached,
        });
    }
}

/// What a rule that nobody wrote matches.
const ANYTHING: Candidate<'static> = Candidate {
    peers: Cow::Borrowed(&Peers::Any),
    ports: &Ports::Any,
};

impl Asked<'_> {
    /// Why the judging host is in none of these segments; none: it is in one.
    fn outside_all(&self, segments: &[SegmentId]) -> Option<Mismatch> {
        let reasons = segments
            .iter()
            .map(|id| self.outside(*id, Some(self.host), &self.host.addresses))
            .collect::<Option<Vec<_>>>()?;
        Some(Mismatch::Host(reasons))
    }

    fn mismatches(&self, host: &Option<Mismatch>, peers: &Peers, ports: &Ports) -> Vec<Mismatch> {
        let host = host.clone();
        host.into_iter()
            .chain(self.peer_mismatch(peers))
            .chain(self.port_mismatch(ports))
            .collect()
    }

    fn peer_mismatch(&self, peers: &Peers) -> Option<Mismatch> {
        let Peers::Of(peers) = peers else {
            return None;
        };
        let reasons = peers
            .iter()
            .map(|peer| match peer {
                Peer::Segment(id) => self.outside(*id, self.other, &[self.peer]),
                Peer::Subnet(subnet) => outside_subnet(subnet, self.peer),
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Mismatch::Peer(reasons))
    }

    /// Why a host, or an address that no host holds, is not in a segment; none: it is.
    pub(super) fn outside(
        &self,
        id: SegmentId,
        host: Option<&Host>,
        addresses: &[IpAddr],
    ) -> Option<Outside> {
        let segment = self.set.segment(id);
        let by_address = addresses
            .iter()
            .any(|address| segment.subnets.iter().any(|net| net.contains(address)));
        if by_address {
            return None;
        }
        let labels = host.map(|host| self.set.identity_labels(&host.labels));
        let unmet = host.zip(labels.as_ref()).map(|(host, labels)| {
            let requirements = segment.selector.requirements.iter();
            requirements
                .filter(|requirement| !requirement.holds(labels))
                .map(|requirement| Unmet {
                    requirement: requirement.clone(),
                    value: labels.get(&requirement.key).cloned(),
                    is_ignored: host.labels.contains_key(&requirement.key)
                        && !labels.contains_key(&requirement.key),
                })
                .collect::<Vec<_>>()
        });
        if labels.is_some_and(|labels| segment.selector.matches(&labels)) {
            return None;
        }
        let who = match (host, addresses) {
            (Some(host), _) => host.name.to_string(),
            (None, addresses) => addresses
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
        };
        let by_labels = !segment.selector.requirements.is_empty();
        Some(Outside::Segment {
            who,
            segment: segment.name.clone(),
            unmet: unmet.filter(|_| by_labels),
            by_labels,
            subnets: segment.subnets.clone(),
        })
    }

    /// The numbers that the destination gives to a named port.
    pub(super) fn numbers(&self, port: &NamedPort) -> impl Iterator<Item = u16> {
        let destination = match self.direction {
            Direction::Ingress => Some(self.host),
            Direction::Egress => self.other,
        };
        destination
            .into_iter()
            .flat_map(|host| named_port(&host.labels, port))
    }

    fn port_mismatch(&self, ports: &Ports) -> Option<Mismatch> {
        let Ports::Of { spans, named } = ports else {
            return None;
        };
        let asked = self.flow.port;
        let named: Vec<NamedNumbers> = named
            .iter()
            .map(|port| NamedNumbers {
                port: port.clone(),
                numbers: self.numbers(port).collect(),
            })
            .collect();
        let is_named = |named: &NamedNumbers| {
            named.port.slot == asked.slot && named.numbers.contains(&asked.key)
        };
        if spans.iter().any(|span| span.contains(asked)) || named.iter().any(is_named) {
            return None;
        }
        Some(Mismatch::Port(PortMismatch {
            asked,
            spans: spans.clone(),
            named,
        }))
    }
}

fn outside_subnet(subnet: &SubnetMatch, address: IpAddr) -> Option<Outside> {
    if !subnet.subnet.contains(&address) {
        return Some(Outside::Subnet {
            address,
            subnet: subnet.subnet,
        });
    }
    let hole = subnet.except.iter().find(|hole| hole.contains(&address))?;
    Some(Outside::Excepted {
        address,
        subnet: subnet.subnet,
        hole: *hole,
    })
}
