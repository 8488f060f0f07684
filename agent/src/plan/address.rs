//! One address that comes or goes, in the tables as they are: a class is written, not all of them.
//!
//! The tables stay where they are and get the next number but one, which is of the same slot. So every
//! flow is judged again, and what the change revokes is cut.

use std::net::IpAddr;

use datapath::layout::{Settings, WORLD};
use ipnet::IpNet;

use crate::plan::{Observed, Operation, Stamp, enclosing};

/// What happens to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressChange {
    /// It is treated like another from now on, which has the same identity.
    Comes {
        /// The address.
        address: IpAddr,
        /// The other one.
        like: IpAddr,
    },
    /// Only the subnets around it count from now on.
    Goes {
        /// The address.
        address: IpAddr,
    },
}

/// The way to tables with one address more or less. `settings` are the live ones. No rule may name either
/// address by itself. None: it takes a whole plan.
///
/// One that goes keeps its number, with the class of what is around it, until the next whole plan.
/// So no number changes its prefix, and nothing needs to settle.
#[must_use]
pub fn change_address(
    observed: &Observed,
    change: AddressChange,
    settings: &Settings,
    stamp: &Stamp,
) -> Option<Vec<Operation>> {
    let generation = observed.generation.checked_add(2)?;
    let around = |address: IpAddr| {
        let prefix = IpNet::from(address);
        enclosing(&observed.peers, &prefix).unwrap_or(WORLD)
    };
    let (address, class) = match change {
        AddressChange::Comes { address, like } => {
            let like_number = observed.peers.get(&IpNet::from(like))?;
            if around(address) != around(like) {
                return None;
            }
            (address, observed.classes.get(like_number)?)
        }
        AddressChange::Goes { address } => (address, observed.classes.get(&around(address))?),
    };
    let prefix = IpNet::from(address);
    let mut operations = Vec::with_capacity(4);
    let set = |peer| Operation::SetPeerClass {
        generation,
        peer,
        class: *class,
    };
    match observed.peers.get(&prefix) {
        Some(number) => operations.push(set(*number)),
        None => {
            let number = observed.peers.values().max().copied().unwrap_or(WORLD) + 1;
            if number >= datapath::layout::MAX_PEERS {
                return None;
            }
            operations.push(set(number));
            operations.push(Operation::InsertPeer {
                prefix,
                peer: number,
            });
        }
    }
    operations.push(Operation::Flip { generation });
    // After the flip: an agent that dies in between finds a policy that is not this one, and applies it.
    operations.push(Operation::WriteSettings(Settings {
        revision: stamp.revision,
        generation,
        digest: stamp.digest,
        ..*settings
    }));
    Some(operations)
}

impl Observed {
    /// What the maps hold once a change of an address was executed.
    pub fn change_address(&mut self, operations: &[Operation]) {
        for operation in operations {
            match operation {
                Operation::SetPeerClass { peer, class, .. } => {
                    self.classes.insert(*peer, *class);
                }
                Operation::InsertPeer { prefix, peer } => {
                    self.peers.insert(*prefix, *peer);
                }
                Operation::Flip { generation } => self.generation = *generation,
                _ => {}
            }
        }
    }
}
