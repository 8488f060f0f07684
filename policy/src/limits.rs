//! How large a host policy may be: what every agent's kernel maps are guaranteed to hold.
//!
//! The controller refuses what would not fit before any host sees it; the agent asserts at compile
//! time that its maps are at least this large. The `HOST_` limits are the share of them that the
//! controller leaves to the host's own rules.

/// Rules of one host policy, both directions.
pub const MAX_RULES: usize = 16_384;
/// Exact addresses (address book and /32 or /128 subnets) and subnets together.
pub const MAX_PEERS: usize = 131_072;
/// Cells of the decision matrix: peer classes times port classes.
pub const MAX_CELLS: usize = 1_048_576;
/// Port classes, both directions.
pub const MAX_PORT_CLASSES: usize = 16_384;

/// Rules that each host may add on its own account: lifeline, failsafe, anti-spoofing.
pub const HOST_RULES: usize = 64;
/// Addresses and subnets that those rules may name.
pub const HOST_PEERS: usize = 1_024;
/// Port classes that they may split off.
pub const HOST_PORT_CLASSES: usize = 16;
/// How many times more peer classes they may make of those that there are: each may lie half
/// inside the operators' subnets.
pub const HOST_CELLS_FACTOR: usize = 2;
/// Peer classes that they may add to those: each rule may name peers that no policy names.
pub const HOST_PEER_CLASSES: usize = HOST_RULES;

/// Cells of the largest matrix that a host may make of one of `rows` peer classes and `columns`
/// port classes: [`crate::check_fit`] holds it against [`MAX_CELLS`].
#[must_use]
pub const fn cells_with_host_rules(rows: usize, columns: usize) -> usize {
    (HOST_CELLS_FACTOR * rows + HOST_PEER_CLASSES) * (columns + HOST_PORT_CLASSES)
}

/// Cells of the matrix before equal rows and columns become one: what [`crate::classify()`] is
/// ready to compute.
pub const MAX_RAW_CELLS: usize = 16 * MAX_CELLS;
/// Rules' peer lists that hold an address, summed over all peers that differ in them.
pub const MAX_MEMBERSHIPS: usize = 1 << 25;
