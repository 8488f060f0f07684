//! From a policy set to what one host enforces.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    host_policy::{HostPolicy, Origin, PeerMatch, Rule, SubnetMatch},
    inventory::{Host, Labels, named_port},
    population::{IdentityTable, Population},
    service::{PortSpan, merge},
    set::{OrderedPolicy, Peer, Peers, PolicySet, Ports, SegmentId},
    words::{Action, Direction, Effect, Identity, Mode, Revision, Tier, Timestamp},
};

pub use crate::classify::check_fit;

/// What of a host decides its policy: hosts with equal subjects share one [`HostPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// Whose policy it is.
    pub identity: Identity,
    /// The segments that the host is in, of those that some policy applies to; sorted.
    pub segments: Vec<SegmentId>,
}

impl Subject {
    fn is_in_any(&self, segments: &[SegmentId]) -> bool {
        segments
            .iter()
            .any(|id| self.segments.binary_search(id).is_ok())
    }
}

impl PolicySet {
    /// What this set makes of a host. A host is in a segment by its labels, or by any address of
    /// its own in the segment's subnets; one in quarantine is in none.
    #[must_use]
    pub fn subject(&self, host: &Host, identities: &mut IdentityTable) -> Subject {
        if host.quarantined {
            return Subject {
                identity: Identity::QUARANTINED,
                segments: Vec::new(),
            };
        }
        let labels = self.identity_labels(&host.labels);
        let segments = self
            .subjects()
            .into_iter()
            .filter(|id| {
                let segment = self.segment(*id);
                segment.selector.matches(&labels)
                    || host
                        .addresses
                        .iter()
                        .any(|address| segment.subnets.iter().any(|net| net.contains(address)))
            })
            .collect();
        Subject {
            identity: identities.assign(&labels),
            segments,
        }
    }

    /// The segments that something applies to.
    fn subjects(&self) -> BTreeSet<SegmentId> {
        let ordered = self.guardrails.iter().chain(&self.baselines);
        let policies = self.policies.iter().map(|policy| &policy.applies_to);
        let exceptions = self.exceptions.iter().flat_map(|it| [&it.from, &it.to]);
        ordered
            .map(|policy| &policy.applies_to)
            .chain(policies)
            .chain(exceptions)
            .flatten()
            .copied()
            .collect()
    }
}

/// Compiles what a subject enforces. Equal input gives equal output.
///
/// The rules of a direction stand in order of precedence: quarantine; guardrails; exceptions; what
/// the policies that select the subject allow, by the policies' names, and the deny that being
/// selected brings; baselines; the default. A written rule becomes several where it names ports that
/// its destinations number differently, and none where no destination names them.
#[must_use]
pub fn compile(
    set: &PolicySet,
    revision: Revision,
    population: &Population,
    subject: &Subject,
) -> HostPolicy {
    let mut compiler = Compiler {
        set,
        population,
        subject,
        segments: BTreeMap::new(),
        rules: Vec::new(),
    };
    for direction in Direction::ALL {
        compiler.quarantine(direction);
        compiler.ordered(&set.guardrails, Tier::Guardrail, direction);
        compiler.exceptions(direction);
        compiler.policies(direction);
        compiler.ordered(&set.baselines, Tier::Baseline, direction);
        compiler.unwritten(
            direction,
            Tier::Default,
            Effect::Allow,
            PeerMatch::Any,
            "default",
        );
    }
    let rules = compiler.rules;
    let named: BTreeSet<Identity> = rules.iter().flat_map(named_identities).copied().collect();
    let addresses = population
        .addresses
        .iter()
        .filter(|(_, identity)| named.contains(identity))
        .map(|(address, identity)| (*address, *identity))
        .collect();
    HostPolicy {
        revision,
        identity: subject.identity,
        rules,
        addresses,
    }
}

struct Compiler<'a> {
    set: &'a PolicySet,
    population: &'a Population,
    subject: &'a Subject,
    /// The identities of the segments that were asked for.
    segments: BTreeMap<SegmentId, Vec<Identity>>,
    rules: Vec<Rule>,
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

impl Compiler<'_> {
    /// A host in quarantine denies everybody; the others deny it, once there is one.
    fn quarantine(&mut self, direction: Direction) {
        let mut addresses = self.population.addresses.values();
        let peers = if self.subject.identity == Identity::QUARANTINED {
            PeerMatch::Any
        } else if addresses.any(|id| *id == Identity::QUARANTINED) {
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
    fn ordered(&mut self, policies: &[OrderedPolicy], tier: Tier, direction: Direction) {
        let subject = self.subject;
        for policy in policies
            .iter()
            .filter(|policy| subject.is_in_any(&policy.applies_to))
        {
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
        let set = self.set;
        for exception in &set.exceptions {
            let (own, others) = match direction {
                Direction::Ingress => (&exception.to, &exception.from),
                Direction::Egress => (&exception.from, &exception.to),
            };
            if !self.subject.is_in_any(own) {
                continue;
            }
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
        let set = self.set;
        // The deny comes from a policy that is enforced, if any selects.
        let mut deny: Option<(Mode, &Arc<Origin>)> = None;
        for policy in &set.policies {
            let Some(side) = policy.side(direction) else {
                continue;
            };
            if !self.subject.is_in_any(&policy.applies_to) {
                continue;
            }
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
        let (set, population) = (self.set, self.population);
        let mut identities = Vec::new();
        let mut subnets = Vec::new();
        for peer in peers {
            match peer {
                Peer::Subnet(subnet) => subnets.push(subnet.clone()),
                Peer::Segment(id) => {
                    let segment = set.segment(*id);
                    subnets.extend(segment.subnets.iter().copied().map(Into::into));
                    let labelled = self.segments.entry(*id).or_insert_with(|| {
                        let all = population.labels.iter();
                        all.filter(|(_, labels)| segment.selector.matches(labels))
                            .map(|(identity, _)| *identity)
                            .collect()
                    });
                    identities.extend_from_slice(labelled);
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
        for (peers, spans) in elsewhere.into_iter().filter(|(peers, _)| *peers != nobody) {
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
        let addresses = &self.population.addresses;
        let held = addresses.iter().filter(|(address, identity)| {
            wanted.binary_search(identity).is_ok()
                && subnets.iter().any(|subnet| subnet.contains(**address))
        });
        let subnets = held.map(|(address, _)| IpNet::from(*address).into());
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
        let Written {
            tier,
            action,
            mode,
            ports: _,
            log,
            expires,
            origin,
        } = *written;
        self.rules.push(Rule {
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

fn named_identities(rule: &Rule) -> &[Identity] {
    match &rule.peers {
        PeerMatch::Any => &[],
        PeerMatch::Of { identities, .. } => identities,
    }
}
