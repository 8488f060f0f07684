//! Questions by service: a literal or a Service's name stands for one flow or a few.

use super::{Explanation, explain, reason::one};
use crate::{
    evaluate::query::{Query, QueryError},
    inventory::{Inventory, named_port},
    service::{
        PortKey, PortSpan, ProtocolSlot,
        literal::{PortLiteral, is_literal},
    },
    set::{PolicySet, Ports},
};

/// Flows that one service may stand for.
pub const MAX_FLOWS: usize = 16;

/// A question without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Another part of the question.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Neither a literal nor a service.
    #[error("`{0}` is neither a Service of the policy files nor a port such as tcp/5432")]
    Unknown(String),
    /// A literal that is none.
    #[error(transparent)]
    Literal(#[from] crate::service::literal::PortLiteralError),
    /// More ports than can be explained one by one.
    #[error("`{service}` has more than {MAX_FLOWS} ports, and one flow has one; ask for {example}")]
    Wide {
        /// As asked.
        service: String,
        /// One of its flows.
        example: String,
    },
    /// A named port, and a destination without it.
    #[error("`{dst}` has no port named {slot}/{name}; ask for its number")]
    Unnamed {
        /// The destination, as asked.
        dst: String,
        /// The protocol.
        slot: ProtocolSlot,
        /// The port's name.
        name: String,
    },
}

/// Explains every flow that a service stands for: one for a port, at most [`MAX_FLOWS`] for a
/// Service of several. Of ICMP, a type alone stands for its code 0, and `icmp` for an echo request.
/// Flows over a family that the ends do not have in common are left out, unless all are.
///
/// # Errors
/// [`AskError`] says which part of the question has no meaning.
pub fn explain_service(
    set: &PolicySet,
    inventory: &Inventory,
    src: &str,
    dst: &str,
    service: &str,
) -> Result<Vec<Explanation>, AskError> {
    let mut explanations = Vec::new();
    let mut other_family = None;
    for key in keys(set, inventory, dst, service)? {
        let (protocol, port) = match key.slot {
            ProtocolSlot::Tcp | ProtocolSlot::Udp | ProtocolSlot::Sctp => {
                (key.slot.to_string(), Some(key.key))
            }
            _ => (one(key).to_string(), None),
        };
        let query = Query {
            src: src.to_owned(),
            dst: dst.to_owned(),
            protocol,
            port,
        };
        match explain(set, inventory, &query) {
            Ok(explanation) => explanations.push(explanation),
            Err(error @ QueryError::NoCommonFamily { .. }) => other_family = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    match other_family {
        Some(error) if explanations.is_empty() => Err(error.into()),
        _ => Ok(explanations),
    }
}

/// The flows' keys, in order; not empty.
fn keys(
    set: &PolicySet,
    inventory: &Inventory,
    dst: &str,
    service: &str,
) -> Result<Vec<PortKey>, AskError> {
    let ports = if is_literal(service) {
        literal(service)?
    } else {
        let found = set.services.iter().find(|known| known.name == service);
        let unknown = || AskError::Unknown(service.to_owned());
        found.ok_or_else(unknown)?.ports.clone()
    };
    let wide = |example: PortKey| AskError::Wide {
        service: service.to_owned(),
        example: one(example).to_string(),
    };
    let Ports::Of { spans, named } = ports else {
        return Err(wide(PortKey {
            slot: ProtocolSlot::Tcp,
            key: 443,
        }));
    };
    let mut keys = Vec::new();
    for span in &spans {
        let (first, last) = flows(span);
        if usize::from(last - first) >= MAX_FLOWS - keys.len().min(MAX_FLOWS) {
            let key = first.max(1);
            return Err(wide(PortKey {
                slot: span.slot,
                key,
            }));
        }
        keys.extend((first..=last).map(|key| PortKey {
            slot: span.slot,
            key,
        }));
    }
    let destination = match dst.parse() {
        Ok(address) => inventory.holder(address),
        Err(_) => inventory.host(dst),
    };
    let mut unnamed = None;
    for port in &named {
        let before = keys.len();
        let labels = destination.map(|host| &host.labels);
        let numbers = labels
            .into_iter()
            .flat_map(|labels| named_port(labels, port));
        keys.extend(numbers.map(|key| PortKey {
            slot: port.slot,
            key,
        }));
        if keys.len() == before {
            unnamed = Some(AskError::Unnamed {
                dst: dst.to_owned(),
                slot: port.slot,
                name: port.name.clone(),
            });
        }
    }
    keys.sort_unstable();
    keys.dedup();
    match (keys.first(), unnamed) {
        (Some(first), _) if keys.len() > MAX_FLOWS => Err(wide(*first)),
        (Some(_), _) => Ok(keys),
        (None, Some(error)) => Err(error),
        (None, None) => Err(AskError::Unknown(service.to_owned())),
    }
}

fn literal(word: &str) -> Result<Ports, AskError> {
    Ok(match word.parse()? {
        PortLiteral::Any => Ports::Any,
        PortLiteral::Span(span) => Ports::spans(vec![span]),
        PortLiteral::Named(port) => Ports::Of {
            spans: Vec::new(),
            named: vec![port],
        },
    })
}

/// The keys of a span that stand for a flow each: of ICMP the echo request, or one for each type.
fn flows(span: &PortSpan) -> (u16, u16) {
    let PortSpan { slot, first, last } = *span;
    let whole = (first, last) == (0, u16::MAX);
    match slot {
        ProtocolSlot::Icmp if whole => (8 << 8, 8 << 8),
        ProtocolSlot::Icmpv6 if whole => (128 << 8, 128 << 8),
        ProtocolSlot::Icmp | ProtocolSlot::Icmpv6 if (first & 255, last) == (0, first | 255) => {
            (first, first)
        }
        _ => (first, last),
    }
}
