//! Kubernetes manifests as Bulkhead's policy and workloads.

use crate::{
    import::Imported,
    parse::{
        kubernetes::{is_replica, is_stand_in},
        parse_mixed,
    },
    problem::Problems,
    render::tidy,
    source::SourceFile,
};

/// Reads manifests, with Bulkhead's own documents among them. Pods without an address have none in
/// the inventory.
///
/// # Errors
/// As [`parse_mixed`].
pub fn import(files: &[SourceFile]) -> Result<Imported, Problems> {
    let mut parsed = parse_mixed(files)?;
    // Where owners stand for their pods, one of each is enough to fill in.
    (parsed.inventory.hosts).retain(|host| !is_replica(&host.name));
    for host in &mut parsed.inventory.hosts {
        host.addresses.retain(|address| !is_stand_in(*address));
    }
    Ok(Imported {
        set: tidy(parsed.set).set,
        inventory: parsed.inventory,
    })
}
