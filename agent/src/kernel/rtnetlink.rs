//! The interfaces of this thread's network namespace and their addresses, as the kernel lists them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::kernel::netlink::{attributes, dump, put};

/// From `include/uapi/linux/{rtnetlink,if_link,if_addr,if}.h`.
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;
/// `ARPHRD_ETHER` of `include/uapi/linux/if_arp.h`.
const ARPHRD_ETHER: u16 = 1;
/// `struct ifinfomsg` and `struct ifaddrmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// An interface, as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The kind of a virtual device, such as `bridge` or `veth`; none of a device that a driver brings.
    pub kind: Option<String>,
    /// Whether it carries Ethernet frames.
    pub is_ethernet: bool,
    /// Whether it is the loopback interface.
    pub is_loopback: bool,
    /// Whether an administrator has set it up.
    pub is_up: bool,
    /// The interface that this one is a port of: a bridge, a bond or a VRF.
    pub master: Option<u32>,
    /// Whether its other end, or the interface below it, is in another network namespace.
    pub reaches_elsewhere: bool,
    /// Packets in both directions since it was made; 0 where the counters were not asked for.
    pub packets: u64,
}

/// All interfaces of the namespace, by index. Their counters make the answer twice as long.
///
/// # Errors
/// The kernel's, or the socket's.
pub fn links(with_counters: bool) -> io::Result<Vec<LinkInfo>> {
    let mut body = vec![0; LINK_HEADER];
    if !with_counters {
        put(
            &mut body,
            IFLA_EXT_MASK,
            &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
        );
    }
    let mut links: Vec<LinkInfo> = dump(RTM_GETLINK, &body)?
        .iter()
        .filter_map(|body| link(body))
        .collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// All addresses of the namespace, each with the index of its interface.
///
/// # Errors
/// The kernel's, or the socket's.
pub fn addresses() -> io::Result<Vec<(u32, IpAddr)>> {
    Ok(dump(RTM_GETADDR, &[0; ADDRESS_HEADER])?
        .iter()
        .filter_map(|body| address(body))
        .collect())
}

/// None of a name that is not UTF-8: the kernel allows it, nothing else does.
fn link(body: &[u8]) -> Option<LinkInfo> {
    let flags = word(body, 8)?;
    let mut link = LinkInfo {
        index: word(body, 4)?,
        is_ethernet: u16::from_ne_bytes(*body.get(2..)?.first_chunk()?) == ARPHRD_ETHER,
        is_loopback: flags & IFF_LOOPBACK != 0,
        is_up: flags & IFF_UP != 0,
        ..LinkInfo::default()
    };
    for (kind, value) in attributes(body.get(LINK_HEADER..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value)?,
            IFLA_MASTER => link.master = word(value, 0),
            IFLA_LINK_NETNSID => link.reaches_elsewhere = true,
            IFLA_LINKINFO => {
                link.kind = attributes(value)
                    .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                    .and_then(|(_, value)| text(value));
            }
            IFLA_STATS64 => {
                let [received, sent] = [counter(value, 0), counter(value, 8)];
                link.packets = received.saturating_add(sent);
            }
            _ => {}
        }
    }
    Some(link)
}

fn address(body: &[u8]) -> Option<(u32, IpAddr)> {
    let index = word(body, 4)?;
    let mut found = None;
    for (kind, value) in attributes(body.get(ADDRESS_HEADER..)?) {
        // On a link from point to point IFA_ADDRESS is the other end's.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && found.is_none()) {
            found = ip(value);
        }
    }
    Some((index, found?))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn counter(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

fn text(value: &[u8]) -> Option<String> {
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    std::str::from_utf8(value).ok().map(str::to_owned)
}
