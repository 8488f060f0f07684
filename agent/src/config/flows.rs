//! How long flows are remembered, how many there is room for, and how many denials are reported.

use std::time::Duration;

use datapath::layout::{EventLimits, Timeouts as Seconds};
use serde::{Deserialize, Serialize};

use super::values::{FlowSlots, Percent, Rate, TimeoutSeconds};

/// Sizes of kernel maps.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Maps {
    /// Flows remembered at once, for each address family; left out: as many as `memory_percent` holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<FlowSlots>,
    /// The part of the host's memory that the flow tables may take.
    pub memory_percent: Percent,
    /// The least and the most that `memory_percent` makes.
    pub flows_min: FlowSlots,
    /// See `flows_min`.
    pub flows_max: FlowSlots,
}

/// Bytes that an entry of either family takes at most in the kernel: key, value, and 64 bytes of the
/// table's own (`struct htab_elem` with its LRU node, and its bucket).
const ENTRY_BYTES: u64 = 40 + 56 + 64;

impl Maps {
    /// Entries of each flow table on a host with this many bytes of memory.
    #[must_use]
    pub fn flow_slots(&self, memory: u64) -> u32 {
        if let Some(flows) = self.flows {
            return flows.number();
        }
        let room = memory / 100 * u64::from(self.memory_percent.number());
        // Two tables, one a family.
        let slots = u32::try_from(room / (2 * ENTRY_BYTES)).unwrap_or(u32::MAX);
        // A power of two, so that hosts that are nearly alike have the same.
        let slots = 1 << slots.max(1).ilog2();
        let (least, most) = (self.flows_min.number(), self.flows_max.number());
        slots.clamp(least, most.max(least))
    }
}

impl Default for Maps {
    fn default() -> Self {
        Self {
            flows: None,
            memory_percent: Percent::ONE,
            flows_min: FlowSlots::LEAST_OF_MEMORY,
            flows_max: FlowSlots::MOST_OF_MEMORY,
        }
    }
}

/// Seconds after its last packet that a flow is remembered, by protocol and state.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// TCP: the other end has not answered.
    pub tcp_new: TimeoutSeconds,
    /// TCP: both ends have spoken.
    pub tcp_established: TimeoutSeconds,
    /// TCP: a FIN or RST was seen.
    pub tcp_closing: TimeoutSeconds,
    /// UDP: one end has spoken.
    pub udp_new: TimeoutSeconds,
    /// UDP: both have.
    pub udp_established: TimeoutSeconds,
    /// SCTP: one end has spoken.
    pub sctp_new: TimeoutSeconds,
    /// SCTP: both have.
    pub sctp_established: TimeoutSeconds,
    /// ICMP and ICMPv6.
    pub icmp: TimeoutSeconds,
    /// Every other protocol.
    pub other: TimeoutSeconds,
}

impl Timeouts {
    /// As the kernel programs read them.
    #[must_use]
    pub fn seconds(&self) -> Seconds {
        Seconds {
            tcp_new: self.tcp_new.number(),
            tcp_established: self.tcp_established.number(),
            tcp_closing: self.tcp_closing.number(),
            udp_new: self.udp_new.number(),
            udp_established: self.udp_established.number(),
            sctp_new: self.sctp_new.number(),
            sctp_established: self.sctp_established.number(),
            icmp: self.icmp.number(),
            other: self.other.number(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = TimeoutSeconds::of_datapath;
        Self {
            tcp_new: seconds(Seconds::DEFAULT.tcp_new),
            tcp_established: seconds(Seconds::DEFAULT.tcp_established),
            tcp_closing: seconds(Seconds::DEFAULT.tcp_closing),
            udp_new: seconds(Seconds::DEFAULT.udp_new),
            udp_established: seconds(Seconds::DEFAULT.udp_established),
            sctp_new: seconds(Seconds::DEFAULT.sctp_new),
            sctp_established: seconds(Seconds::DEFAULT.sctp_established),
            icmp: seconds(Seconds::DEFAULT.icmp),
            other: seconds(Seconds::DEFAULT.other),
        }
    }
}

/// Denials that are reported in a second, in the long run; a second's worth may come at once. Of
/// those beyond, packets are counted and summed, and the events that are left out too.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// In all. A quarter is kept for peers that have not been reported for a while.
    pub per_second: Rate,
    /// Of one peer.
    pub per_peer: Rate,
    /// Of one rule.
    pub per_rule: Rate,
}

impl Events {
    /// As the kernel programs read them.
    #[must_use]
    pub fn limits(&self) -> EventLimits {
        EventLimits {
            total: self.per_second.interval_ns(),
            peer: self.per_peer.interval_ns(),
            rule: self.per_rule.interval_ns(),
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        let rate = Rate::of_interval;
        Self {
            per_second: rate(EventLimits::DEFAULT.total),
            per_peer: rate(EventLimits::DEFAULT.peer),
            per_rule: rate(EventLimits::DEFAULT.rule),
        }
    }
}

/// What the kernel programs do beside what policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Behaviour {
    /// How long flows are remembered.
    pub timeouts: Seconds,
    /// How often denials are reported.
    pub limits: EventLimits,
    /// How long a host that was just installed learns its flows before it takes a policy.
    pub warm_start: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            timeouts: Seconds::DEFAULT,
            limits: EventLimits::DEFAULT,
            warm_start: Duration::ZERO,
        }
    }
}
