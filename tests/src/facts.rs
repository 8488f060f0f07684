//! What the operator's tool prints with `-o json`, as far as scenarios look at it.

use std::net::IpAddr;

use serde::Deserialize;

/// A line of `bulkhead hosts`.
#[derive(Clone, Debug, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// The addresses that count as its own.
    pub addresses: Vec<IpAddr>,
    /// Addresses that it claims and that are not believed.
    pub refused_addresses: Vec<IpAddr>,
    /// Whether its agent is connected.
    pub connected: bool,
    /// Whether it enforces the newest that was compiled for it.
    pub in_sync: bool,
    /// The revision that it enforces.
    pub applied_revision: u64,
    /// Why it does not enforce the newest.
    pub refusal: Option<String>,
    /// Whether it is in quarantine.
    pub quarantined: bool,
    /// Denial events lost on the way.
    pub denials_lost: u64,
}

/// A line of `bulkhead denials`.
#[derive(Clone, Debug, Deserialize)]
pub struct Denial {
    /// The host that denied.
    pub host: String,
    /// `ingress` or `egress`, of the packet that was dropped.
    pub direction: String,
    /// The name of the other end; none where no host holds the address.
    pub peer: Option<String>,
    /// The address of the other end; unspecified without an IP header.
    #[serde(default = "nobody")]
    pub peer_address: IpAddr,
    /// 0 for protocols without ports.
    pub peer_port: u16,
    /// The host's own address; unspecified without an IP header.
    #[serde(default = "nobody")]
    pub local_address: IpAddr,
    /// 0 for protocols without ports.
    pub local_port: u16,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, ...; empty without an IP header.
    #[serde(default)]
    pub protocol: String,
    /// Packets that it stands for.
    pub packets: u64,
    /// `policy`, `revoked`, ...
    pub reason: String,
    /// The packet passed; only the staged verdict denies.
    pub staged: bool,
    /// The layer of the rule; empty where no rule has judged.
    #[serde(default)]
    pub tier: String,
    /// The rule's name; empty where no rule has judged.
    #[serde(default)]
    pub rule: String,
    /// The file that wrote it; empty for none.
    #[serde(default)]
    pub file: String,
    /// The line there, from 1; 0 for none.
    #[serde(default)]
    pub line: u32,
    /// What the frame carries, where no rule has judged it.
    pub ether_type: Option<String>,
    /// The other end's, where no rule has judged it.
    pub peer_mac: Option<String>,
    /// Where it passed, where no rule has judged it.
    pub interface: Option<String>,
    /// The policy set.
    pub revision: u64,
}

fn nobody() -> IpAddr {
    IpAddr::from([0, 0, 0, 0])
}

/// The answer of `bulkhead policy apply`, `quarantine` and `release`: who has confirmed.
#[derive(Clone, Debug, Deserialize)]
pub struct Rollout {
    /// Hosts that enforce it.
    pub confirmed: Vec<String>,
    /// Hosts that are not connected.
    pub away: Vec<String>,
    /// The new revision, of an apply.
    #[serde(default)]
    pub revision: u64,
}
