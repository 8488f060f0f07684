//! From a policy set to what one host enforces.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    host_policy::{HostPolicy, Origin, PeerMatch, Rule},
    inventory::Host,
    population::{IdentityTable, Population},
    set::{Allow, Peer, Peers, Policy, PolicySet, SegmentId},
    words::{Direction, Effect, Identity, Mode, Revision, Tier},
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
        let named: BTreeSet<SegmentId> = self
            .policies
            .iter()
            .flat_map(|policy| policy.applies_to.iter().copied())
            .collect();
        let segments = named
            .into_iter()
            .filter(|id| {
                let segment = self.segment(*id);
                segment.matches_labels(&host.labels)
                    || host
                        .addresses
                        .iter()
                        .any(|address| segment.subnets.iter().any(|net| net.contains(address)))
            })
            .collect();
        Subject {
            identity: identities.assign(&host.labels),
            segments,
        }
    }
}

/// Compiles what a subject enforces. Equal input gives equal output.
///
/// The rules stand in order of precedence: quarantine; what the policies that select the subject
/// allow, by the policies' names; the deny that being selected brings; the default.
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
        segments: BTreeMap::new(),
        rules: Vec::new(),
    };
    compiler.quarantine(subject);
    for direction in Direction::ALL {
        compiler.policies(subject, direction);
    }
    for direction in Direction::ALL {
        let rule = unwritten(
            direction,
            Tier::Default,
            Effect::Allow,
            PeerMatch::Any,
            "default",
        );
        compiler.rules.push(rule);
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
    /// The identities of the segments that were asked for.
    segments: BTreeMap<SegmentId, Vec<Identity>>,
    rules: Vec<Rule>,
}

impl Compiler<'_> {
    /// A host in quarantine denies everybody; the others deny it, once there is one.
    fn quarantine(&mut self, subject: &Subject) {
        let peers = if subject.identity == Identity::QUARANTINED {
            PeerMatch::Any
        } else if self
            .population
            .addresses
            .values()
            .any(|id| *id == Identity::QUARANTINED)
        {
            PeerMatch::Of {
                identities: vec![Identity::QUARANTINED],
                subnets: Vec::new(),
            }
        } else {
            return;
        };
        for direction in Direction::ALL {
            let rule = unwritten(
                direction,
                Tier::Quarantine,
                Effect::Deny,
                peers.clone(),
                "quarantine",
            );
            self.rules.push(rule);
        }
    }

    /// What the policies that select the subject say about one direction.
    fn policies(&mut self, subject: &Subject, direction: Direction) {
        let selects = |policy: &Policy| {
            policy
                .applies_to
                .iter()
                .any(|id| subject.segments.contains(id))
        };
        // The deny comes from a policy that is enforced, if any selects.
        let mut deny: Option<(Mode, &Arc<Origin>)> = None;
        for policy in self.set.policies.iter().filter(|policy| selects(policy)) {
            let Some(side) = policy.side(direction) else {
                continue;
            };
            if deny.is_none_or(|(mode, _)| policy.mode < mode) {
                deny = Some((policy.mode, &side.origin));
            }
            for allow in &side.rules {
                let rule = self.allow(allow, direction, policy.mode);
                self.rules.push(rule);
            }
        }
        if let Some((mode, origin)) = deny {
            self.rules.push(Rule {
                direction,
                tier: Tier::Policy,
                effect: Effect::Deny,
                mode,
                peers: PeerMatch::Any,
                ports: Vec::new(),
                log: false,
                origin: Arc::clone(origin),
            });
        }
    }

    fn allow(&mut self, allow: &Allow, direction: Direction, mode: Mode) -> Rule {
        let peers = match &allow.peers {
            Peers::Any => PeerMatch::Any,
            Peers::Of(peers) => self.peers(peers),
        };
        Rule {
            direction,
            tier: Tier::Policy,
            effect: Effect::Allow,
            mode,
            peers,
            ports: allow.ports.clone(),
            log: allow.log,
            origin: Arc::clone(&allow.origin),
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
                        all.filter(|(_, labels)| segment.matches_labels(labels))
                            .map(|(identity, _)| *identity)
                            .collect()
                    });
                    identities.extend_from_slice(labelled);
                }
            }
        }
        identities.sort_unstable();
        identities.dedup();
        subnets.sort_unstable();
        subnets.dedup();
        PeerMatch::Of {
            identities,
            subnets,
        }
    }
}

/// A rule that no file wrote.
fn unwritten(
    direction: Direction,
    tier: Tier,
    effect: Effect,
    peers: PeerMatch,
    name: &str,
) -> Rule {
    Rule {
        direction,
        tier,
        effect,
        mode: Mode::Enforce,
        peers,
        ports: Vec::new(),
        log: false,
        origin: Arc::new(Origin::unwritten(name)),
    }
}

fn named_identities(rule: &Rule) -> &[Identity] {
    match &rule.peers {
        PeerMatch::Any => &[],
        PeerMatch::Of { identities, .. } => identities,
    }
}
