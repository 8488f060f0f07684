//! Hosts and the router between them, as network namespaces.

mod vlan;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result, bail};

pub use self::vlan::Vlan;
use crate::{ip, namespace::Namespace};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Where a host stands: its name, its subnet and its number in there.
///
/// Subnet 1 is 10.66.1.0/24 and fd66:1::/64; host 10 in it is 10.66.1.10 and fd66:1::10. Numbers
/// are 2 to 99, for their digits stand in both addresses alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The host's name.
    pub name: &'static str,
    /// The subnet's number, 0 to 9.
    pub subnet: u8,
    /// The host's number in the subnet, 2 to 99.
    pub number: u8,
}

/// Where the controller runs.
pub const CONTROLLER: Place = Place {
    name: "controller",
    subnet: 9,
    number: 10,
};

/// A host without an agent, beside the controller.
pub const CLIENT: Place = Place {
    name: "client-1",
    subnet: 9,
    number: 20,
};

/// A host without an agent, in the operators' own subnet.
pub const ADMIN: Place = Place {
    name: "admin-1",
    subnet: 0,
    number: 10,
};

impl Place {
    /// The host's address.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        address(self.subnet, self.number, family)
    }

    /// The router's address in its subnet.
    #[must_use]
    pub fn gateway(&self, family: Family) -> IpAddr {
        address(self.subnet, ROUTER, family)
    }

    /// The subnet, with its prefix length.
    #[must_use]
    pub fn subnet(&self, family: Family) -> String {
        match family {
            Family::V4 => format!("10.66.{}.0/24", self.subnet),
            Family::V6 => format!("fd66:{}::/64", self.subnet),
        }
    }
}

fn address(subnet: u8, number: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 66, subnet, number).into(),
        Family::V6 => {
            let digits = u16::from(number / 10) << 4 | u16::from(number % 10);
            Ipv6Addr::new(0xfd66, subnet.into(), 0, 0, 0, 0, 0, digits).into()
        }
    }
}

/// The router's number in every subnet.
const ROUTER: u8 = 1;

/// Every host's own side of its cable.
const INTERFACE: &str = "eth0";

/// The namespaces of one lab. Dropping it removes them, with every interface inside.
#[derive(Debug)]
pub(crate) struct Network {
    router: Namespace,
    hosts: BTreeMap<&'static str, Namespace>,
}

impl Network {
    /// Makes a namespace `<prefix><name>` per place and joins them by `<prefix>router`.
    pub(crate) fn new(prefix: &str, places: &[Place]) -> Result<Self> {
        let network = Self::named(prefix, places)?;
        network.make_namespaces()?;
        network.make_cables(places)?;
        network.configure_router(places)?;
        for place in places {
            network.configure_host(place)?;
        }
        Ok(network)
    }

    /// Takes the names. From then on a drop removes what has them, be it half done.
    fn named(prefix: &str, places: &[Place]) -> Result<Self> {
        let network = Self {
            router: Namespace::new(format!("{prefix}router")),
            hosts: places
                .iter()
                .map(|place| {
                    (
                        place.name,
                        Namespace::new(format!("{prefix}{}", place.name)),
                    )
                })
                .collect(),
        };
        let taken = network.namespaces().find(|namespace| namespace.exists());
        if let Some(name) = taken.map(|namespace| namespace.name().to_owned()) {
            // They are another lab's.
            std::mem::forget(network);
            bail!("the network namespace {name} is there already: end the run that has made it");
        }
        Ok(network)
    }

    pub(crate) fn host(&self, name: &str) -> Result<&Namespace> {
        self.hosts
            .get(name)
            .with_context(|| format!("this lab has no host {name}"))
    }

    pub(crate) fn router(&self) -> &Namespace {
        &self.router
    }

    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.hosts.values().chain([&self.router])
    }

    fn make_namespaces(&self) -> Result<()> {
        let mut lines = String::new();
        for namespace in self.namespaces() {
            writeln!(lines, "netns add {}", namespace.name())?;
        }
        ip::batch(None, &lines)?;
        for namespace in self.namespaces() {
            // Addresses are usable at once, and no router is asked for more of them.
            namespace.tune(&[
                ("ipv6/conf/all/disable_ipv6", "0"),
                ("ipv6/conf/default/disable_ipv6", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                // A TCP whose segments are dropped on their way out gives up after eight seconds; so
                // it goes on, and what policy cuts stays there to be counted.
                ("ipv4/tcp_retries2", "255"),
            ])?;
        }
        self.router
            .tune(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])
    }

    fn make_cables(&self, places: &[Place]) -> Result<()> {
        let router = self.router.name();
        let mut lines = String::new();
        for Place { name, .. } in places {
            let host = self.host(name)?.name();
            writeln!(
                lines,
                "link add {INTERFACE} netns {host} type veth peer name {name} netns {router}"
            )?;
        }
        ip::batch(None, &lines)
    }

    /// A bridge per subnet, with the router's addresses on it.
    fn configure_router(&self, places: &[Place]) -> Result<()> {
        let mut lines = String::from("link set lo up\n");
        let subnets: BTreeSet<u8> = places.iter().map(|place| place.subnet).collect();
        for subnet in subnets {
            let [v4, v6] = Family::ALL.map(|family| address(subnet, ROUTER, family));
            writeln!(
                lines,
                "link add subnet{subnet} type bridge mcast_snooping 0"
            )?;
            writeln!(lines, "addr add {v4}/24 dev subnet{subnet}")?;
            writeln!(lines, "addr add {v6}/64 dev subnet{subnet} nodad")?;
            writeln!(lines, "link set subnet{subnet} up")?;
        }
        for Place { name, subnet, .. } in places {
            writeln!(lines, "link set {name} master subnet{subnet} up")?;
        }
        ip::batch(Some(self.router.name()), &lines)
    }

    /// Lets the router send a host no packets larger than these bytes.
    pub(crate) fn narrow(&self, place: &Place, bytes: u16) -> Result<()> {
        let mut lines = String::new();
        for (family, all) in Family::ALL.into_iter().zip([32, 128]) {
            let (address, subnet) = (place.address(family), place.subnet);
            writeln!(
                lines,
                "route replace {address}/{all} dev subnet{subnet} mtu lock {bytes}"
            )?;
        }
        ip::batch(Some(self.router.name()), &lines)
    }

    /// Removes a host's cable, with the interfaces at both of its ends.
    pub(crate) fn remove_cable(&self, host: &str) -> Result<()> {
        ip::batch(
            Some(self.host(host)?.name()),
            &format!("link del {INTERFACE}\n"),
        )
    }

    /// Gives a host a cable again.
    pub(crate) fn replace_cable(&self, place: &Place) -> Result<()> {
        self.make_cables(&[*place])?;
        let Place { name, subnet, .. } = place;
        ip::batch(
            Some(self.router.name()),
            &format!("link set {name} master subnet{subnet} up\n"),
        )?;
        self.configure_host(place)
    }

    fn configure_host(&self, place: &Place) -> Result<()> {
        let [v4, v6] = Family::ALL.map(|family| place.address(family));
        let [gate4, gate6] = Family::ALL.map(|family| address(place.subnet, ROUTER, family));
        ip::batch(
            Some(self.host(place.name)?.name()),
            &format!(
                "link set lo up\n\
                 link set {INTERFACE} up\n\
                 addr add {v4}/24 dev {INTERFACE}\n\
                 addr add {v6}/64 dev {INTERFACE} nodad\n\
                 route add default via {gate4}\n\
                 route add default via {gate6}\n"
            ),
        )
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.namespaces() {
            // One by one: a batch would stop at one that is gone already.
            if let Err(error) = ip::query(&["netns", "delete", namespace.name()]) {
                eprintln!("{error:#}");
            }
        }
    }
}
