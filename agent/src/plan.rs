//! From what the kernel holds and what it shall hold to the operations between. Pure.
//!
//! Peer numbers outlive generations. A peer that is new gets, in the live generation, the class of
//! the peer that its addresses had until now, before it is inserted; one that goes away gets, in the
//! next generation, the class of the peer that its addresses will have, and is removed after the
//! flip. So at every step each address has one class in each generation, and the flip is the only
//! moment at which a verdict changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::discriminant,
};

use datapath::layout::{
    EventLimits, MAX_CELLS, MAX_PEERS, MAX_RULES, MatrixCell, PAGES, PortPage, Settings, Timeouts,
    WORLD, settings_flag, slot_of,
};
use ipnet::IpNet;

use crate::lower::Tables;

pub use self::address::{AddressChange, NO_DIGEST, change_address};

// What the controller lets through fits; see `policy::limits`.
const _: () = {
    assert!(MAX_CELLS as usize >= policy::limits::MAX_CELLS);
    assert!(MAX_RULES as usize >= policy::limits::MAX_RULES);
    // The old policy's peers and the new one's are in the maps at once.
    assert!(MAX_PEERS as usize > 2 * policy::limits::MAX_PEERS);
};

/// What the kernel maps hold now, as far as a plan needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The live generation; 0 is none.
    pub generation: u32,
    /// The number of every peer in the maps.
    pub peers: BTreeMap<IpNet, u32>,
    /// The class of every peer number, the world's included, in the live generation.
    pub classes: BTreeMap<u32, u32>,
}

impl Observed {
    /// What the maps hold once all of a plan was executed.
    #[must_use]
    pub fn after(mut self, operations: &[Operation]) -> Self {
        let before = self.generation;
        for operation in operations {
            match operation {
                // Those of the next generation: all that there are, or those that change.
                Operation::SetPeerClass {
                    generation,
                    peer,
                    class,
                } if *generation != before => {
                    self.classes.insert(*peer, *class);
                }
                Operation::InsertPeer { prefix, peer } => {
                    self.peers.insert(*prefix, *peer);
                }
                Operation::RemovePeer { prefix } => {
                    if let Some(peer) = self.peers.remove(prefix) {
                        self.classes.remove(&peer);
                    }
                }
                Operation::Flip { generation } => self.generation = *generation,
                _ => {}
            }
        }
        self
    }
}

/// What holds for a generation beside its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The policy set's revision.
    pub revision: u64,
    /// SHA-256 of the encoded host policy.
    pub digest: [u8; 32],
    /// What the tables come from beside the policy: the host's own rules, and what has ended.
    pub local: u64,
    /// Nanoseconds between two reports of one denied flow.
    pub report_interval: u64,
    /// How long flows are remembered.
    pub timeouts: Timeouts,
    /// How often denials are reported.
    pub limits: EventLimits,
    /// Whether there may be flows from before the agent.
    pub learn: bool,
    /// One of [`datapath::layout::other_ether_types`].
    pub other_ether_types: u32,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes the class of a peer number in a generation.
    SetPeerClass {
        /// Of this generation's tables.
        generation: u32,
        /// The number.
        peer: u32,
        /// Its class.
        class: u32,
    },
    /// Gives a prefix its number.
    InsertPeer {
        /// Host-length prefixes are exact addresses.
        prefix: IpNet,
        /// The number.
        peer: u32,
    },
    /// Forgets a prefix.
    RemovePeer {
        /// Host-length prefixes are exact addresses.
        prefix: IpNet,
    },
    /// Writes one page of port classes.
    WritePage {
        /// The index in the map.
        index: u32,
        /// The page.
        page: Box<PortPage>,
    },
    /// Writes one cell.
    WriteCell {
        /// The index in the map.
        index: u32,
        /// The cell.
        cell: MatrixCell,
    },
    /// Writes what else holds for a generation.
    WriteSettings(Settings),
    /// Zeroes the counters of a generation's rules.
    ZeroRuleCounters {
        /// The generation that is being filled.
        generation: u32,
        /// Its rules are numbered from 0 to one below this.
        rules: u32,
    },
    /// Makes a generation the live one.
    Flip {
        /// Its number.
        generation: u32,
    },
    /// Waits until no packet is judged by what was there before.
    Settle,
}

impl Operation {
    /// What it does, in words.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SetPeerClass { .. } => "setting the class of a peer",
            Self::InsertPeer { .. } => "inserting a peer",
            Self::RemovePeer { .. } => "removing a peer",
            Self::WritePage { .. } => "writing a page of ports",
            Self::WriteCell { .. } => "writing a cell",
            Self::WriteSettings(_) => "writing the settings",
            Self::ZeroRuleCounters { .. } => "zeroing counters",
            Self::Flip { .. } => "flipping",
            Self::Settle => "settling",
        }
    }
}

/// A plan that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {needed} needed, the kernel maps hold {limit}")]
pub struct NoRoom {
    /// Which table.
    what: &'static str,
    needed: usize,
    limit: usize,
}

/// The generation after this one; never 0, and never in the same slot.
#[must_use]
pub fn following(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(2)
}

/// Plans the way from `observed` to a new generation that holds `desired`.
///
/// # Errors
/// [`NoRoom`] when the tables of both generations together would not fit.
pub fn plan(
    observed: &Observed,
    desired: &Tables,
    stamp: &Stamp,
) -> Result<Vec<Operation>, NoRoom> {
    fits("matrix cells", desired.matrix.len(), MAX_CELLS as usize)?;
    let live = observed.generation;
    let next = following(live);
    // A packet may still read the slot that was live until a moment ago, and is filled now; and it may hold
    // the number of a peer that the plan before has removed, and that this one gives to another prefix.
    let mut operations = vec![Operation::Settle];

    let mut numbers = Numbers::new(observed);
    let mut peers = BTreeMap::new();
    for prefix in desired.peers.keys() {
        let number = match observed.peers.get(prefix) {
            Some(number) => *number,
            None => {
                let number = numbers.take()?;
                if live != 0 {
                    let class = class_in_force(observed, prefix);
                    operations.push(Operation::SetPeerClass {
                        generation: live,
                        peer: number,
                        class,
                    });
                }
                operations.push(Operation::InsertPeer {
                    prefix: *prefix,
                    peer: number,
                });
                number
            }
        };
        peers.insert(*prefix, number);
    }
    let stale: Vec<(IpNet, u32)> = observed
        .peers
        .iter()
        .filter(|(prefix, _)| !desired.peers.contains_key(prefix))
        .map(|(prefix, number)| (*prefix, *number))
        .collect();

    let set = |peer, class| Operation::SetPeerClass {
        generation: next,
        peer,
        class,
    };
    operations.push(set(WORLD, desired.world));
    operations.extend(
        desired
            .peers
            .iter()
            .map(|(prefix, class)| set(peers[prefix], *class)),
    );
    operations.extend(stale.iter().map(|(prefix, number)| {
        let class = enclosing(&desired.peers, prefix).unwrap_or(desired.world);
        set(*number, class)
    }));
    let first_page = slot_of(next) * PAGES;
    operations.extend((first_page..).zip(&desired.pages).map(|(index, page)| {
        Operation::WritePage {
            index,
            page: Box::new(*page),
        }
    }));
    let first_cell = slot_of(next) * MAX_CELLS;
    operations.extend(
        (first_cell..)
            .zip(&desired.matrix)
            .map(|(index, cell)| Operation::WriteCell { index, cell: *cell }),
    );
    operations.push(Operation::WriteSettings(Settings {
        revision: stamp.revision,
        report_interval: stamp.report_interval,
        local: stamp.local,
        generation: next,
        port_classes: desired.port_classes,
        digest: stamp.digest,
        timeouts: stamp.timeouts,
        limits: stamp.limits,
        flags: if stamp.learn { settings_flag::LEARN } else { 0 },
        other_ether_types: stamp.other_ether_types,
    }));
    operations.push(Operation::ZeroRuleCounters {
        generation: next,
        rules: desired.rules,
    });
    operations.push(Operation::Flip { generation: next });
    if !stale.is_empty() {
        operations.push(Operation::Settle);
    }
    operations.extend(
        stale
            .iter()
            .map(|(prefix, _)| Operation::RemovePeer { prefix: *prefix }),
    );
    Ok(operations)
}

/// Operations of one kind that follow each other, to be executed at once.
pub fn runs(operations: &[Operation]) -> impl Iterator<Item = &[Operation]> {
    operations.chunk_by(|one, next| discriminant(one) == discriminant(next))
}

fn fits(what: &'static str, needed: usize, limit: usize) -> Result<(), NoRoom> {
    if needed > limit {
        Err(NoRoom {
            what,
            needed,
            limit,
        })
    } else {
        Ok(())
    }
}

/// The class that the addresses of a prefix have in the live generation, before it is inserted.
fn class_in_force(observed: &Observed, prefix: &IpNet) -> u32 {
    let peer = enclosing(&observed.peers, prefix).unwrap_or(WORLD);
    observed.classes.get(&peer).copied().unwrap_or_default()
}

/// The value of the longest prefix that holds this one and is not it.
fn enclosing(peers: &BTreeMap<IpNet, u32>, prefix: &IpNet) -> Option<u32> {
    let mut wider = prefix.supernet();
    while let Some(candidate) = wider {
        if let Some(value) = peers.get(&candidate) {
            return Some(*value);
        }
        wider = candidate.supernet();
    }
    None
}

/// Peer numbers that no prefix has.
struct Numbers {
    used: BTreeSet<u32>,
    candidate: u32,
}

impl Numbers {
    fn new(observed: &Observed) -> Self {
        Self {
            used: observed.peers.values().copied().collect(),
            candidate: WORLD,
        }
    }

    fn take(&mut self) -> Result<u32, NoRoom> {
        loop {
            self.candidate += 1;
            fits("peers", self.candidate as usize, MAX_PEERS as usize - 1)?;
            if !self.used.contains(&self.candidate) {
                return Ok(self.candidate);
            }
        }
    }
}

mod address;
#[cfg(test)]
pub mod memory;
#[cfg(test)]
pub mod tests;
