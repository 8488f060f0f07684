//! Which interfaces of the host are policed, and which addresses they hold.

use std::{collections::BTreeSet, fs, net::IpAddr, path::PathBuf};

/// `ARPHRD_ETHER` of `include/uapi/linux/if_arp.h`.
const ETHERNET: &str = "1";

/// A network interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// Why an interface that the config names is not policed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It does not exist, or not yet.
    Missing,
    /// It carries no Ethernet frames.
    NotEthernet,
}

/// The interfaces named in the config; with none named, those that carry traffic to other hosts: every
/// Ethernet interface that is a device or has an address, and is no bridge.
#[must_use]
pub fn policed(configured: &[String]) -> (Vec<Interface>, Vec<(String, Unfit)>) {
    let names: BTreeSet<String> = if configured.is_empty() {
        let addressed = with_addresses().into_iter().map(|(name, _)| name);
        // A device counts before it has an address: enforcement comes before the network.
        let devices = all()
            .into_iter()
            .map(|interface| interface.name)
            .filter(|name| path(name, "device").exists());
        addressed
            .chain(devices)
            .filter(|name| automatic(name))
            .collect()
    } else {
        configured.iter().cloned().collect()
    };
    let mut fit = Vec::new();
    let mut unfit = Vec::new();
    for name in names {
        match (index(&name), attribute(&name, "type").as_deref()) {
            (Some(index), Some(ETHERNET)) => fit.push(Interface { index, name }),
            (Some(_), Some(_)) => unfit.push((name, Unfit::NotEthernet)),
            _ => unfit.push((name, Unfit::Missing)),
        }
    }
    (fit, unfit)
}

/// The addresses of these interfaces, link-local ones left out: they name no host.
#[must_use]
pub fn addresses(interfaces: &[Interface]) -> Vec<IpAddr> {
    let addresses: BTreeSet<IpAddr> = with_addresses()
        .into_iter()
        .filter(|(name, _)| interfaces.iter().any(|interface| interface.name == *name))
        .map(|(_, address)| address)
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .collect();
    addresses.into_iter().collect()
}

/// Whether an interface has this index.
#[must_use]
pub fn exists(index: u32) -> bool {
    all().iter().any(|interface| interface.index == index)
}

/// Every interface of the namespace.
#[must_use]
pub fn all() -> Vec<Interface> {
    let entries = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| {
            Some(Interface {
                index: index(&name)?,
                name,
            })
        })
        .collect()
}

fn automatic(name: &str) -> bool {
    attribute(name, "type").as_deref() == Some(ETHERNET) && !path(name, "bridge").exists()
}

fn with_addresses() -> Vec<(String, IpAddr)> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the host's addresses");
        Vec::new()
    });
    interfaces
        .into_iter()
        .filter(|interface| !interface.is_loopback())
        .map(|interface| (interface.name.clone(), interface.ip()))
        .collect()
}

fn index(name: &str) -> Option<u32> {
    attribute(name, "ifindex")?.parse().ok()
}

fn attribute(name: &str, attribute: &str) -> Option<String> {
    Some(
        fs::read_to_string(path(name, attribute))
            .ok()?
            .trim()
            .to_owned(),
    )
}

fn path(name: &str, attribute: &str) -> PathBuf {
    PathBuf::from("/sys/class/net").join(name).join(attribute)
}
