//! Protocols and ports as authors write them.
//!
//! ```text
//! any                                every protocol and port
//! tcp   tcp/5432   tcp/8000-8010     likewise udp, sctp; ports 1 to 65535
//! icmp  icmp/8  icmp/8/0             all, a type, a type and code; likewise icmpv6
//! icmp/echo-request                  a type by its name, also with a code behind it
//! icmp/3-4  icmp/3/0-4/7             ranges of these
//! tcp/http                           the port that the destination calls so; likewise udp, sctp
//! gre  esp  vrrp  ...                an IP protocol by its name
//! protocol/47  protocol/50-51        an IP protocol by its number, a range of numbers
//! ```
//!
//! `protocol/6` is `tcp`. A range of numbers holds only protocols that have no name here: what
//! `protocol/0-255` allows is `any` without tcp, udp, sctp, icmp and icmpv6.

use std::str::FromStr;

use super::{PortSpan, ProtocolSlot, names};
use crate::set::NamedPort;

/// What one literal stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortLiteral {
    /// Every protocol and port.
    Any,
    /// A run of keys of one protocol.
    Span(PortSpan),
    /// A port that each destination numbers itself.
    Named(NamedPort),
}

/// A literal that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortLiteralError {
    /// The word before the slash.
    #[error(
        "there is no protocol `{0}`; use tcp, udp, sctp, icmp, icmpv6, gre, esp, ... or protocol/NUMBER"
    )]
    Protocol(String),
    /// A port, type, code or number that is not in its range.
    #[error("`{text}` is not {what} from {first} to {last}")]
    Range {
        /// What was written.
        text: String,
        /// What it should be.
        what: &'static str,
        /// The least value.
        first: u16,
        /// The greatest value.
        last: u16,
    },
    /// Neither a port's number nor its name.
    #[error(
        "`{0}` is neither a port from 1 to 65535, nor a range, nor a port's name: up to 15 lower-case letters, digits and `-`"
    )]
    Port(String),
    /// `icmp/ping`.
    #[error("there is no type `{0}`; use its number from 0 to 255, or a name such as echo-request")]
    IcmpType(String),
    /// `8010-8000`.
    #[error("the range {first}-{last} runs backwards; write {last}-{first}")]
    Reversed {
        /// What was written first.
        first: String,
        /// What was written last.
        last: String,
    },
    /// `tcp/`.
    #[error("`{text}` has nothing behind its slash; write {instead}")]
    Empty {
        /// What was written.
        text: String,
        /// What it may have meant.
        instead: &'static str,
    },
    /// More slashes than the protocol has parts.
    #[error("`{0}` has too many parts")]
    Parts(String),
    /// `protocol` alone.
    #[error("`protocol` needs a number, such as protocol/47; `any` is every protocol")]
    NumberMissing,
}

/// Protocols without ports that have a name here, and their numbers (IANA).
const PROTOCOLS: [(&str, u16); 9] = [
    ("ah", 51),
    ("eigrp", 88),
    ("esp", 50),
    ("gre", 47),
    ("igmp", 2),
    ("ipip", 4),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
];

/// The longest name of a port (RFC 6335).
const MAX_PORT_NAME: usize = 15;

/// The words that are literals by themselves, and that no service may be named.
const WORDS: [&str; 7] = ["any", "tcp", "udp", "sctp", "icmp", "icmpv6", "protocol"];

/// Whether a word is meant as a literal and not as the name of a service.
#[must_use]
pub fn is_literal(word: &str) -> bool {
    word.contains('/') || WORDS.contains(&word) || protocol_by_name(word).is_some()
}

/// Every word that is a literal by itself.
pub fn words() -> impl Iterator<Item = &'static str> {
    WORDS.into_iter().chain(protocol_names())
}

/// The names of protocols without ports.
pub fn protocol_names() -> impl Iterator<Item = &'static str> {
    PROTOCOLS.into_iter().map(|(name, _)| name)
}

/// The word of an IP protocol, as a policy writes it: `tcp`, `vrrp`, `protocol/254`.
#[must_use]
pub fn protocol_word(number: u8) -> String {
    let known = PROTOCOLS
        .iter()
        .find(|(_, known)| *known == u16::from(number));
    match (ProtocolSlot::of(number), known) {
        (ProtocolSlot::Other, Some((name, _))) => (*name).to_owned(),
        (ProtocolSlot::Other, None) => format!("protocol/{number}"),
        (slot, _) => slot.to_string(),
    }
}

fn protocol_by_name(word: &str) -> Option<PortSpan> {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == word);
    known.map(|(_, number)| PortSpan {
        slot: ProtocolSlot::Other,
        first: *number,
        last: *number,
    })
}

/// Whether a text is the name of a port: lower-case letters, digits and `-` between them, at least
/// one letter, at most 15 (RFC 6335, as Kubernetes has it).
#[must_use]
pub fn is_port_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = text.as_bytes();
    text.len() <= MAX_PORT_NAME
        && edge(bytes.first())
        && edge(bytes.last())
        && !text.contains("--")
        && bytes.iter().any(u8::is_ascii_lowercase)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

impl FromStr for PortLiteral {
    type Err = PortLiteralError;

    fn from_str(text: &str) -> Result<Self, PortLiteralError> {
        let (protocol, keys) = match text.split_once('/') {
            Some((protocol, keys)) => (protocol, Some(keys)),
            None => (text, None),
        };
        if let Some(span) = protocol_by_name(protocol) {
            return match keys {
                None => Ok(Self::Span(span)),
                Some(_) => Err(PortLiteralError::Parts(text.to_owned())),
            };
        }
        let slot = match protocol {
            "any" if keys.is_none() => return Ok(Self::Any),
            "any" => return Err(PortLiteralError::Parts(text.to_owned())),
            "tcp" => ProtocolSlot::Tcp,
            "udp" => ProtocolSlot::Udp,
            "sctp" => ProtocolSlot::Sctp,
            "icmp" => ProtocolSlot::Icmp,
            "icmpv6" => ProtocolSlot::Icmpv6,
            "protocol" => ProtocolSlot::Other,
            _ => return Err(PortLiteralError::Protocol(protocol.to_owned())),
        };
        let Some(keys) = keys else {
            return match slot {
                ProtocolSlot::Other => Err(PortLiteralError::NumberMissing),
                slot => Ok(Self::Span(whole(slot))),
            };
        };
        if keys.split('/').any(str::is_empty) {
            return Err(PortLiteralError::Empty {
                text: text.to_owned(),
                instead: example(slot),
            });
        }
        if slot.has_ports() && is_port_name(keys) {
            return Ok(Self::Named(NamedPort {
                slot,
                name: keys.to_owned(),
            }));
        }
        let is_word = keys.contains(|character: char| character.is_ascii_alphabetic());
        if is_word && matches!(slot, ProtocolSlot::Icmp | ProtocolSlot::Icmpv6) {
            return icmp_by_name(slot, keys).map(Self::Span);
        }
        let parts = |end: &str| end.split('/').count();
        let most = match slot {
            ProtocolSlot::Icmp | ProtocolSlot::Icmpv6 => 2,
            _ => 1,
        };
        let (first, last) = keys.split_once('-').unwrap_or((keys, keys));
        if parts(first) > most || parts(last) > most {
            return Err(PortLiteralError::Parts(text.to_owned()));
        }
        if slot == ProtocolSlot::Other && first == last {
            return protocol_number(keys).map(Self::Span);
        }
        let span = PortSpan {
            slot,
            first: key(slot, first, keys)?.0,
            last: key(slot, last, keys)?.1,
        };
        if span.first > span.last {
            return Err(PortLiteralError::Reversed {
                first: first.to_owned(),
                last: last.to_owned(),
            });
        }
        Ok(Self::Span(span))
    }
}

/// A type of ICMP by its name, with a code or without.
fn icmp_by_name(slot: ProtocolSlot, text: &str) -> Result<PortSpan, PortLiteralError> {
    let (name, code) = match text.split_once('/') {
        Some((name, code)) => (name, Some(code)),
        None => (text, None),
    };
    let number =
        names::icmp_type(slot, name).ok_or_else(|| PortLiteralError::IcmpType(name.to_owned()))?;
    let (first, last) = match code {
        Some(code) => {
            let code = byte(code, "a code")?;
            (code, code)
        }
        None => (0, 255),
    };
    Ok(PortSpan {
        slot,
        first: number << 8 | first,
        last: number << 8 | last,
    })
}

/// What may stand behind a protocol's slash.
const fn example(slot: ProtocolSlot) -> &'static str {
    match slot {
        ProtocolSlot::Tcp => "a port, such as tcp/5432, or `tcp` for every port",
        ProtocolSlot::Udp => "a port, such as udp/53, or `udp` for every port",
        ProtocolSlot::Sctp => "a port, such as sctp/3868, or `sctp` for every port",
        ProtocolSlot::Icmp => "a type, or a type and a code, such as icmp/8 or icmp/8/0",
        ProtocolSlot::Icmpv6 => "a type, or a type and a code, such as icmpv6/128 or icmpv6/128/0",
        ProtocolSlot::Other => "a number, such as protocol/47",
    }
}

/// The first and the last key of one end of a range; `whole` is what an error shows.
fn key(slot: ProtocolSlot, end: &str, whole: &str) -> Result<(u16, u16), PortLiteralError> {
    match slot {
        ProtocolSlot::Tcp | ProtocolSlot::Udp | ProtocolSlot::Sctp => {
            let port = number(end, 1, u16::MAX).ok_or_else(|| {
                let text = whole.to_owned();
                if whole.contains(|c: char| c.is_ascii_alphabetic()) {
                    return PortLiteralError::Port(text);
                }
                PortLiteralError::Range {
                    text,
                    what: "a port or a range of ports",
                    first: 1,
                    last: u16::MAX,
                }
            })?;
            Ok((port, port))
        }
        ProtocolSlot::Icmp | ProtocolSlot::Icmpv6 => match end.split_once('/') {
            Some((kind, code)) => {
                let key = byte(kind, "a type")? << 8 | byte(code, "a code")?;
                Ok((key, key))
            }
            None => {
                let kind = byte(end, "a type")? << 8;
                Ok((kind, kind | 255))
            }
        },
        ProtocolSlot::Other => {
            let number = byte(end, "a protocol number")?;
            Ok((number, number))
        }
    }
}

/// A protocol by its number; one that has a slot of its own is all of that slot.
fn protocol_number(text: &str) -> Result<PortSpan, PortLiteralError> {
    let number = byte(text, "a protocol number")?;
    let slot = u8::try_from(number).map_or(ProtocolSlot::Other, ProtocolSlot::of);
    Ok(match slot {
        ProtocolSlot::Other => PortSpan {
            slot,
            first: number,
            last: number,
        },
        slot => whole(slot),
    })
}

const fn whole(slot: ProtocolSlot) -> PortSpan {
    PortSpan {
        slot,
        first: 0,
        last: slot.last_key(),
    }
}

/// A decimal number of a range, without a sign.
fn number(text: &str, first: u16, last: u16) -> Option<u16> {
    let value = text
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())??;
    (first..=last).contains(&value).then_some(value)
}

/// A decimal number from 0 to 255.
fn byte(text: &str, what: &'static str) -> Result<u16, PortLiteralError> {
    number(text, 0, 255).ok_or_else(|| PortLiteralError::Range {
        text: text.to_owned(),
        what,
        first: 0,
        last: 255,
    })
}
