//! Who exists: hosts, their addresses and their labels.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// The labels of a workload. Assigned centrally, never claimed by a host.
pub type Labels = BTreeMap<String, String>;

/// A host's name, unique in an inventory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostName(pub String);

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// The addresses that count as the host's.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// What it is.
    #[serde(default)]
    pub labels: Labels,
    /// Whether it is in quarantine: its identity is then [`crate::Identity::QUARANTINED`].
    #[serde(default)]
    pub quarantined: bool,
}

/// All hosts that a policy set is compiled against. In files: `hosts: [{name, addresses, labels}]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// In any order; names and addresses are unique.
    pub hosts: Vec<Host>,
}

impl Inventory {
    /// The host that holds an address.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<&Host> {
        self.hosts
            .iter()
            .find(|host| host.addresses.contains(&address))
    }

    /// The host of a name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name.0 == name)
    }
}
