//! A denied flow as the agent reports it.

use std::{net::IpAddr, sync::Arc};

use policy::{Direction, Origin, Revision, Tier};
use proto::{convert::address_to_bytes, v1};
use serde::{Deserialize, Serialize};

/// One denied flow, or one that only the staged verdict denies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// When the reported packet was dropped: nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// The direction of the packet that was dropped.
    pub direction: Direction,
    /// The datapath's word: `policy`, `revoked`, `malformed`, ...
    pub reason: String,
    /// The tier of the rule that decided.
    pub tier: Tier,
    /// The rule that decided.
    pub origin: Arc<Origin>,
    /// The policy set that the rule is from.
    pub revision: Revision,
    /// The kernel tables that judged the packet.
    pub generation: u32,
    /// IANA protocol number.
    pub protocol: u8,
    /// This host's end.
    pub local_address: IpAddr,
    /// The other end.
    pub peer_address: IpAddr,
    /// 0 for protocols without ports.
    pub local_port: u16,
    /// 0 for protocols without ports.
    pub peer_port: u16,
    /// Packets that this report stands for, at least 1.
    pub packets: u64,
    /// True when only the staged verdict denies: the packet passed.
    pub staged: bool,
    /// True when only the enforced verdict denies: what is observed would let the packet pass.
    #[serde(default)]
    pub staged_allows: bool,
    /// Events that the kernel left out before this one, on the CPU that reported it.
    #[serde(default)]
    pub lost_before: u32,
}

impl From<Denial> for v1::Denial {
    fn from(denial: Denial) -> Self {
        let Denial {
            time_ns,
            direction,
            reason,
            tier,
            origin,
            revision,
            generation,
            protocol,
            local_address,
            peer_address,
            local_port,
            peer_port,
            packets,
            staged,
            staged_allows,
            lost_before,
        } = denial;
        Self {
            time_ns,
            direction: v1::Direction::from(direction).into(),
            reason,
            tier: v1::Tier::from(tier).into(),
            origin: Some(origin.as_ref().into()),
            revision: revision.0,
            generation,
            protocol: protocol.into(),
            local_address: address_to_bytes(local_address),
            peer_address: address_to_bytes(peer_address),
            local_port: local_port.into(),
            peer_port: peer_port.into(),
            packets,
            staged,
            staged_allows,
            lost_before,
        }
    }
}
