//! Of all flows, those that somebody asks about.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::set::Ports;

/// What is asked about. The default is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Who opens; none: everybody.
    pub from: Option<End>,
    /// To whom; none: everybody.
    pub to: Option<End>,
    /// On what; none: on everything.
    pub service: Option<Ports>,
}

/// One end of the flows that are asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The host of this name, the members of the segment of this name, or both.
    Named(String),
    /// The addresses of a subnet.
    Subnet(IpNet),
}

impl From<&str> for End {
    /// An address, a subnet, or else a name.
    fn from(text: &str) -> Self {
        let subnet = text.parse::<IpAddr>().map(IpNet::from);
        match subnet.or_else(|_| text.parse::<IpNet>()) {
            Ok(subnet) => Self::Subnet(subnet.trunc()),
            Err(_) => Self::Named(text.to_owned()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Subnet(subnet) if subnet.prefix_len() == subnet.max_prefix_len() => {
                write!(f, "{}", subnet.addr())
            }
            Self::Subnet(subnet) => write!(f, "{subnet}"),
        }
    }
}
