//! What holds for one generation beside its tables.

use crate::{headers::protocol, layout::flow_state};

const SECOND: u64 = 1_000_000_000;

/// What holds for one generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The policy set, for `status`; the kernel does not read it.
    pub revision: u64,
    /// A denied flow is reported at most once in this many nanoseconds.
    pub report_interval: u64,
    /// A fingerprint of the host's own rules; the kernel does not read it.
    pub local: u64,
    /// The generation that this slot was filled for.
    pub generation: u32,
    /// The stride of the matrix.
    pub port_classes: u32,
    /// SHA-256 of the encoded host policy; the kernel does not read it.
    pub digest: [u8; 32],
    /// How long flows are remembered.
    pub timeouts: Timeouts,
    /// How often denials are reported.
    pub limits: EventLimits,
    /// Bits of [`settings_flag`].
    pub flags: u32,
    /// What becomes of packets that are neither IP nor ARP: one of [`other_ether_types`].
    pub other_ether_types: u32,
}

/// What becomes of packets that are neither IP nor ARP.
pub mod other_ether_types {
    /// They are dropped, and counted.
    pub const DROP: u32 = 0;
    /// They pass, and are counted.
    pub const PASS: u32 = 1;
}

/// Bits of [`Settings::flags`].
pub mod settings_flag {
    /// The host may have flows from before the agent: who sends the first packet that is seen need not
    /// be who opened one.
    pub const LEARN: u32 = 1;
}

impl Settings {
    /// Whether the host may have flows from before the agent.
    #[inline(always)]
    #[must_use]
    pub const fn learns(&self) -> bool {
        self.flags & settings_flag::LEARN != 0
    }
}

/// How long after its last packet a flow stays what it was, in seconds. A TCP connection is then
/// judged again; other flows are forgotten.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// TCP: the other end has not answered.
    pub tcp_new: u32,
    /// TCP: both ends have spoken.
    pub tcp_established: u32,
    /// TCP: a FIN or RST was seen.
    pub tcp_closing: u32,
    /// UDP: one end has spoken.
    pub udp_new: u32,
    /// UDP: both have.
    pub udp_established: u32,
    /// SCTP: one end has spoken.
    pub sctp_new: u32,
    /// SCTP: both have.
    pub sctp_established: u32,
    /// ICMP and ICMPv6.
    pub icmp: u32,
    /// Every other protocol.
    pub other: u32,
}

impl Timeouts {
    /// Those that hold where nothing else is set. RFC 5382 asks for at least 2 h 4 min of an
    /// established TCP connection and 4 min of others, RFC 4787 for at least 2 min of UDP.
    pub const DEFAULT: Self = Self {
        tcp_new: 60,
        tcp_established: 6 * 3600,
        tcp_closing: 120,
        udp_new: 30,
        udp_established: 180,
        sctp_new: 60,
        sctp_established: 3600,
        icmp: 30,
        other: 600,
    };

    /// In nanoseconds, of a flow in one of the states of [`flow_state`].
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, number: u8, state: u8) -> u64 {
        let seconds = match (number, state) {
            (protocol::TCP, flow_state::NEW) => self.tcp_new,
            (protocol::TCP, flow_state::CLOSING) => self.tcp_closing,
            (protocol::TCP, _) => self.tcp_established,
            (protocol::UDP, flow_state::NEW) => self.udp_new,
            (protocol::UDP, _) => self.udp_established,
            (protocol::SCTP, flow_state::NEW) => self.sctp_new,
            (protocol::SCTP, _) => self.sctp_established,
            (protocol::ICMP | protocol::ICMPV6, _) => self.icmp,
            (_, _) => self.other,
        };
        seconds as u64 * SECOND
    }
}

/// How often denials are reported: nanoseconds between two events in the long run. A second's worth
/// may come at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventLimits {
    /// Of all.
    pub total: u32,
    /// Of one peer.
    pub peer: u32,
    /// Of one rule.
    pub rule: u32,
}

impl EventLimits {
    /// Every event is reported.
    pub const NONE: Self = Self {
        total: 0,
        peer: 0,
        rule: 0,
    };

    /// 5,000 a second in all, 500 of one peer, 2,500 of one rule.
    pub const DEFAULT: Self = Self {
        total: 200_000,
        peer: 2_000_000,
        rule: 400_000,
    };
}
