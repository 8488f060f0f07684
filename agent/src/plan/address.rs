//! One address that comes or goes, in the tables as they are: a class is written, not all of them.
//!
//! The tables stay where they are and get the next number but one, which is of the same slot. So every
//! flow is judged again, and what the change revokes is cut. New flows are judged by the change from its first
//! write on: while it is made, the tables carry the digest of no policy, so that an agent that dies in between
//! does not take them for those of the policy before.

use std::net::IpAddr;

use datapath::layout::{MAX_PEERS, Settings, WORLD};
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

/// The digest of tables between two policies.
pub const NO_DIGEST: [u8; 32] = [0; 32];

/// The way to tables with one address more or less. `settings` are the live ones. No rule may name either
/// address by itself. None: it takes a whole plan.
///
/// One that goes keeps its number, with the class of what is around it, until the next whole plan. One that
/// comes gets `unused`, a number that no prefix has had since the last whole plan settled. So nothing needs
/// to settle.
#[must_use]
pub fn change_address(
    observed: &Observed,
    change: AddressChange,
    settings: &Settings,
    stamp: &Stamp,
    unused: u32,
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
    let mut operations = vec![Operation::WriteSettings(Settings {
        digest: NO_DIGEST,
        ..*settings
    })];
    let set = |peer| Operation::SetPeerClass {
        generation,
        peer,
        class: *class,
    };
    match observed.peers.get(&prefix) {
        Some(number) => operations.push(set(*number)),
        None => {
            // Room for all of another policy beside them, as a whole plan needs it.
            if unused >= MAX_PEERS || observed.peers.len() >= policy::limits::MAX_PEERS {
                return None;
            }
            operations.push(set(unused));
            operations.push(Operation::InsertPeer {
                prefix,
                peer: unused,
            });
        }
    }
    operations.push(Operation::Flip { generation });
    operations.push(Operation::WriteSettings(Settings {
        revision: stamp.revision,
        generation,
        digest: stamp.digest,
        ..*settings
    }));
    Some(operations)
}
