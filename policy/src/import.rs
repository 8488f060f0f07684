//! Policy of other systems, read as Bulkhead's: what [`crate::render`] then writes.
//!
//! An import is exact or an error: a field that Bulkhead cannot express is named with its place,
//! never dropped. Fields that say nothing about traffic (descriptions, tags, status) pass.

pub mod aws;
pub mod calico;
pub mod kubernetes;
mod object;
mod segments;

use crate::{inventory::Inventory, set::PolicySet};

/// What an import found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The policy; its names are valid ones.
    pub set: PolicySet,
    /// Who is there, as far as the files say.
    pub inventory: Inventory,
}
