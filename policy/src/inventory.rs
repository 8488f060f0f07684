//! Who exists: hosts, their addresses and their labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::set::NamedPort;

/// The labels of a workload. Assigned centrally, never claimed by a host.
pub type Labels = BTreeMap<String, String>;

/// Before the key of a label of a pod's namespace: `namespace:team`.
pub const NAMESPACE_SCOPE: &str = "namespace:";
/// Before a named port, `port:tcp/http`; the value is its number, or several with commas between.
pub const PORT_SCOPE: &str = "port:";

/// Whether a label is of a scope that is not an author's to choose: what a workload's namespace and
/// its named ports are. Those make identity whatever the label schema says.
#[must_use]
pub fn is_reserved_label(key: &str) -> bool {
    key.starts_with(NAMESPACE_SCOPE) || key.starts_with(PORT_SCOPE)
}

/// The numbers that a workload with these labels gives a named port; none if it does not name it.
pub fn named_port<'a>(labels: &'a Labels, port: &NamedPort) -> impl Iterator<Item = u16> + 'a {
    labels
        .get(&format!("{PORT_SCOPE}{}/{}", port.slot, port.name))
        .into_iter()
        .flat_map(|numbers| numbers.split(','))
        .filter_map(|number| number.parse().ok())
}

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

/// Why two inventories are not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Clash {
    /// A name that both have.
    #[error("both inventories have a host `{0}`; a workload belongs in one of them")]
    Name(HostName),
    /// An address that both give to somebody.
    #[error("{0} is an address of `{1}` and of `{2}`, in the other inventory; give it to one")]
    Address(IpAddr, HostName, HostName),
}

impl Inventory {
    /// The host that holds an address.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<&Host> {
        self.hosts
            .iter()
            .find(|host| host.addresses.contains(&address))
    }

    /// The hosts of both.
    ///
    /// # Errors
    /// The first name or address that is in both.
    pub fn join(mut self, other: Self) -> Result<Self, Clash> {
        let names: BTreeSet<&HostName> = self.hosts.iter().map(|host| &host.name).collect();
        let holders: BTreeMap<IpAddr, &HostName> = self
            .hosts
            .iter()
            .flat_map(|host| host.addresses.iter().map(|address| (*address, &host.name)))
            .collect();
        for host in &other.hosts {
            if names.contains(&host.name) {
                return Err(Clash::Name(host.name.clone()));
            }
            let held = |address: &IpAddr| Some((*address, (*holders.get(address)?).clone()));
            if let Some((address, holder)) = host.addresses.iter().find_map(held) {
                let other = host.name.clone();
                return Err(Clash::Address(address, holder, other));
            }
        }
        self.hosts.extend(other.hosts);
        Ok(self)
    }

    /// The host of a name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name.0 == name)
    }
}
