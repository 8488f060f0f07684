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
    /// The tier and the rule that decided; `None`: the packet was dropped before any rule could judge it.
    #[serde(flatten)]
    pub rule: Option<DecidedBy>,
    /// The policy set that the rule is from.
    pub revision: Revision,
    /// The kernel tables that judged the packet.
    pub generation: u32,
    /// IANA protocol number; 0 without an IP header.
    pub protocol: u8,
    /// This host's end; `None` without an IP header that can be read.
    pub local_address: Option<IpAddr>,
    /// The other end; `None` without an IP header that can be read.
    pub peer_address: Option<IpAddr>,
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
    /// What is known of the frame, where no rule has judged it.
    #[serde(default)]
    pub frame: Option<Frame>,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedBy {
    /// Its tier.
    pub tier: Tier,
    /// Where it was written.
    pub origin: Arc<Origin>,
}

/// A frame that no rule could judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// What follows the VLAN tags.
    pub ether_type: u16,
    /// The MAC address of the other end.
    pub peer_mac: [u8; 6],
    /// The interface's name; empty when it has gone meanwhile.
    pub interface: String,
}

impl From<Denial> for v1::Denial {
    fn from(denial: Denial) -> Self {
        let Denial {
            time_ns,
            direction,
            reason,
            rule,
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
            frame,
        } = denial;
        let (tier, origin) = match rule {
            Some(DecidedBy { tier, origin }) => {
                (v1::Tier::from(tier), Some(origin.as_ref().into()))
            }
            None => (v1::Tier::Unspecified, None),
        };
        let frame = frame.map(|frame| v1::DroppedFrame {
            ether_type: frame.ether_type.into(),
            peer_mac: frame.peer_mac.to_vec(),
            interface: frame.interface,
        });
        Self {
            time_ns,
            direction: v1::Direction::from(direction).into(),
            reason,
            tier: tier.into(),
            origin,
            revision: revision.0,
            generation,
            protocol: protocol.into(),
            local_address: local_address.map(address_to_bytes).unwrap_or_default(),
            peer_address: peer_address.map(address_to_bytes).unwrap_or_default(),
            local_port: local_port.into(),
            peer_port: peer_port.into(),
            packets,
            staged,
            staged_allows,
            lost_before,
            frame,
        }
    }
}
