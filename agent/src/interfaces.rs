//! Which interfaces of the host are policed, which are not and why, and which addresses they hold.
//!
//! The kernel is asked over netlink, which answers for the network namespace that the agent runs in; `/sys`
//! may belong to another one. What cannot be read is an error and never an absence: an absent interface
//! has consequences.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
};

use crate::kernel::{LinkInfo, list_addresses, list_links};

/// Ports of bonds in bridges in VRFs are as deep as it goes.
const MASTERS: usize = 8;
/// How container runtimes, hypervisors and network plug-ins begin the names of the host's ends of the
/// links to containers and guests.
const HOST_ENDS: [&str; 16] = [
    "veth", "ve-", "vb-", "vt-", "cali", "lxc", "lxd", "eni", "gke", "azv", "vnet", "tap", "fwpr",
    "fwln", "podman", "cni-",
];
/// How network plug-ins begin the names of the interfaces of their overlay networks, each with the kind of
/// device that it is. Their packets go out in packets of the node, which are judged on the interface below.
const OVERLAYS: [(&str, &str); 19] = [
    ("flannel", "vxlan"),
    ("flannel-wg", "wireguard"),
    ("flannel-v6", "vxlan"),
    ("vxlan.calico", "vxlan"),
    ("vxlan-v6.calico", "vxlan"),
    ("tunl0", "ipip"),
    ("wireguard.cali", "wireguard"),
    ("wg-v6.cali", "wireguard"),
    ("cilium_vxlan", "vxlan"),
    ("cilium_geneve", "geneve"),
    ("cilium_host", "veth"),
    ("cilium_net", "veth"),
    ("cilium_wg0", "wireguard"),
    ("vxlan_sys_", "vxlan"),
    ("genev_sys_", "geneve"),
    ("weave", "bridge"),
    ("vethwe-", "veth"),
    ("kube-ipvs", "dummy"),
    ("nodelocaldns", "dummy"),
];

/// A network interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// Why an interface is not policed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The configuration names it, and it does not exist, or not yet.
    Missing,
    /// It carries no Ethernet frames.
    NotEthernet,
    /// It is a bridge: what goes through it to other hosts is judged on its ports.
    Bridge,
    /// It is the host's end of a link to a container or a virtual machine.
    Container,
    /// It is part of a network plug-in's overlay: its packets are judged in their outer form, on the interface
    /// that they leave by.
    Overlay,
    /// It is a virtual device without an address: what leaves by it is judged on the device below.
    Unused,
    /// The configuration names others.
    NotConfigured,
    /// The programs could not be put on it.
    Failed,
}

impl Reason {
    /// One word, for machines.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotEthernet => "not-ethernet",
            Self::Bridge => "bridge",
            Self::Container => "container",
            Self::Overlay => "overlay",
            Self::Unused => "unused",
            Self::NotConfigured => "not-configured",
            Self::Failed => "failed",
        }
    }
}

/// A few words, for people.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "does not exist",
            Self::NotEthernet => "carries no Ethernet frames",
            Self::Bridge => "a bridge",
            Self::Container => "the way to a container or a guest",
            Self::Overlay => "an overlay network",
            Self::Unused => "has no address",
            Self::NotConfigured => "not in `interfaces` of the configuration",
            Self::Failed => "the programs cannot be put on it",
        })
    }
}

/// An interface that is not policed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unpoliced {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: Reason,
    /// The configuration names it, or it is to be policed and could not be.
    pub is_problem: bool,
    /// It is up, and packets have passed it.
    pub carries_traffic: bool,
}

/// The interfaces of a host, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Those to police.
    pub policed: Vec<Interface>,
    /// Those that have no verdict, though they are up or the configuration names them. Loopback is left out: it
    /// reaches nobody else.
    pub unpoliced: Vec<Unpoliced>,
}

/// The interfaces and the addresses of a network namespace, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    links: Vec<LinkInfo>,
    addresses: Vec<(u32, IpAddr)>,
}

impl Network {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn read() -> io::Result<Self> {
        Ok(Self {
            links: list_links(true)?,
            addresses: list_addresses()?,
        })
    }

    /// The interfaces named in the configuration; with none named, those that carry traffic to other hosts.
    #[must_use]
    pub fn survey(&self, configured: &[String]) -> Survey {
        let mut survey = Survey::default();
        for link in self.links.iter().filter(|link| !link.is_loopback) {
            let named = configured.contains(&link.name);
            let reason = match configured {
                [] => self.reason_to_leave_out(link),
                _ if !named => Some(Reason::NotConfigured),
                _ if !link.is_ethernet => Some(Reason::NotEthernet),
                _ => None,
            };
            match reason {
                None => survey.policed.push(interface(link)),
                Some(reason) if named || link.is_up => survey.unpoliced.push(Unpoliced {
                    name: link.name.clone(),
                    reason,
                    is_problem: named,
                    carries_traffic: link.is_up && link.packets > 0,
                }),
                Some(_) => {}
            }
        }
        let is_there = |name: &String| self.links.iter().any(|link| link.name == *name);
        let missing = configured.iter().filter(|name| !is_there(name));
        survey.unpoliced.extend(missing.map(|name| Unpoliced {
            name: name.clone(),
            reason: Reason::Missing,
            is_problem: true,
            carries_traffic: false,
        }));
        survey.policed.sort_by(|a, b| a.name.cmp(&b.name));
        survey.unpoliced.sort();
        survey
    }

    /// Why the automatic choice leaves an interface out; none: it is policed.
    ///
    /// Policed are: every Ethernet device that a driver brings, before it has an address and as a port of
    /// whatever; every other Ethernet interface with an address, link-local or not; and, in a namespace
    /// without a device of its own, a container's, the interfaces that reach into another namespace.
    fn reason_to_leave_out(&self, link: &LinkInfo) -> Option<Reason> {
        let kind = link.kind.as_deref();
        if is_overlay(link) {
            return Some(Reason::Overlay);
        }
        match kind {
            _ if !link.is_ethernet => Some(Reason::NotEthernet),
            None => None,
            Some("bridge" | "openvswitch") => Some(Reason::Bridge),
            Some(_) if self.has_global_address(link.index) => None,
            Some(_) if is_host_end(&link.name) => Some(Reason::Container),
            Some(_) if self.is_uplink_of_container(link) => None,
            Some("veth" | "tun") => Some(Reason::Container),
            Some(_) if self.has_address(link.index) => None,
            Some(_) => Some(Reason::Unused),
        }
    }

    /// Whether an interface is how a container reaches others: before it has an address, and also as the port
    /// of a bridge inside.
    fn is_uplink_of_container(&self, link: &LinkInfo) -> bool {
        let has_device = self
            .links
            .iter()
            .any(|link| link.kind.is_none() && link.is_ethernet && !link.is_loopback);
        link.reaches_elsewhere && !has_device
    }

    fn has_address(&self, index: u32) -> bool {
        self.addresses.iter().any(|(of, _)| *of == index)
    }

    fn has_global_address(&self, index: u32) -> bool {
        self.addresses
            .iter()
            .any(|(of, address)| *of == index && !is_link_local(*address))
    }

    /// The addresses of these interfaces, and of the bridges and bonds that they are ports of. Link-local
    /// ones are left out: they name no host.
    #[must_use]
    pub fn addresses_of(&self, interfaces: &[Interface]) -> Vec<IpAddr> {
        let masters: BTreeMap<u32, u32> = self
            .links
            .iter()
            .filter_map(|link| Some((link.index, link.master?)))
            .collect();
        let mut indexes = BTreeSet::new();
        for interface in interfaces {
            let mut index = Some(interface.index);
            for _ in 0..=MASTERS {
                indexes.extend(index);
                index = index.and_then(|index| masters.get(&index).copied());
            }
        }
        let addresses: BTreeSet<IpAddr> = self
            .addresses
            .iter()
            .filter(|(index, address)| {
                indexes.contains(index) && !is_link_local(*address) && !address.is_loopback()
            })
            .map(|(_, address)| *address)
            .collect();
        addresses.into_iter().collect()
    }

    /// Every address of this host, of whatever interface: what no packet from elsewhere comes from. Left
    /// out are link-local ones, which name a host on their own link only, and those of the loopback networks,
    /// which the kernel takes from no wire.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<IpAddr> {
        let addresses: BTreeSet<IpAddr> = self
            .addresses
            .iter()
            .map(|(_, address)| *address)
            .filter(|address| !address.is_loopback() && !is_link_local(*address))
            .collect();
        addresses.into_iter().collect()
    }

    /// An interface on which the programs could not be put.
    #[must_use]
    pub fn failed(&self, interface: &Interface) -> Unpoliced {
        let mut links = self.links.iter();
        Unpoliced {
            name: interface.name.clone(),
            reason: Reason::Failed,
            is_problem: true,
            carries_traffic: links
                .any(|link| link.index == interface.index && link.is_up && link.packets > 0),
        }
    }

    /// Every interface, sorted by name.
    #[must_use]
    pub fn all(&self) -> Vec<Interface> {
        let mut interfaces: Vec<_> = self.links.iter().map(interface).collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        interfaces
    }
}

/// Every address of this host, as [`Network::local_addresses`].
///
/// # Errors
/// When the kernel does not tell.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    Network::read().map(|network| network.local_addresses())
}

fn interface(link: &LinkInfo) -> Interface {
    Interface {
        index: link.index,
        name: link.name.clone(),
    }
}

fn is_overlay(link: &LinkInfo) -> bool {
    OVERLAYS
        .iter()
        .any(|(name, kind)| link.name.starts_with(name) && link.kind.as_deref() == Some(*kind))
}

fn is_host_end(name: &str) -> bool {
    HOST_ENDS.iter().any(|prefix| name.starts_with(prefix))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
