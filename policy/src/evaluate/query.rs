//! Questions as people and programs ask them: by name or address, with a protocol and a port.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    evaluate::{Evidence, Flow, SideVerdict, Verdict, evaluate},
    host_policy::Origin,
    inventory::Inventory,
    service::{PortKey, ProtocolSlot, literal::PortLiteral},
    set::PolicySet,
    words::{Effect, Tier},
};

/// Type 8, code 0 (RFC 792).
const ECHO_REQUEST: u16 = 8 << 8;
/// Type 128, code 0 (RFC 4443).
const ECHO_REQUEST_V6: u16 = 128 << 8;

/// `{"src": NAME|IP, "dst": NAME|IP, "protocol": "tcp", "port": 5432}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// A host's name or an address: who opens the flow.
    pub src: String,
    /// A host's name or an address: to whom.
    pub dst: String,
    /// `tcp`, `udp`, `sctp`, `icmp` or `icmp/TYPE/CODE`, `icmpv6` likewise, or `protocol/NUMBER`.
    pub protocol: String,
    /// The destination port; only for protocols that have ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// The query repeated, with the verdict and what decided it on each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// What was asked.
    #[serde(flatten)]
    pub query: Query,
    /// Allow if both sides allow.
    pub verdict: Effect,
    /// The side of the source.
    pub egress: SideAnswer,
    /// The side of the destination.
    pub ingress: SideAnswer,
}

/// One side of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SideAnswer {
    /// What decides now.
    #[serde(flatten)]
    pub enforced: EvidenceAnswer,
    /// What would decide if all that is observed were enforced; absent where that is the same rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged: Option<EvidenceAnswer>,
}

/// A verdict and the rule that gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvidenceAnswer {
    /// Allow or deny.
    pub verdict: Effect,
    /// The layer that decided.
    pub tier: Tier,
    /// The rule that decided, its file and its line.
    #[serde(flatten)]
    pub origin: Arc<Origin>,
}

/// A query without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Neither an address nor a name.
    #[error("`{0}` is neither an address nor a host of the inventory")]
    UnknownEnd(String),
    /// IPv4 and IPv6 do not talk to each other, and each ICMP has its own family.
    #[error("`{src}` and `{dst}` have no addresses of one family that {protocol} runs over")]
    NoCommonFamily {
        /// As asked.
        src: String,
        /// As asked.
        dst: String,
        /// As asked.
        protocol: String,
    },
    /// Not a protocol.
    #[error("`{0}` is not a protocol; use tcp, udp, sctp, icmp, icmpv6 or protocol/NUMBER")]
    Protocol(String),
    /// A protocol with ports, and no port.
    #[error("{0} needs a `port`")]
    PortMissing(String),
    /// A port, and a protocol without ports.
    #[error("{0} has no ports; leave `port` out")]
    PortUnknown(String),
}

/// Answers one query.
///
/// A name stands for the host's first address of the family that both ends have, IPv4 if they
/// have both. `icmp` and `icmpv6` alone ask for an echo request. What a host sends to itself is
/// not policed: it is allowed, by the rule `loopback`.
///
/// # Errors
/// [`QueryError`] says which part of the query has no meaning.
pub fn answer(set: &PolicySet, inventory: &Inventory, query: &Query) -> Result<Answer, QueryError> {
    let verdict = verdict(&Reference { set, inventory }, query)?;
    Ok(Answer::new(query.clone(), verdict))
}

/// Who exists, and what is judged of a flow between them.
pub(super) trait World {
    /// The addresses of the host of a name.
    fn addresses(&self, name: &str) -> Option<&[IpAddr]>;
    /// As [`evaluate()`], and [`loopback`] where one host holds both ends.
    fn judge(&self, flow: &Flow) -> Verdict;
}

struct Reference<'a> {
    set: &'a PolicySet,
    inventory: &'a Inventory,
}

impl World for Reference<'_> {
    fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        Some(&self.inventory.host(name)?.addresses)
    }

    fn judge(&self, flow: &Flow) -> Verdict {
        let holder = self.inventory.holder(flow.source);
        if holder.is_some_and(|host| host.addresses.contains(&flow.destination)) {
            loopback()
        } else {
            evaluate(self.set, self.inventory, flow)
        }
    }
}

/// The flow that a query asks about; see [`answer`] for what a name stands for.
///
/// # Errors
/// As [`answer`].
pub fn flow(set: &PolicySet, inventory: &Inventory, query: &Query) -> Result<Flow, QueryError> {
    flow_in(&Reference { set, inventory }, query)
}

/// As [`flow`].
fn flow_in(world: &impl World, query: &Query) -> Result<Flow, QueryError> {
    let port = port_key(query)?;
    let (sources, destinations) = (ends(world, &query.src)?, ends(world, &query.dst)?);
    let pair = [true, false].into_iter().find_map(|v4| {
        let runs = !matches!(
            (port.slot, v4),
            (ProtocolSlot::Icmp, false) | (ProtocolSlot::Icmpv6, true)
        );
        let of_family = |ends: &[IpAddr]| ends.iter().copied().find(|end| end.is_ipv4() == v4);
        of_family(&sources)
            .zip(of_family(&destinations))
            .filter(|_| runs)
    });
    let Some((source, destination)) = pair else {
        let Query {
            src,
            dst,
            protocol,
            port: _,
        } = query.clone();
        return Err(QueryError::NoCommonFamily { src, dst, protocol });
    };
    Ok(Flow {
        source,
        destination,
        port,
    })
}

/// What is said of a flow within one host.
pub(super) fn loopback() -> Verdict {
    let evidence = Evidence::unwritten(Effect::Allow, Tier::Default, "loopback");
    let side = SideVerdict::from(evidence);
    Verdict {
        egress: side.clone(),
        ingress: side,
    }
}

/// As [`answer`].
pub(super) fn verdict(world: &impl World, query: &Query) -> Result<Verdict, QueryError> {
    Ok(world.judge(&flow_in(world, query)?))
}

impl Answer {
    pub(super) fn new(query: Query, verdict: Verdict) -> Self {
        let [egress, ingress] = [verdict.egress, verdict.ingress].map(SideAnswer::from);
        let passes = [&egress, &ingress]
            .iter()
            .all(|side| side.enforced.verdict == Effect::Allow);
        Self {
            query,
            verdict: if passes { Effect::Allow } else { Effect::Deny },
            egress,
            ingress,
        }
    }
}

impl From<SideVerdict> for SideAnswer {
    fn from(SideVerdict { enforced, staged }: SideVerdict) -> Self {
        let staged = (staged != enforced).then(|| staged.into());
        Self {
            enforced: enforced.into(),
            staged,
        }
    }
}

impl From<Evidence> for EvidenceAnswer {
    fn from(
        Evidence {
            effect,
            tier,
            origin,
        }: Evidence,
    ) -> Self {
        Self {
            verdict: effect,
            tier,
            origin,
        }
    }
}

/// The addresses that one end of a query stands for.
fn ends<'a>(world: &'a impl World, end: &str) -> Result<Cow<'a, [IpAddr]>, QueryError> {
    if let Ok(address) = end.parse() {
        return Ok(Cow::Owned(vec![address]));
    }
    let addresses = world.addresses(end);
    addresses
        .map(Cow::Borrowed)
        .ok_or_else(|| QueryError::UnknownEnd(end.to_owned()))
}

fn port_key(query: &Query) -> Result<PortKey, QueryError> {
    let protocol = || query.protocol.clone();
    let unknown = || QueryError::Protocol(protocol());
    // Kubernetes writes TCP.
    let literal = (query.protocol.parse())
        .or_else(|_| query.protocol.to_ascii_lowercase().parse())
        .map_err(|_| unknown())?;
    let PortLiteral::Span(span) = literal else {
        return Err(unknown());
    };
    let slot = span.slot;
    let is_whole_slot = (span.first, span.last) == (0, slot.last_key());
    // One flow has one key: a type alone stands for its code 0, but a range for nothing.
    let one_type = (span.first & 255, span.last) == (0, span.first | 255);
    let is_one = slot != ProtocolSlot::Other && (is_whole_slot || one_type);
    if span.first != span.last && !is_one {
        return Err(unknown());
    }
    if matches!(
        slot,
        ProtocolSlot::Tcp | ProtocolSlot::Udp | ProtocolSlot::Sctp
    ) {
        // `protocol/6` is tcp too, but `tcp/80` is not a protocol.
        if !is_whole_slot {
            return Err(unknown());
        }
        let key = query
            .port
            .ok_or_else(|| QueryError::PortMissing(protocol()))?;
        return Ok(PortKey { slot, key });
    }
    // Programs that fill in every field write 0.
    if query.port.is_some_and(|port| port != 0) {
        return Err(QueryError::PortUnknown(protocol()));
    }
    let key = match slot {
        ProtocolSlot::Icmp if is_whole_slot => ECHO_REQUEST,
        ProtocolSlot::Icmpv6 if is_whole_slot => ECHO_REQUEST_V6,
        // A type alone asks for its code 0.
        _ => span.first,
    };
    Ok(PortKey { slot, key })
}
