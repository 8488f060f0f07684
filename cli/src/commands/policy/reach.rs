//! `bulkhead policy reach`: which host can reach which on what, offline.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Result;
use clap::Args;
use policy::{Host, HostName, Inventory, PolicySet, reach};

use crate::{
    exit::{Failure, Outcome},
    files,
    output::{Format, count, json_lines, list, table},
};

const EXAMPLES: &str = "\
Examples:
  bulkhead policy reach --inventory hosts.yaml --policies policies/
  bulkhead policy reach --inventory hosts.yaml --policies policies/ --to db -o json

With `-o json`, an object for each ordered pair of hosts and each set of their addresses with the
same answer, also where nothing passes.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Reach {
    /// The hosts: YAML or JSON, `hosts: [{name, addresses, labels}]`; not needed with Pods among
    /// the policies
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Policy files, Kubernetes manifests, and directories of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    policies: Vec<PathBuf>,
    /// Only from this host, or the hosts of this segment
    #[arg(long, value_name = "SEGMENT|HOST")]
    from: Option<String>,
    /// Only to this host, or the hosts of this segment
    #[arg(long, value_name = "SEGMENT|HOST")]
    to: Option<String>,
}

impl Reach {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub fn run(&self, format: Format) -> Result<Outcome> {
        let (set, inventory) =
            files::policies_and_inventory(&self.policies, self.inventory.as_deref())?;
        let from = chosen(self.from.as_deref(), &set, &inventory)?;
        let to = chosen(self.to.as_deref(), &set, &inventory)?;
        let mut all =
            reach(&set, &inventory).map_err(|error| Failure::refused(error.to_string()))?;
        all.retain(|pair| from.contains(&pair.src) && to.contains(&pair.dst));
        match format {
            Format::Json => json_lines(&all)?,
            Format::Table => {
                let (open, closed): (Vec<_>, Vec<_>) =
                    all.iter().partition(|pair| !pair.allowed.is_empty());
                let rows = open.iter().map(|pair| {
                    [
                        pair.src.to_string(),
                        pair.dst.to_string(),
                        pair.summary(),
                        list(
                            pair.addresses
                                .iter()
                                .map(|(src, dst)| format!("{src}->{dst}")),
                        ),
                    ]
                });
                table(["FROM", "TO", "ALLOWED", "ADDRESSES"], rows)?;
                if !closed.is_empty() {
                    eprintln!("{} not shown: nothing passes", count(closed.len(), "pair"));
                }
            }
        }
        Ok(Outcome::Fine)
    }
}

/// The hosts that a name means: a host, a segment's hosts, or both; no name means all.
fn chosen<'a>(
    name: Option<&str>,
    set: &PolicySet,
    inventory: &'a Inventory,
) -> Result<BTreeSet<&'a HostName>> {
    let Some(name) = name else {
        return Ok(inventory.hosts.iter().map(|host| &host.name).collect());
    };
    let segment = set.segments.iter().find(|segment| segment.name == name);
    let is_host = inventory.hosts.iter().any(|host| host.name.0 == name);
    if segment.is_none() && !is_host {
        return Err(Failure::usage(format!(
            "`{name}` is neither a segment of the policy files nor a host of the inventory"
        ))
        .into());
    }
    let in_segment = |host: &Host| {
        segment.is_some_and(|segment| {
            segment.selector.matches(&set.identity_labels(&host.labels))
                || host.addresses.iter().any(|address| {
                    segment
                        .subnets
                        .iter()
                        .any(|subnet| subnet.contains(address))
                })
        })
    };
    Ok(inventory
        .hosts
        .iter()
        .filter(|host| host.name.0 == name || in_segment(host))
        .map(|host| &host.name)
        .collect())
}
