//! A frame that no rule could judge.

use anyhow::{Context, Result, bail};
use proto::v1;
use serde::Serialize;

/// What is known of it.
#[derive(Debug, Serialize)]
pub struct Frame {
    /// Such as `0x8847`.
    ether_type: String,
    /// What is usually meant by it; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    ether_type_name: Option<&'static str>,
    /// The other end's.
    pub peer_mac: String,
    /// Empty when it had gone before the event was read.
    pub interface: String,
}

impl Frame {
    /// What it carries, for people.
    pub fn carries(&self) -> String {
        let number = &self.ether_type;
        self.ether_type_name
            .map_or_else(|| number.clone(), |name| format!("{number} ({name})"))
    }
}

impl TryFrom<v1::DroppedFrame> for Frame {
    type Error = anyhow::Error;

    fn try_from(frame: v1::DroppedFrame) -> Result<Self> {
        let v1::DroppedFrame {
            ether_type,
            peer_mac,
            interface,
        } = frame;
        let ether_type =
            u16::try_from(ether_type).context("the EtherType of a denial is above 65535")?;
        let [a, b, c, d, e, f] = peer_mac[..] else {
            bail!("the MAC address of a denial does not have six bytes");
        };
        Ok(Self {
            ether_type: format!("{ether_type:#06x}"),
            ether_type_name: name(ether_type),
            peer_mac: format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
            interface,
        })
    }
}

/// IEEE 802 Numbers (IANA), as far as networks of hosts have them.
const fn name(ether_type: u16) -> Option<&'static str> {
    Some(match ether_type {
        ..1536 => "802.3 LLC",
        0x0800 => "IPv4",
        0x0806 => "ARP",
        0x0842 => "Wake-on-LAN",
        0x22f0 => "AVTP",
        0x6558 => "Ethernet bridging",
        0x8035 => "RARP",
        0x8100 => "VLAN tag",
        0x8137 => "IPX",
        0x86dd => "IPv6",
        0x8847 => "MPLS",
        0x8848 => "MPLS multicast",
        0x8863 => "PPPoE discovery",
        0x8864 => "PPPoE",
        0x8892 => "PROFINET",
        0x889a => "HyperSCSI",
        0x88a2 => "ATA over Ethernet",
        0x88a4 => "EtherCAT",
        0x88a8 => "service VLAN tag",
        0x88b5 | 0x88b6 => "local experiment",
        0x88b8 => "GOOSE",
        0x88c7 => "802.11i pre-authentication",
        0x88ca => "TIPC",
        0x88cc => "LLDP",
        0x88e5 => "MACsec",
        0x88f7 => "PTP",
        0x88fb => "PRP",
        0x8906 => "FCoE",
        0x890d => "802.11 TDLS",
        0x8914 => "FCoE initialization",
        0x8915 => "RoCE",
        0x892f => "HSR",
        0x9000 => "configuration testing",
        _ => return None,
    })
}
