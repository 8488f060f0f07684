//! The reference answer for one flow, straight from the policy set.
//!
//! This is the meaning of policy written down plainly. It shares no code with [`mod@crate::compile`]
//! and [`mod@crate::classify`], so that each can be tested against it.

pub mod query;

use std::{net::IpAddr, sync::Arc};

use crate::{
    host_policy::Origin,
    inventory::{Host, Inventory},
    service::PortKey,
    set::{Allow, Peer, Peers, Policy, PolicySet, SegmentId},
    words::{Direction, Effect, Mode, Tier},
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
/// rule `unmanaged`.
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

impl World<'_> {
    fn side(self, direction: Direction, own: IpAddr, peer: IpAddr, port: PortKey) -> SideVerdict {
        let Some(host) = self.holder(own) else {
            return Evidence::unwritten(Effect::Allow, Tier::Default, "unmanaged").into();
        };
        if host.quarantined || self.holder(peer).is_some_and(|peer| peer.quarantined) {
            return Evidence::unwritten(Effect::Deny, Tier::Quarantine, "quarantine").into();
        }
        let decide = |staged| {
            let selecting = self.selecting(host, direction, staged);
            self.decide(&selecting, direction, peer, port)
        };
        SideVerdict {
            enforced: decide(false),
            staged: decide(true),
        }
    }

    fn decide(
        self,
        selecting: &[&Policy],
        direction: Direction,
        peer: IpAddr,
        port: PortKey,
    ) -> Evidence {
        let sides = || selecting.iter().filter_map(|policy| policy.side(direction));
        for allow in sides().flat_map(|side| &side.rules) {
            if self.allows(allow, peer, port) {
                let origin = Arc::clone(&allow.origin);
                return Evidence {
                    effect: Effect::Allow,
                    tier: Tier::Policy,
                    origin,
                };
            }
        }
        let enforced = selecting.iter().find(|policy| policy.mode == Mode::Enforce);
        let denying = enforced
            .or(selecting.first())
            .and_then(|policy| policy.side(direction));
        match denying {
            Some(side) => {
                let origin = Arc::clone(&side.origin);
                Evidence {
                    effect: Effect::Deny,
                    tier: Tier::Policy,
                    origin,
                }
            }
            None => Evidence::unwritten(Effect::Allow, Tier::Default, "default"),
        }
    }

    /// The policies that select the host in a direction, by name.
    fn selecting(&self, host: &Host, direction: Direction, staged: bool) -> Vec<&Policy> {
        self.set
            .policies
            .iter()
            .filter(|policy| staged || policy.mode == Mode::Enforce)
            .filter(|policy| policy.side(direction).is_some())
            .filter(|policy| {
                policy
                    .applies_to
                    .iter()
                    .any(|segment| self.is_in(host, *segment))
            })
            .collect()
    }

    fn is_in(&self, host: &Host, segment: SegmentId) -> bool {
        self.is_labelled(host, segment)
            || host
                .addresses
                .iter()
                .any(|address| self.holds(segment, *address))
    }

    fn is_labelled(&self, host: &Host, segment: SegmentId) -> bool {
        let wanted = &self.set.segment(segment).labels;
        !wanted.is_empty()
            && wanted
                .iter()
                .all(|(key, value)| host.labels.get(key) == Some(value))
    }

    fn holds(&self, segment: SegmentId, address: IpAddr) -> bool {
        self.set
            .segment(segment)
            .subnets
            .iter()
            .any(|subnet| subnet.contains(&address))
    }

    fn allows(&self, allow: &Allow, peer: IpAddr, port: PortKey) -> bool {
        let names_port =
            allow.ports.is_empty() || allow.ports.iter().any(|span| span.contains(port));
        let names_peer = match &allow.peers {
            Peers::Any => true,
            Peers::Of(peers) => peers.iter().any(|item| self.is_peer(item, peer)),
        };
        names_port && names_peer
    }

    /// A segment's labels speak of the host that holds the address, its subnets of the address.
    fn is_peer(&self, item: &Peer, peer: IpAddr) -> bool {
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

    fn holder(&self, address: IpAddr) -> Option<&Host> {
        self.inventory.holder(address)
    }
}
