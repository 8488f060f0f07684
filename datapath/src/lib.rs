//! Map layouts, packet parsing and the verdict: one copy for kernel and user space.
//!
//! [`decide()`] is generic over [`Packet`] and [`Tables`]. The kernel programs implement them on
//! `__sk_buff` and BPF maps, [`memory`] on slices and Rust collections, so that what runs in the
//! kernel is tested without it.
#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod decide;
pub mod headers;
pub mod layout;
#[cfg(any(test, feature = "std"))]
pub mod memory;
pub mod packet;
pub mod reason;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use decide::{Verdict, decide};
pub use layout::Direction;
pub use packet::Packet;
pub use reason::Reason;
pub use tables::{FamilyTables, Tables, Whose};
