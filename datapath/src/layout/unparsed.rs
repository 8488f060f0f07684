//! What is kept of packets that are dropped before any rule can judge them.

use crate::layout::Shared;

/// What packets that are dropped for the same reason have in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnparsedKey {
    /// The MAC address of the other end.
    pub mac: [u8; 6],
    /// Host order; of what follows the VLAN tags.
    pub ether_type: u16,
    /// The interface's index.
    pub interface: u32,
    /// [`crate::Reason`] as a number.
    pub reason: u8,
    /// As [`crate::Direction::number`].
    pub direction: u8,
    /// IANA number of what an IP header says that it carries; 0 without.
    pub protocol: u8,
    /// Zero.
    pub zero: u8,
}

/// The packets of a key.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct UnparsedSum {
    /// When they were last reported, nanoseconds of the monotonic clock.
    pub reported: Shared<u64>,
    /// Packets dropped since.
    pub packets: Shared<u64>,
}
