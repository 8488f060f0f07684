//! Which interfaces of the host are policed, and which addresses they hold.
//!
//! What cannot be read is an error and never an absence: an absent interface has consequences.

use std::{collections::BTreeSet, fmt, fs, io, net::IpAddr, path::PathBuf};

/// `ARPHRD_ETHER` of `include/uapi/linux/if_arp.h`.
const ETHERNET: &str = "1";
/// `ARPHRD_LOOPBACK`.
const LOOPBACK: &str = "772";
/// Ports of bonds in bridges in VRFs are as deep as it goes.
const MASTERS: usize = 8;

/// A network interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// Why an interface that the config names, or that has addresses, is not policed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It does not exist, or not yet.
    Missing,
    /// It carries no Ethernet frames, though the config names it.
    NotEthernet,
    /// It carries no Ethernet frames and has addresses; the config names no interfaces.
    LeftOut,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "does not exist",
            Self::NotEthernet | Self::LeftOut => "carries no Ethernet frames",
        })
    }
}

/// The interfaces of a host, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Those to police.
    pub policed: Vec<Interface>,
    /// Those that are not policed, though one might think so.
    pub unfit: Vec<(String, Unfit)>,
}

/// The interfaces named in the config; with none named, those that carry traffic to other hosts: every
/// Ethernet interface that is a device or has an address, and is no bridge.
///
/// # Errors
/// When the kernel does not tell.
pub fn survey(configured: &[String]) -> io::Result<Survey> {
    let automatic = configured.is_empty();
    let names: BTreeSet<String> = if automatic {
        let mut names: BTreeSet<String> = with_addresses()?
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        // A device counts before it has an address: enforcement comes before the network.
        for Interface { name, .. } in all()? {
            if path(&name, "device").try_exists()? && is_ethernet(&name)? == Some(true) {
                names.insert(name);
            }
        }
        names
    } else {
        configured.iter().cloned().collect()
    };
    let mut policed = Vec::new();
    let mut unfit = Vec::new();
    for name in names {
        match (index(&name)?, is_ethernet(&name)?) {
            // Its ports are policed.
            _ if automatic && path(&name, "bridge").try_exists()? => {}
            // Packets to the addresses that it holds come by the others.
            _ if automatic && attribute(&name, "type")?.as_deref() == Some(LOOPBACK) => {}
            (Some(index), Some(true)) => policed.push(Interface { index, name }),
            (Some(_), Some(false)) if automatic => unfit.push((name, Unfit::LeftOut)),
            (Some(_), Some(false)) => unfit.push((name, Unfit::NotEthernet)),
            _ if automatic => {}
            _ => unfit.push((name, Unfit::Missing)),
        }
    }
    Ok(Survey { policed, unfit })
}

/// The addresses of these interfaces, and of the bridges and bonds that they are ports of. Link-local
/// ones are left out: they name no host.
///
/// # Errors
/// When the kernel does not tell.
pub fn addresses(interfaces: &[Interface]) -> io::Result<Vec<IpAddr>> {
    let mut names = BTreeSet::new();
    for interface in interfaces {
        names.insert(interface.name.clone());
        names.extend(masters(&interface.name)?);
    }
    let addresses: BTreeSet<IpAddr> = with_addresses()?
        .into_iter()
        .filter(|(name, _)| names.contains(name))
        .map(|(_, address)| address)
        .filter(|address| !is_link_local(*address))
        .collect();
    Ok(addresses.into_iter().collect())
}

/// Every address of this host, of whatever interface: what no packet from elsewhere comes from. Left out
/// are link-local ones, which name a host on their own link only, and those of the loopback networks,
/// which the kernel takes from no wire.
///
/// # Errors
/// When the kernel does not tell.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let addresses: BTreeSet<IpAddr> = if_addrs::get_if_addrs()?
        .into_iter()
        .map(|interface| interface.ip())
        .filter(|address| !address.is_loopback() && !is_link_local(*address))
        .collect();
    Ok(addresses.into_iter().collect())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Every interface of the namespace, by name.
///
/// # Errors
/// When the kernel does not tell.
pub fn all() -> io::Result<Vec<Interface>> {
    let mut interfaces = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        // The kernel allows names that are not UTF-8; nothing else does.
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        // The bonding module has a file of its own there, which is no interface.
        if let Some(index) = index(&name)? {
            interfaces.push(Interface { index, name });
        }
    }
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(interfaces)
}

/// The interface that this one is a port of, the one that that is a port of, and so on.
fn masters(name: &str) -> io::Result<Vec<String>> {
    let mut masters: Vec<String> = Vec::new();
    while masters.len() < MASTERS {
        let port = masters.last().map_or(name, String::as_str);
        match absent_is_none(fs::read_link(path(port, "master")))? {
            Some(link) => match link.file_name().and_then(|name| name.to_str()) {
                Some(master) => masters.push(master.to_owned()),
                None => break,
            },
            None => break,
        }
    }
    Ok(masters)
}

fn with_addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let interfaces = if_addrs::get_if_addrs()?;
    Ok(interfaces
        .into_iter()
        .filter(|interface| !interface.is_loopback())
        .map(|interface| (interface.name.clone(), interface.ip()))
        .collect())
}

fn index(name: &str) -> io::Result<Option<u32>> {
    Ok(attribute(name, "ifindex")?.and_then(|text| text.parse().ok()))
}

fn is_ethernet(name: &str) -> io::Result<Option<bool>> {
    Ok(attribute(name, "type")?.map(|kind| kind == ETHERNET))
}

fn attribute(name: &str, attribute: &str) -> io::Result<Option<String>> {
    let text = absent_is_none(fs::read_to_string(path(name, attribute)))?;
    Ok(text.map(|text| text.trim().to_owned()))
}

/// An interface may go while it is looked at; then its files are gone, or say that it is.
fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::EINVAL) => Ok(None),
            _ => Err(error),
        },
    }
}

fn path(name: &str, attribute: &str) -> PathBuf {
    PathBuf::from("/sys/class/net").join(name).join(attribute)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::absent_is_none;

    #[test]
    fn what_cannot_be_read_is_not_taken_for_absent() {
        let result = |number| absent_is_none::<()>(Err(io::Error::from_raw_os_error(number)));
        for gone in [libc::ENOENT, libc::ENODEV] {
            assert!(matches!(result(gone), Ok(None)));
        }
        for unknown in [libc::ENFILE, libc::EMFILE, libc::EACCES, libc::EINTR] {
            assert!(result(unknown).is_err());
        }
    }
}
