//! VLANs on a host's cable.

use std::{fmt::Write as _, net::Ipv4Addr, path::Path};

use anyhow::Result;

use super::{CLIENT, INTERFACE, Network, Place, ROUTER};
use crate::ip;

/// Carries the VLAN of two tags.
const OUTER: &str = "outer";

/// A VLAN on a host's cable, between the host and the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vlan {
    /// One tag, of 802.1Q.
    Single,
    /// Two: one of 802.1Q in one of 802.1ad.
    Double,
}

impl Vlan {
    /// The host's address in it.
    #[must_use]
    pub fn host(self) -> Ipv4Addr {
        self.address(10)
    }

    /// The router's address in it.
    #[must_use]
    pub fn router(self) -> Ipv4Addr {
        self.address(ROUTER)
    }

    /// Its interface, at both ends.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Double => "double",
        }
    }

    fn address(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 67, self as u8, number)
    }
}

impl Network {
    /// Makes a VLAN between a host and the router, on the host's cable.
    pub(crate) fn add_vlan(&self, place: &Place, vlan: Vlan) -> Result<()> {
        for (namespace, cable, address) in [
            (&self.router, place.name, vlan.router()),
            (self.host(place.name)?, INTERFACE, vlan.host()),
        ] {
            // Without IPv6 nothing is sent but what a test sends.
            let add = |on: &str, name: &str, tag: &str| {
                format!(
                    "link add link {on} name {name} type vlan {tag}\n\
                     link set {name} addrgenmode none up\n"
                )
            };
            let name = vlan.interface();
            let mut lines = match vlan {
                Vlan::Single => add(cable, name, "id 10"),
                Vlan::Double => {
                    add(cable, OUTER, "proto 802.1ad id 20") + &add(OUTER, name, "id 30")
                }
            };
            writeln!(lines, "addr add {address}/24 dev {name}")?;
            ip::batch(Some(namespace.name()), &lines)?;
        }
        Ok(())
    }

    /// Removes a VLAN.
    pub(crate) fn remove_vlan(&self, host: &str, vlan: Vlan) -> Result<()> {
        let device = match vlan {
            Vlan::Single => vlan.interface(),
            Vlan::Double => OUTER,
        };
        for namespace in [&self.router, self.host(host)?] {
            ip::batch(Some(namespace.name()), &format!("link del {device}\n"))?;
        }
        Ok(())
    }

    /// Whether this kernel has VLANs.
    pub(crate) fn kernel_has_vlans(&self) -> Result<bool> {
        // Asking for one loads the module where there is one.
        let made = ip::batch(
            Some(self.router.name()),
            &format!(
                "link add link {} name probe type vlan id 1\nlink del probe\n",
                CLIENT.name
            ),
        );
        match Path::new("/proc/net/vlan").exists() {
            true => made.map(|()| true),
            false => Ok(false),
        }
    }
}
