//! Protocols and ports: what a rule allows, and how a packet's protocol and port become one key.

pub mod literal;
pub mod names;

use std::fmt;

use serde::{Deserialize, Serialize};

/// One table of ports: a protocol that has its own space of 16-bit keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolSlot {
    /// TCP (6); the key is the destination port.
    Tcp,
    /// UDP (17); the key is the destination port.
    Udp,
    /// SCTP (132); the key is the destination port.
    Sctp,
    /// ICMP (1); the key is `type << 8 | code`.
    Icmp,
    /// ICMPv6 (58); the key is `type << 8 | code`.
    Icmpv6,
    /// Any other protocol; the key is its number, 0 to 255.
    Other,
}

impl ProtocolSlot {
    /// All, in the order in which they are numbered in tables.
    pub const ALL: [Self; 6] = [
        Self::Tcp,
        Self::Udp,
        Self::Sctp,
        Self::Icmp,
        Self::Icmpv6,
        Self::Other,
    ];

    /// The last key of this slot: 255 for [`ProtocolSlot::Other`], 65,535 for the rest.
    #[must_use]
    pub const fn last_key(self) -> u16 {
        match self {
            Self::Other => 255,
            _ => u16::MAX,
        }
    }

    /// The last key that tables have for this slot. Behind the last protocol number stand what only a host's own
    /// rules speak of; no policy file and no policy on the wire names these.
    #[must_use]
    pub const fn last_table_key(self) -> u16 {
        match self {
            Self::Other => 257,
            _ => self.last_key(),
        }
    }

    /// Whether its keys are ports: TCP, UDP and SCTP.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }

    /// The slot that a protocol number (IANA) is judged in.
    #[must_use]
    pub const fn of(protocol: u8) -> Self {
        match protocol {
            6 => Self::Tcp,
            17 => Self::Udp,
            132 => Self::Sctp,
            1 => Self::Icmp,
            58 => Self::Icmpv6,
            _ => Self::Other,
        }
    }
}

/// What a flow asks for: the protocol's slot and the key in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortKey {
    /// The protocol's table.
    pub slot: ProtocolSlot,
    /// A destination port, an ICMP `type << 8 | code`, or a protocol number.
    pub key: u16,
}

/// A run of keys in one slot, both ends included. A rule allows a list of these; an empty list is "any".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortSpan {
    /// The protocol's table.
    pub slot: ProtocolSlot,
    /// The first key.
    pub first: u16,
    /// The last key, not below `first`.
    pub last: u16,
}

impl PortSpan {
    /// Whether the span holds the key.
    #[must_use]
    pub fn contains(&self, key: PortKey) -> bool {
        self.slot == key.slot && (self.first..=self.last).contains(&key.key)
    }
}

impl fmt::Display for ProtocolSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
            Self::Icmpv6 => "icmpv6",
            Self::Other => "protocol",
        })
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.slot, self.key)
    }
}

/// As authors write it: `tcp/5432`, `tcp/8000-8010`, `tcp`, `icmp/8/0`, `icmp/8`, `icmp/3-4`,
/// `icmp/3/1-4/2`, `protocol/47`, `protocol/0-255`.
impl fmt::Display for PortSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, first, last } = *self;
        let is_icmp = matches!(slot, ProtocolSlot::Icmp | ProtocolSlot::Icmpv6);
        if first == 0 && last == slot.last_key() && slot != ProtocolSlot::Other {
            write!(f, "{slot}")
        } else if is_icmp && first == last {
            write!(f, "{slot}/{}/{}", first >> 8, first & 255)
        } else if is_icmp && first & 255 == 0 && last == first | 255 {
            write!(f, "{slot}/{}", first >> 8)
        } else if is_icmp && first & 255 == 0 && last & 255 == 255 {
            write!(f, "{slot}/{}-{}", first >> 8, last >> 8)
        } else if is_icmp {
            write!(
                f,
                "{slot}/{}/{}-{}/{}",
                first >> 8,
                first & 255,
                last >> 8,
                last & 255
            )
        } else if first == last {
            write!(f, "{slot}/{first}")
        } else {
            write!(f, "{slot}/{first}-{last}")
        }
    }
}

/// The same keys in as few spans as possible, sorted.
#[must_use]
pub fn merge(mut spans: Vec<PortSpan>) -> Vec<PortSpan> {
    spans.sort_unstable();
    let mut merged: Vec<PortSpan> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if last.slot == span.slot && span.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(span.last);
            }
            _ => merged.push(span),
        }
    }
    merged
}
