//! Protocols and ports as authors write them.
//!
//! ```text
//! any                                every protocol and port
//! tcp   tcp/5432   tcp/8000-8010     likewise udp, sctp; ports 1 to 65535
//! icmp  icmp/8  icmp/8/0             all, a type, a type and code; likewise icmpv6
//! protocol/47                        an IP protocol by its number
//! ```

use std::str::FromStr;

use super::{PortSpan, ProtocolSlot};

/// What one literal stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortLiteral {
    /// Every protocol and port.
    Any,
    /// A run of keys of one protocol.
    Span(PortSpan),
}

/// A literal that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortLiteralError {
    /// The word before the slash.
    #[error("there is no protocol `{0}`; use tcp, udp, sctp, icmp, icmpv6 or protocol/NUMBER")]
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
    /// `8010-8000`.
    #[error("the range {first}-{last} runs backwards; write {last}-{first}")]
    Reversed {
        /// What was written first.
        first: u16,
        /// What was written last.
        last: u16,
    },
    /// More slashes than the protocol has parts.
    #[error("`{0}` has too many parts")]
    Parts(String),
    /// `protocol` alone.
    #[error("`protocol` needs a number, such as protocol/47; `any` is every protocol")]
    NumberMissing,
}

/// The words that are literals by themselves, and that no service may be named.
const WORDS: [&str; 7] = ["any", "tcp", "udp", "sctp", "icmp", "icmpv6", "protocol"];

/// Whether a word is meant as a literal and not as the name of a service.
#[must_use]
pub fn is_literal(word: &str) -> bool {
    word.contains('/') || WORDS.contains(&word)
}

impl FromStr for PortLiteral {
    type Err = PortLiteralError;

    fn from_str(text: &str) -> Result<Self, PortLiteralError> {
        let mut parts = text.split('/');
        let protocol = parts.next().unwrap_or_default();
        let (first, second) = (parts.next(), parts.next());
        if parts.next().is_some() {
            return Err(PortLiteralError::Parts(text.to_owned()));
        }
        let span = match (protocol, first, second) {
            ("any", None, None) => return Ok(Self::Any),
            ("tcp", first, None) => ports(ProtocolSlot::Tcp, first)?,
            ("udp", first, None) => ports(ProtocolSlot::Udp, first)?,
            ("sctp", first, None) => ports(ProtocolSlot::Sctp, first)?,
            ("icmp", kind, code) => messages(ProtocolSlot::Icmp, kind, code)?,
            ("icmpv6", kind, code) => messages(ProtocolSlot::Icmpv6, kind, code)?,
            ("protocol", None, None) => return Err(PortLiteralError::NumberMissing),
            ("protocol", Some(number), None) => protocol_number(number)?,
            ("any" | "tcp" | "udp" | "sctp" | "protocol", ..) => {
                return Err(PortLiteralError::Parts(text.to_owned()));
            }
            _ => return Err(PortLiteralError::Protocol(protocol.to_owned())),
        };
        Ok(Self::Span(span))
    }
}

fn ports(slot: ProtocolSlot, text: Option<&str>) -> Result<PortSpan, PortLiteralError> {
    let Some(text) = text else {
        return Ok(whole(slot));
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |end| {
        number(end, 1, u16::MAX).ok_or_else(|| PortLiteralError::Range {
            text: text.to_owned(),
            what: "a port or a range of ports",
            first: 1,
            last: u16::MAX,
        })
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(PortLiteralError::Reversed { first, last });
    }
    Ok(PortSpan { slot, first, last })
}

fn messages(
    slot: ProtocolSlot,
    kind: Option<&str>,
    code: Option<&str>,
) -> Result<PortSpan, PortLiteralError> {
    let Some(kind) = kind else {
        return Ok(whole(slot));
    };
    let kind = byte(kind, "a type")? << 8;
    let (first, last) = match code {
        Some(code) => {
            let code = byte(code, "a code")?;
            (kind | code, kind | code)
        }
        None => (kind, kind | 255),
    };
    Ok(PortSpan { slot, first, last })
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
