//! The reference answer for one flow, straight from the policy set.
//!
//! This is the meaning of policy written down plainly. It shares no code with [`mod@crate::compile`]
//! and [`mod@crate::classify`], so that each can be tested against it.

pub mod evaluator;
pub mod query;

use std::{net::IpAddr, sync::Arc};

use crate::{
    host_policy::Origin,
    inventory::{Host, Inventory},
    selector::{Requirement, Test},
    service::PortKey,
    set::{NamedPort, OrderedPolicy, Peer, Peers, Policy, PolicySet, Ports, SegmentId},
    words::{Action, Direction, Effect, Mode, Tier},
};

/// The opening packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Who opens.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// What for.
    pub port: PortKey,
}

/// Both sides' answers. The flow passes if both enforced effects are allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// From the host that holds the source address.
    pub egress: SideVerdict,
    /// From the host that holds the destination address.
    pub ingress: SideVerdict,
}

/// One side's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideVerdict {
    /// From what is enforced.
    pub enforced: Evidence,
    /// From that and what is observed.
    pub staged: Evidence,
}

/// An effect and what decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Allow or deny.
    pub effect: Effect,
    /// The layer that decided.
    pub tier: Tier,
    /// The rule that decided.
    pub origin: Arc<Origin>,
}

/// Evaluates one flow. The side of an address that no host holds has no policy: it allows, by the
/// rule `unmanaged`. Exceptions count as if none had expired: see [`PolicySet::at`].
#[must_use]
pub fn evaluate(set: &PolicySet, inventory: &Inventory, flow: &Flow) -> Verdict {
    let Flow {
        source,
        destination,
        port,
    } = *flow;
    let world = World { set, inventory };
    Verdict {
        egress: world.side(Direction::Egress, source, destination, port),
        ingress: world.side(Direction::Ingress, destination, source, port),
    }
}

/// A flow as one of its hosts sees it.
struct Asked<'a> {
    host: &'a Host,
    direction: Direction,
    peer: IpAddr,
    port: PortKey,
    /// The host that accepts, if one holds the address.
    destination: Option<&'a Host>,
}

#[derive(Clone, Copy)]
struct World<'a> {
    set: &'a PolicySet,
    inventory: &'a Inventory,
}

impl Evidence {
    fn unwritten(effect: Effect, tier: Tier, rule: &str) -> Self {
        Self {
            effect,
            tier,
            origin: Arc::new(Origin::unwritten(rule)),
        }
    }
}

impl From<Evidence> for SideVerdict {
    /// The same, staged or not.
    fn from(evidence: Evidence) -> Self {
        Self {
            staged: evidence.clone(),
            enforced: evidence,
        }
    }
}

impl<'a> World<'a> {
    fn side(self, direction: Direction, own: IpAddr, peer: IpAddr, port: PortKey) -> SideVerdict {
        let Some(host) = self.holder(own) else {
            return Evidence::unwritten(Effect::Allow, Tier::Default, "unmanaged").into();
        };
        if host.quarantined || self.holder(peer).is_some_and(|peer| peer.quarantined) {
            return Evidence::unwritten(Effect::Deny, Tier::Quarantine, "quarantine").into();
        }
        let decide = |staged| self.decide(host, direction, peer, port, staged);
        SideVerdict {
            enforced: decide(false),
            staged: decide(true),
        }
    }

    /// Asks the tiers one after the other; the first that decides is the answer.
    fn decide(
        self,
        host: &Host,
        direction: Direction,
        peer: IpAddr,
        port: PortKey,
        staged: bool,
    ) -> Evidence {
        // The destination names its ports: of an ingress flow the host, of an egress flow the peer.
        let destination = match direction {
            Direction::Ingress => Some(host),
            Direction::Egress => self.holder(peer),
        };
        let flow = Asked {
            host,
            direction,
            peer,
            port,
            destination,
        };
        let ordered = |policies, tier| self.ordered(policies, tier, &flow, staged);
        ordered(&self.set.guardrails, Tier::Guardrail)
            .or_else(|| self.exceptions(&flow))
            .or_else(|| self.policies(&flow, staged))
            .or_else(|| ordered(&self.set.baselines, Tier::Baseline))
            .unwrap_or_else(|| Evidence::unwritten(Effect::Allow, Tier::Default, "default"))
    }

    /// The first rule that matches, unless it passes.
    fn ordered(
        self,
        policies: &[OrderedPolicy],
        tier: Tier,
        flow: &Asked<'_>,
        staged: bool,
    ) -> Option<Evidence> {
        let rule = policies
            .iter()
            .filter(|policy| staged || policy.mode == Mode::Enforce)
            .filter(|policy| self.is_in_any(flow.host, &policy.applies_to))
            .flat_map(|policy| policy.rules(flow.direction))
            .find(|rule| self.names(&rule.peers, &rule.ports, flow))?;
        let effect = match rule.action {
            Action::Allow => Effect::Allow,
            Action::Deny => Effect::Deny,
            Action::Pass => return None,
        };
        Some(Evidence {
            effect,
            tier,
            origin: Arc::clone(&rule.origin),
        })
    }

    fn exceptions(self, flow: &Asked<'_>) -> Option<Evidence> {
        let exception = self.set.exceptions.iter().find(|exception| {
            let (own, others) = match flow.direction {
                Direction::Ingress => (&exception.to, &exception.from),
                Direction::Egress => (&exception.from, &exception.to),
            };
            let named = |id: &SegmentId| self.is_peer(&Peer::Segment(*id), flow.peer);
            self.is_in_any(flow.host, own)
                && others.iter().any(named)
                && self.names_port(&exception.ports, flow)
        })?;
        Some(Evidence {
            effect: Effect::Allow,
            tier: Tier::Exception,
            origin: Arc::clone(&exception.origin),
        })
    }

    fn policies(self, flow: &Asked<'_>, staged: bool) -> Option<Evidence> {
        let selecting: Vec<&Policy> = self
            .set
            .policies
            .iter()
            .filter(|policy| staged || policy.mode == Mode::Enforce)
            .filter(|policy| policy.side(flow.direction).is_some())
            .filter(|policy| self.is_in_any(flow.host, &policy.applies_to))
            .collect();
        let allowing = selecting
            .iter()
            .filter_map(|policy| policy.side(flow.direction))
            .flat_map(|side| &side.rules)
            .find(|allow| self.names(&allow.peers, &allow.ports, flow));
        let (effect, origin) = match allowing {
            Some(allow) => (Effect::Allow, &allow.origin),
            None => {
                let enforced = selecting.iter().find(|policy| policy.mode == Mode::Enforce);
                let denying = enforced.or(selecting.first())?.side(flow.direction)?;
                (Effect::Deny, &denying.origin)
            }
        };
        Some(Evidence {
            effect,
            tier: Tier::Policy,
            origin: Arc::clone(origin),
        })
    }

    fn is_in_any(self, host: &Host, segments: &[SegmentId]) -> bool {
        segments.iter().any(|segment| self.is_in(host, *segment))
    }

    fn is_in(self, host: &Host, segment: SegmentId) -> bool {
        self.is_labelled(host, segment)
            || host
                .addresses
                .iter()
                .any(|address| self.holds(segment, *address))
    }

    /// Written out, so that it is not the compiler's way of matching.
    fn is_labelled(self, host: &Host, segment: SegmentId) -> bool {
        let requirements = &self.set.segment(segment).selector.requirements;
        let makes_identity = |key: &str| match &self.set.schema {
            Some(schema) => schema.keys.contains_key(key) || key.contains(':'),
            None => true,
        };
        let mut all = !requirements.is_empty();
        for Requirement { key, test } in requirements {
            let value = host.labels.get(key).filter(|_| makes_identity(key));
            all &= match (test, value) {
                (Test::In(values), Some(value)) => values.contains(value),
                (Test::NotIn(values), Some(value)) => !values.contains(value),
                (Test::Exists, Some(_)) | (Test::NotIn(_) | Test::DoesNotExist, None) => true,
                (Test::DoesNotExist, Some(_)) | (Test::In(_) | Test::Exists, None) => false,
            };
        }
        all
    }

    fn holds(self, segment: SegmentId, address: IpAddr) -> bool {
        self.set
            .segment(segment)
            .subnets
            .iter()
            .any(|subnet| subnet.contains(&address))
    }

    fn names(self, peers: &Peers, ports: &Ports, flow: &Asked<'_>) -> bool {
        let names_peer = match peers {
            Peers::Any => true,
            Peers::Of(peers) => peers.iter().any(|item| self.is_peer(item, flow.peer)),
        };
        names_peer && self.names_port(ports, flow)
    }

    fn names_port(self, ports: &Ports, flow: &Asked<'_>) -> bool {
        let Ports::Of { spans, named } = ports else {
            return true;
        };
        let numbered = spans.iter().any(|span| span.contains(flow.port));
        let called = |port: &NamedPort| {
            let label = format!("port:{}/{}", port.slot, port.name);
            let value = flow.destination.and_then(|host| host.labels.get(&label));
            let is_it = |number: &str| number.parse() == Ok(flow.port.key);
            port.slot == flow.port.slot && value.is_some_and(|value| value.split(',').any(is_it))
        };
        numbered || named.iter().any(called)
    }

    /// A segment's labels speak of the host that holds the address, its subnets of the address.
    fn is_peer(self, item: &Peer, peer: IpAddr) -> bool {
        match item {
            Peer::Subnet(subnet) => subnet.contains(peer),
            Peer::Segment(segment) => {
                self.holds(*segment, peer)
                    || self
                        .holder(peer)
                        .is_some_and(|host| self.is_labelled(host, *segment))
            }
        }
    }

    fn holder(self, address: IpAddr) -> Option<&'a Host> {
        self.inventory.holder(address)
    }
}
