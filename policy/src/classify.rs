//! From ordered rules to equivalence classes: peers that no rule tells apart share a peer class,
//! keys that no rule tells apart share a port class, and one matrix cell holds the verdict of each
//! pair. This is recursive flow classification (Gupta and McKeown, 1999) with one reduction.

mod cost;
mod index;
mod matrix;
mod peers;
mod ports;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

pub use cost::Cost;

use crate::{
    classify::{matrix::Matrix, peers::Peers, ports::Ports},
    host_policy::{HostPolicy, RuleId},
    limits,
    service::{PortKey, PortSpan, ProtocolSlot},
    words::Direction,
};

/// Peers that every rule treats alike; dense from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerClass(pub u32);

/// Keys of one direction that every rule treats alike; dense from 0, both directions share the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortClass(pub u16);

/// The rules that decide one pair of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// The first rule that matches among those with [`crate::Mode::Enforce`].
    pub enforced: RuleId,
    /// The first rule that matches at all.
    pub staged: RuleId,
}

/// A run of keys with one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassSpan {
    /// The direction of the opening packet.
    pub direction: Direction,
    /// The protocol's table.
    pub slot: ProtocolSlot,
    /// The first key.
    pub first: u16,
    /// The last key, included.
    pub last: u16,
    /// Their class.
    pub class: PortClass,
}

/// A host policy as lookup tables.
///
/// The peer of an address is its exact entry in `addresses`, else its longest prefix in `subnets`,
/// else the world. The cell of a flow is `matrix[peer class * port_classes + port class]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// The class of an address that nothing below names.
    pub world: PeerClass,
    /// Exact addresses: the address book, and subnets of one address.
    pub addresses: BTreeMap<IpAddr, PeerClass>,
    /// Subnets of more than one address.
    pub subnets: BTreeMap<IpNet, PeerClass>,
    /// Covers every key of every slot in both directions, each once; sorted by direction, slot, first.
    pub ports: Vec<ClassSpan>,
    /// How many peer classes there are.
    pub peer_classes: u32,
    /// How many port classes there are: the stride of the matrix.
    pub port_classes: u32,
    /// Row by row, a row a peer class.
    pub matrix: Vec<Cell>,
}

/// Computes the tables of a host policy, which must be one that [`HostPolicy::check`] accepts.
///
/// # Errors
/// [`TooLarge`] names the table that would exceed its limit in [`crate::limits`].
pub fn classify(policy: &HostPolicy) -> Result<Classes, TooLarge> {
    TooLarge::check("rules", policy.rules.len(), limits::MAX_RULES)?;
    let peers = Peers::new(policy)?;
    let ports = Ports::new(policy);
    let matrix = Matrix::new(policy, &peers, &ports)?;
    let peer_class = |signature: u32| PeerClass(matrix.row_of[signature as usize]);
    let mut spans: Vec<ClassSpan> = Vec::with_capacity(ports.spans.len());
    for (direction, PortSpan { slot, first, last }, signature) in ports.spans {
        // There are at most `limits::MAX_PORT_CLASSES`.
        let class = PortClass(matrix.column_of[signature as usize] as u16);
        match spans.last_mut() {
            Some(before)
                if (before.direction, before.slot, before.class) == (direction, slot, class) =>
            {
                before.last = last;
            }
            _ => spans.push(ClassSpan {
                direction,
                slot,
                first,
                last,
                class,
            }),
        }
    }
    Ok(Classes {
        world: peer_class(0),
        addresses: peers
            .addresses
            .into_iter()
            .map(|(at, of)| (at, peer_class(of)))
            .collect(),
        subnets: peers
            .subnets
            .into_iter()
            .map(|(at, of)| (at, peer_class(of)))
            .collect(),
        ports: spans,
        peer_classes: matrix.rows as u32,
        port_classes: matrix.columns as u32,
        matrix: matrix.cells,
    })
}

impl Classes {
    /// The rules that decide a flow, seen from the judging host: three lookups, as in the kernel.
    #[must_use]
    pub fn decide(&self, direction: Direction, peer: IpAddr, port: PortKey) -> Cell {
        self.cell(self.peer(peer), self.port(direction, port))
    }

    /// The class of an address.
    #[must_use]
    pub fn peer(&self, address: IpAddr) -> PeerClass {
        let subnet = || {
            let longest = IpNet::from(address).max_prefix_len();
            (0..longest).rev().find_map(|length| {
                let subnet = IpNet::new(address, length).ok()?.trunc();
                self.subnets.get(&subnet)
            })
        };
        self.addresses
            .get(&address)
            .or_else(subnet)
            .copied()
            .unwrap_or(self.world)
    }

    /// The class of a key.
    ///
    /// # Panics
    /// If the key is not one of its slot: above 255 in [`ProtocolSlot::Other`].
    #[must_use]
    pub fn port(&self, direction: Direction, port: PortKey) -> PortClass {
        assert!(
            port.key <= port.slot.last_key(),
            "{port} is no key of its protocol"
        );
        let after = self.ports.partition_point(|span| {
            (span.direction, span.slot, span.first) <= (direction, port.slot, port.key)
        });
        self.ports[after - 1].class
    }

    /// One cell of the matrix.
    #[must_use]
    pub fn cell(&self, peer: PeerClass, port: PortClass) -> Cell {
        self.matrix[peer.0 as usize * self.port_classes as usize + usize::from(port.0)]
    }
}

/// How large a host policy's tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rules, both directions.
    pub rules: usize,
    /// Exact addresses and subnets.
    pub peers: usize,
    /// Peer classes: rows of the matrix.
    pub peer_classes: usize,
    /// Port classes: columns of the matrix.
    pub port_classes: usize,
    /// Rows times columns.
    pub cells: usize,
}

/// Checks that a host policy fits the kernel maps of every agent beside the rules that a host adds
/// on its own account, and says how large it is.
///
/// # Errors
/// As [`classify`], with the limits less the hosts' share, and with the rules that cost most.
pub fn check_fit(policy: &HostPolicy) -> Result<Size, TooLarge> {
    fit(policy).map_err(|error| error.blame(policy))
}

fn fit(policy: &HostPolicy) -> Result<Size, TooLarge> {
    let classes = classify(policy)?;
    let size = Size {
        rules: policy.rules.len(),
        peers: classes.addresses.len() + classes.subnets.len(),
        peer_classes: classes.peer_classes as usize,
        port_classes: classes.port_classes as usize,
        cells: classes.matrix.len(),
    };
    for (what, needed, limit) in [
        ("rules", size.rules, limits::MAX_RULES - limits::HOST_RULES),
        ("peers", size.peers, limits::MAX_PEERS - limits::HOST_PEERS),
        (
            "port classes",
            size.port_classes,
            limits::MAX_PORT_CLASSES - limits::HOST_PORT_CLASSES,
        ),
        (
            "matrix cells with each host's own rules",
            limits::cells_with_host_rules(size.peer_classes, size.port_classes),
            limits::MAX_CELLS,
        ),
    ] {
        TooLarge::check(what, needed, limit)?;
    }
    Ok(size)
}

/// A host policy that no host's kernel maps would hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {needed} needed, {limit} is the most{}", listed(costliest))]
pub struct TooLarge {
    /// Which table, in words: `rules`, `peers`, `port classes`, `matrix cells`, ...
    pub what: &'static str,
    /// How many entries the policy needs.
    pub needed: usize,
    /// How many there may be.
    pub limit: usize,
    /// The written rules that add most, the costliest first; only [`check_fit`] looks for them.
    pub costliest: Vec<Cost>,
}

fn listed(costs: &[Cost]) -> String {
    let costs: Vec<String> = costs.iter().map(ToString::to_string).collect();
    match costs.as_slice() {
        [] => String::new(),
        costs => format!("; the rules that cost most: {}", costs.join(", ")),
    }
}

impl TooLarge {
    fn check(what: &'static str, needed: usize, limit: usize) -> Result<(), Self> {
        if needed > limit {
            Err(Self {
                what,
                needed,
                limit,
                costliest: Vec::new(),
            })
        } else {
            Ok(())
        }
    }
}
