//! What IANA calls the types of ICMP that authors name.

use super::ProtocolSlot;

/// Types of ICMP (IANA, ICMP Type Numbers).
pub const ICMP_TYPES: [(&str, u16); 10] = [
    ("destination-unreachable", 3),
    ("echo-reply", 0),
    ("echo-request", 8),
    ("parameter-problem", 12),
    ("redirect", 5),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("timestamp-reply", 14),
    ("timestamp-request", 13),
];

/// Types of ICMPv6 (IANA, ICMPv6 "type" Numbers).
pub const ICMPV6_TYPES: [(&str, u16); 11] = [
    ("destination-unreachable", 1),
    ("echo-reply", 129),
    ("echo-request", 128),
    ("neighbor-advertisement", 136),
    ("neighbor-solicitation", 135),
    ("packet-too-big", 2),
    ("parameter-problem", 4),
    ("redirect", 137),
    ("router-advertisement", 134),
    ("router-solicitation", 133),
    ("time-exceeded", 3),
];

/// The number of a type of ICMP or ICMPv6.
#[must_use]
pub fn icmp_type(slot: ProtocolSlot, name: &str) -> Option<u16> {
    let (_, number) = icmp_types(slot).iter().find(|(known, _)| *known == name)?;
    Some(*number)
}

/// The types that a slot has names for.
#[must_use]
pub const fn icmp_types(slot: ProtocolSlot) -> &'static [(&'static str, u16)] {
    match slot {
        ProtocolSlot::Icmp => &ICMP_TYPES,
        ProtocolSlot::Icmpv6 => &ICMPV6_TYPES,
        _ => &[],
    }
}
