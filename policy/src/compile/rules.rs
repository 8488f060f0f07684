//! The rules of one subject, in order of precedence.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    compile::{
        Subject,
        index::{Concerning, Members},
    },
    host_policy::{Origin, PeerMatch, Rule, SubnetMatch},
    inventory::{Labels, named_port},
    population::Population,
    service::{PortSpan, merge},
    set::{OrderedPolicy, Peer, Peers, PolicySet, Ports, SegmentId},
    words::{Action, Direction, Effect, Identity, Mode, Tier, Timestamp},
};

/// The rules of a subject, and what they were made from.
#[derive(Default)]
pub(crate) struct Rules {
    pub rules: Vec<Rule>,
    /// The identities that some rule names, sorted.
    pub named: Vec<Identity>,
    /// The segments that were asked for their identities.
    pub segments: BTreeSet<SegmentId>,
    /// Whether some port has a number of each destination's own.
    pub has_named_ports: bool,
}

/// A rule as its author wrote it.
struct Written<'a> {
    tier: Tier,
    action: Action,
    mode: Mode,
    ports: &'a Ports,
    log: bool,
    expires: Option<Timestamp>,
    origin: &'a Arc<Origin>,
}

/// Makes the rules of one subject.
pub(crate) struct Maker<'a> {
    pub set: &'a PolicySet,
    pub population: &'a Population,
    pub members: &'a Members,
    pub subject: &'a Subject,
    pub concerning: Concerning<'a>,
    pub made: Rules,
}

impl Maker<'_> {
    pub fn make(mut self) -> Rules {
        for direction in Direction::ALL {
            self.quarantine(direction);
            let guardrails = std::mem::take(&mut self.concerning.guardrails);
            self.ordered(&guardrails, Tier::Guardrail, direction);
            self.concerning.guardrails = guardrails;
            self.exceptions(direction);
            self.policies(direction);
            let baselines = std::mem::take(&mut self.concerning.baselines);
            self.ordered(&baselines, Tier::Baseline, direction);
            self.concerning.baselines = baselines;
            self.unwritten(
                direction,
                Tier::Default,
                Effect::Allow,
                PeerMatch::Any,
                "default",
            );
        }
        let mut made = self.made;
        made.named.sort_unstable();
        made.named.dedup();
        made
    }

    /// A host in quarantine denies everybody; the others deny it, once there is one.
    fn quarantine(&mut self, direction: Direction) {
        let peers = if self.subject.identity == Identity::QUARANTINED {
            PeerMatch::Any
        } else if self.members.any_quarantined() {
            PeerMatch::Of {
                identities: vec![Identity::QUARANTINED],
                subnets: Vec::new(),
            }
        } else {
            return;
        };
        self.unwritten(
            direction,
            Tier::Quarantine,
            Effect::Deny,
            peers,
            "quarantine",
        );
    }

    /// What guardrails or baselines that speak of the subject say, in their order.
    fn ordered(&mut self, policies: &[&OrderedPolicy], tier: Tier, direction: Direction) {
        for policy in policies {
            for rule in policy.rules(direction) {
                let peers = self.match_of(&rule.peers);
                let written = Written {
                    tier,
                    action: rule.action,
                    mode: policy.mode,
                    ports: &rule.ports,
                    log: rule.log,
                    expires: None,
                    origin: &rule.origin,
                };
                self.written(direction, peers, &written);
            }
        }
    }

    fn exceptions(&mut self, direction: Direction) {
        for exception in self.concerning.exceptions(direction).to_vec() {
            let others = match direction {
                Direction::Ingress => &exception.from,
                Direction::Egress => &exception.to,
            };
            let others: Vec<Peer> = others.iter().copied().map(Peer::Segment).collect();
            let peers = self.peers(&others);
            let written = Written {
                tier: Tier::Exception,
                action: Action::Allow,
                mode: Mode::Enforce,
                ports: &exception.ports,
                log: false,
                expires: Some(exception.expires),
                origin: &exception.origin,
            };
            self.written(direction, peers, &written);
        }
    }

    /// What the policies that select the subject say about one direction.
    fn policies(&mut self, direction: Direction) {
        // The deny comes from a policy that is enforced, if any selects.
        let mut deny: Option<(Mode, &Arc<Origin>)> = None;
        for policy in self.concerning.policies.clone() {
            let Some(side) = policy.side(direction) else {
                continue;
            };
            if deny.is_none_or(|(mode, _)| policy.mode < mode) {
                deny = Some((policy.mode, &side.origin));
            }
            for allow in &side.rules {
                let peers = self.match_of(&allow.peers);
                let written = Written {
                    tier: Tier::Policy,
                    action: Action::Allow,
                    mode: policy.mode,
                    ports: &allow.ports,
                    log: allow.log,
                    expires: None,
                    origin: &allow.origin,
                };
                self.written(direction, peers, &written);
            }
        }
        if let Some((mode, origin)) = deny {
            let written = Written {
                tier: Tier::Policy,
                action: Action::Deny,
                mode,
                ports: &Ports::Any,
                log: false,
                expires: None,
                origin,
            };
            self.written(direction, PeerMatch::Any, &written);
        }
    }

    fn match_of(&mut self, peers: &Peers) -> PeerMatch {
        match peers {
            Peers::Any => PeerMatch::Any,
            Peers::Of(peers) => self.peers(peers),
        }
    }

    fn peers(&mut self, peers: &[Peer]) -> PeerMatch {
        let (set, members) = (self.set, self.members);
        let mut identities = Vec::new();
        let mut subnets = Vec::new();
        for peer in peers {
            match peer {
                Peer::Subnet(subnet) => subnets.push(subnet.clone()),
                Peer::Segment(id) => {
                    let segment = set.segment(*id);
                    subnets.extend(segment.subnets.iter().copied().map(Into::into));
                    self.made.segments.insert(*id);
                    identities.extend_from_slice(members.of(*id));
                }
            }
        }
        sorted(identities, subnets)
    }

    /// The rules that a written one stands for.
    fn written(&mut self, direction: Direction, peers: PeerMatch, written: &Written<'_>) {
        let Ports::Of { spans, named } = written.ports else {
            self.push(direction, peers, Vec::new(), written);
            return;
        };
        let population = self.population;
        let numbers = |labels: &Labels| {
            let numbered = named.iter().flat_map(|port| {
                named_port(labels, port).map(|number| PortSpan {
                    slot: port.slot,
                    first: number,
                    last: number,
                })
            });
            merge(numbered.collect())
        };
        let mut spans = spans.clone();
        let mut elsewhere = Vec::new();
        if !named.is_empty() {
            self.made.has_named_ports = true;
            match direction {
                // The destination is the subject.
                Direction::Ingress => {
                    let own = population.labels.get(&self.subject.identity);
                    spans.extend(own.map(numbers).unwrap_or_default());
                    spans = merge(spans);
                }
                // Each destination has numbers of its own.
                Direction::Egress => {
                    let mut alike: BTreeMap<Vec<PortSpan>, Vec<Identity>> = BTreeMap::new();
                    for (identity, labels) in &population.labels {
                        alike.entry(numbers(labels)).or_default().push(*identity);
                    }
                    alike.remove(&Vec::new());
                    elsewhere.extend(
                        alike
                            .into_iter()
                            .map(|(spans, identities)| (self.among(&peers, &identities), spans)),
                    );
                }
            }
        }
        if !spans.is_empty() {
            self.push(direction, peers, spans, written);
        }
        let nobody = sorted(Vec::new(), Vec::new());
        let somewhere = elsewhere.into_iter().filter(|(peers, _)| *peers != nobody);
        for (peers, spans) in somewhere {
            self.push(direction, peers, spans, written);
        }
    }

    /// Of some peers, those with one of these identities; a subnet's by their addresses.
    fn among(&self, peers: &PeerMatch, wanted: &[Identity]) -> PeerMatch {
        let PeerMatch::Of {
            identities,
            subnets,
        } = peers
        else {
            return sorted(wanted.to_vec(), Vec::new());
        };
        let members = self.members;
        let held = wanted
            .iter()
            .flat_map(|identity| members.held(*identity))
            .filter(|address| subnets.iter().any(|subnet| subnet.contains(*address)));
        let subnets = held.map(|address| IpNet::from(address).into());
        let identities = identities.iter().copied();
        sorted(
            identities
                .filter(|identity| wanted.binary_search(identity).is_ok())
                .collect(),
            subnets.collect(),
        )
    }

    fn push(
        &mut self,
        direction: Direction,
        peers: PeerMatch,
        ports: Vec<PortSpan>,
        written: &Written<'_>,
    ) {
        if let PeerMatch::Of { identities, .. } = &peers {
            self.made.named.extend_from_slice(identities);
        }
        let Written {
            tier,
            action,
            mode,
            ports: _,
            log,
            expires,
            origin,
        } = *written;
        self.made.rules.push(Rule {
            direction,
            tier,
            action,
            mode,
            peers,
            ports,
            log,
            expires,
            origin: Arc::clone(origin),
        });
    }

    /// A rule that no file wrote.
    fn unwritten(
        &mut self,
        direction: Direction,
        tier: Tier,
        effect: Effect,
        peers: PeerMatch,
        name: &str,
    ) {
        let written = Written {
            tier,
            action: effect.into(),
            mode: Mode::Enforce,
            ports: &Ports::Any,
            log: false,
            expires: None,
            origin: &Arc::new(Origin::unwritten(name)),
        };
        self.push(direction, peers, Vec::new(), &written);
    }
}

fn sorted(mut identities: Vec<Identity>, mut subnets: Vec<SubnetMatch>) -> PeerMatch {
    identities.sort_unstable();
    identities.dedup();
    subnets.sort_unstable();
    subnets.dedup();
    PeerMatch::Of {
        identities,
        subnets,
    }
}
