//! What kernel and user space share in maps. A change here is a new [`VERSION`].

mod denied;
mod flow;
mod fragment;
mod settings;
mod unparsed;

use core::{cell::Cell, mem::offset_of};

pub use self::{
    denied::{DeniedFlow, DeniedRecord},
    flow::{Flow, FlowKey, FlowRecord, Grounds, Opener, Traffic, flow_kind, flow_state},
    fragment::{FirstFragment, FragmentKey, FragmentRecord},
    settings::{EventLimits, Settings, Timeouts, other_ether_types, settings_flag},
    unparsed::{UnparsedKey, UnparsedSum},
};

/// The version of every layout in this file and of the map list; part of the pin path.
pub const VERSION: u32 = 3;
/// The version of the flow tables alone: their keys, their values and what these mean. As long as it
/// stays, an agent of another [`VERSION`] carries the live flows on.
pub const FLOW_VERSION: u32 = 3;

/// Rules that can be counted in one generation: what a host policy may hold, and the host's own.
pub const MAX_RULES: u32 = 16_384 + 256;
/// Peers in the maps at once: those of the live generation and of the next.
pub const MAX_PEERS: u32 = 2 * 131_072 + 1024;
/// Cells of the matrix of one generation.
pub const MAX_CELLS: u32 = 1_048_576;
/// The peer of an address that neither the exact map nor the subnets know.
pub const WORLD: u32 = 0;

/// Keys in one [`PortPage`].
pub const PAGE_KEYS: usize = 256;
/// Pages of one protocol slot.
pub const PAGES_PER_SLOT: u32 = 256;
/// Protocol slots: TCP, UDP, SCTP, ICMP, ICMPv6, other.
pub const SLOTS: u32 = 6;
/// Pages of one generation: two directions, all slots.
pub const PAGES: u32 = 2 * SLOTS * PAGES_PER_SLOT;

/// What only a host's own rules speak of: keys behind the last protocol number in the slot of protocols without
/// one of their own.
pub mod local_service {
    /// A protocol of that slot.
    pub const PROTOCOL: u8 = 0;
    /// An answer to an open exchange of this host's DHCP client.
    pub const DHCP_ANSWER: u16 = 256;
    /// A request of this host's DHCP client to a server that has answered it before.
    pub const DHCP_RENEWAL: u16 = 257;
}

/// A type that may be copied to and from a map byte by byte.
///
/// # Safety
/// `repr(C)`, no padding, and every bit pattern is a value.
pub unsafe trait Layout: Copy + 'static {}

/// The direction of a packet at a hook, and of the packet that opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the host.
    Ingress,
    /// Out of the host.
    Egress,
}

impl Direction {
    /// As it is numbered in maps: 0 ingress, 1 egress.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Ingress => 0,
            Self::Egress => 1,
        }
    }

    /// The other one.
    #[inline(always)]
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// From a number in a map; what is not 0 is egress.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Ingress,
            _ => Self::Egress,
        }
    }
}

/// An address of one family, as it stands in the packet.
pub trait Address: Copy + Eq + core::hash::Hash + 'static {
    /// 4 or 6.
    const FAMILY: u8;
    /// All zeros.
    const UNSPECIFIED: Self;
    /// Widened to 16 bytes for events; IPv4 stands in the first four.
    fn widen(&self) -> [u8; 16];
    /// Of four bytes; `None` in IPv6.
    fn from_v4(bytes: [u8; 4]) -> Option<Self>;
}

/// An IPv4 address in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4(pub [u8; 4]);

/// An IPv6 address in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv6(pub [u8; 16]);

impl Address for Ipv4 {
    const FAMILY: u8 = 4;
    const UNSPECIFIED: Self = Self([0; 4]);
    #[inline(always)]
    fn widen(&self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }
    #[inline(always)]
    fn from_v4(bytes: [u8; 4]) -> Option<Self> {
        Some(Self(bytes))
    }
}

impl Address for Ipv6 {
    const FAMILY: u8 = 6;
    const UNSPECIFIED: Self = Self([0; 16]);
    #[inline(always)]
    fn widen(&self) -> [u8; 16] {
        self.0
    }
    #[inline(always)]
    fn from_v4(_: [u8; 4]) -> Option<Self> {
        None
    }
}

/// A word of a map value that programs change in place.
///
/// In the kernel two CPUs may do so at once. Nothing is ordered by such a word, and an aligned load or
/// store of at most eight bytes does not tear there.
#[repr(transparent)]
#[derive(Clone, Debug)]
pub struct Shared<T: Copy>(Cell<T>);

impl<T: Copy + Default> Default for Shared<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: Copy> Shared<T> {
    /// A word.
    #[inline(always)]
    pub const fn new(value: T) -> Self {
        Self(Cell::new(value))
    }

    /// What it is now.
    #[inline(always)]
    pub fn get(&self) -> T {
        self.0.get()
    }

    /// Changes it.
    #[inline(always)]
    pub fn set(&self, value: T) {
        self.0.set(value);
    }
}

// SAFETY: in a BPF program the compiler sees one thread (the target has no other), and the kernel
// defines what aligned plain loads and stores of map values do.
#[cfg(target_arch = "bpf")]
unsafe impl<T: Copy> Sync for Shared<T> {}

/// Buckets that limit events: in all, of peers, of rules. Each holds the time, in nanoseconds of the
/// monotonic clock, until which what was reported has used its rate up.
pub mod budget {
    use super::{Address, MAX_RULES};

    /// Of all events.
    pub const TOTAL: u32 = 0;
    /// Buckets of peers; peers of one hash share one.
    pub const PEERS: u32 = 1024;
    /// Buckets of reasons, for packets that no rule has judged.
    pub const REASONS: u32 = 32;
    /// Buckets of MAC addresses, for the same; those of one hash share one.
    pub const MACS: u32 = 256;
    const OF_UNPARSED: u32 = 1 + PEERS + MAX_RULES;
    /// How many there are.
    pub const COUNT: u32 = OF_UNPARSED + REASONS + MACS;

    /// Of a reason, for packets that no rule has judged.
    #[inline(always)]
    #[must_use]
    pub const fn of_reason(reason: u8) -> u32 {
        OF_UNPARSED + reason as u32 % REASONS
    }

    /// Of a MAC address, for packets that no rule has judged.
    #[inline(always)]
    #[must_use]
    pub const fn of_mac(mac: [u8; 6]) -> u32 {
        let [a, b, c, d, e, f] = mac;
        let mixed =
            u64::from_le_bytes([a, b, c, d, e, f, 0, 0]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        OF_UNPARSED + REASONS + (mixed >> 56) as u32 % MACS
    }

    /// Of a peer, by address.
    #[inline(always)]
    #[must_use]
    pub fn of_peer<A: Address>(address: &A) -> u32 {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.widen();
        let high = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let low = u64::from_le_bytes([i, j, k, l, m, n, o, p]);
        // Multiplicative hashing; the constant is 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4).
        let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        1 + (mixed >> 54) as u32 % PEERS
    }

    /// Of a rule.
    #[inline(always)]
    #[must_use]
    pub const fn of_rule(rule: u32) -> u32 {
        1 + PEERS + rule
    }
}

/// The classes of [`PAGE_KEYS`] keys in a row.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPage(pub [u16; PAGE_KEYS]);

/// The verdicts of one pair of classes; each is a [`Ruling`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixCell {
    /// What happens.
    pub enforced: Ruling,
    /// What would happen if all that is observed were enforced.
    pub staged: Ruling,
}

/// A rule's number and its effect in one word.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling(pub u32);

impl Ruling {
    const ALLOW: u32 = 1 << 31;
    const LOG: u32 = 1 << 30;
    const STRICT: u32 = 1 << 29;
    const RULE: u32 = Self::STRICT - 1;

    /// What stands for a rule where the tables have no answer: a deny, of no rule.
    pub const NO_ANSWER: Self = Self(Self::RULE);

    /// A rule below [`MAX_RULES`] with its effect.
    #[must_use]
    pub const fn new(rule: u32, allow: bool) -> Self {
        let allow = if allow { Self::ALLOW } else { 0 };
        Self(rule & Self::RULE | allow)
    }

    /// The same, with flows that it allows reported.
    #[must_use]
    pub const fn logged(self) -> Self {
        Self(self.0 | Self::LOG)
    }

    /// The same, of quarantine or anti-spoofing: a deny that is meant for every packet of its direction, so
    /// that no connection from before the agent is an exception.
    #[must_use]
    pub const fn strict(self) -> Self {
        Self(self.0 | Self::STRICT)
    }

    /// Whether no packet is excepted from a deny.
    #[inline(always)]
    #[must_use]
    pub const fn is_strict(self) -> bool {
        self.0 & Self::STRICT != 0
    }

    /// Whether the rule allows.
    #[inline(always)]
    #[must_use]
    pub const fn allows(self) -> bool {
        self.0 & Self::ALLOW != 0
    }

    /// Whether flows that it allows are reported.
    #[inline(always)]
    #[must_use]
    pub const fn logs(self) -> bool {
        self.0 & Self::LOG != 0
    }

    /// What there is of it in a deny, in its lower 30 bits.
    #[inline(always)]
    const fn of_deny(self) -> u32 {
        self.0 & (Self::STRICT | Self::RULE)
    }

    /// The rule's number in the generation's host policy.
    #[inline(always)]
    #[must_use]
    pub const fn rule(self) -> u32 {
        self.0 & Self::RULE
    }
}

/// Packets and bytes that a rule or a reason decided on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
}

/// What an [`Event`] tells.
pub mod event_kind {
    /// The packet was dropped.
    pub const DENIED: u8 = 0;
    /// The packet passed; the staged verdict would have dropped it.
    pub const STAGED: u8 = 1;
    /// The packet opened a flow that a rule with `log: true` allows.
    pub const LOGGED: u8 = 2;
    /// The packet was dropped before any rule could judge it.
    pub const UNPARSED: u8 = 3;
}

/// One report through the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// Packets that it stands for, at least 1.
    pub packets: u64,
    /// The tables that judged.
    pub generation: u32,
    /// The rule that decided; of the enforced verdict, or the staged one in a staged event.
    pub ruling: Ruling,
    /// The other end; IPv4 in the first four bytes.
    pub remote: [u8; 16],
    /// This end.
    pub local: [u8; 16],
    /// Host order.
    pub remote_port: u16,
    /// Host order.
    pub local_port: u16,
    /// IANA number.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Of the packet, as [`Direction::number`].
    pub direction: u8,
    /// [`crate::Reason`] as a number.
    pub reason: u8,
    /// One of [`event_kind`].
    pub kind: u8,
    /// 1 when the enforced verdict denies and the staged one would allow.
    pub staged_allows: u8,
    /// Host order; 0 where rules have judged.
    pub ether_type: u16,
    /// Events that this CPU could not hand over since the one before.
    pub lost: u32,
    /// The interface's index; 0 where rules have judged.
    pub interface: u32,
    /// The MAC address of the other end; zeros where rules have judged.
    pub mac: [u8; 6],
    /// Zero.
    pub padding: [u8; 2],
    /// Zero.
    pub zero: u32,
}

/// The slot of a generation: the maps hold two.
#[inline(always)]
#[must_use]
pub const fn slot_of(generation: u32) -> u32 {
    generation & 1
}

/// Where the page of a key stands in the map of port pages.
#[inline(always)]
#[must_use]
pub const fn page_index(generation: u32, direction: Direction, slot: u32, key: u16) -> u32 {
    ((slot_of(generation) * 2 + direction.number() as u32) * SLOTS + slot) * PAGES_PER_SLOT
        + (key >> 8) as u32
}

/// Where a peer's class stands.
#[inline(always)]
#[must_use]
pub const fn peer_index(generation: u32, peer: u32) -> u32 {
    slot_of(generation) * MAX_PEERS + peer
}

/// Where a cell stands; `offset` is peer class times port classes plus port class.
#[inline(always)]
#[must_use]
pub const fn cell_index(generation: u32, offset: u32) -> u32 {
    slot_of(generation) * MAX_CELLS + offset
}

/// Where a rule's counter stands.
#[inline(always)]
#[must_use]
pub const fn rule_index(generation: u32, rule: u32) -> u32 {
    slot_of(generation) * MAX_RULES + rule
}

// SAFETY: `repr(C)` or transparent over integers, without padding: the sizes are asserted below.
unsafe impl Layout for Settings {}
// SAFETY: as above.
unsafe impl Layout for PortPage {}
// SAFETY: as above.
unsafe impl Layout for MatrixCell {}
// SAFETY: as above.
unsafe impl Layout for Counter {}
// SAFETY: as above.
unsafe impl Layout for Event {}
// SAFETY: as above.
unsafe impl Layout for FlowKey<Ipv4> {}
// SAFETY: as above.
unsafe impl Layout for FlowKey<Ipv6> {}
// SAFETY: as above.
unsafe impl Layout for FragmentKey<Ipv4> {}
// SAFETY: as above.
unsafe impl Layout for FragmentKey<Ipv6> {}

const _: () = {
    assert!(size_of::<FlowKey<Ipv4>>() == 16);
    assert!(size_of::<FlowKey<Ipv6>>() == 40);
    assert!(offset_of!(FlowKey<Ipv6>, protocol) == 36);
    assert!(size_of::<Flow>() == 56);
    assert!(offset_of!(Flow, record) == 16);
    assert!(size_of::<DeniedFlow>() == 24);
    assert!(size_of::<FragmentKey<Ipv4>>() == 16);
    assert!(size_of::<FragmentKey<Ipv6>>() == 40);
    assert!(size_of::<FirstFragment>() == 16);
    assert!(size_of::<Settings>() == 120);
    assert!(offset_of!(Settings, digest) == 32);
    assert!(size_of::<PortPage>() == 512);
    assert!(size_of::<MatrixCell>() == 8);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Event>() == 88);
    assert!(size_of::<UnparsedKey>() == 16);
    assert!(size_of::<UnparsedSum>() == 16);
    assert!(offset_of!(Event, lost) == 68);
    assert!(offset_of!(Event, remote_port) == 56);
    assert!(offset_of!(Event, kind) == 64);
};
