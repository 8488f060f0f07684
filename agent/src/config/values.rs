//! Values of the configuration that are checked as they are read, so that an error names its line.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    str::FromStr,
    time::Duration,
};

use datapath::layout::other_ether_types;
use serde::{Deserialize, Serialize};

/// Where a controller is: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ControllerAddress {
    host: String,
    port: u16,
}

/// At least one controller.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Vec<ControllerAddress>", into = "Vec<ControllerAddress>")]
pub struct ControllerList(Vec<ControllerAddress>);

/// The name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

/// A port, 1 to 65,535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Port(NonZeroU16);

/// A part of a hundred, 1 to 50.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Percent(u32);

/// Seconds, 0 to 600.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct WarmStart(u32);

/// Seconds, 1 to 2,678,400 (31 days).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TimeoutSeconds(u32);

/// Times a second, 1 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Rate(u32);

/// How many flows a map holds, 1,024 to 16,777,216.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FlowSlots(u32);

/// What becomes of packets that are neither IP nor ARP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OtherEthertypes {
    /// They are dropped, and counted.
    #[default]
    Drop,
    /// They pass, and are counted.
    Pass,
}

impl OtherEthertypes {
    /// The word that the kernel programs know it by.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Drop => other_ether_types::DROP,
            Self::Pass => other_ether_types::PASS,
        }
    }
}

/// A number of seconds, 0 to 3,600.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Seconds(u32);

/// How the programs are hooked into interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HookingChoice {
    /// By TCX links where the kernel has them, by clsact filters elsewhere.
    #[default]
    Automatic,
    /// By TCX links, which came with Linux 6.6.
    Tcx,
    /// By clsact filters.
    Clsact,
}

impl ControllerAddress {
    /// The name or address; an IPv6 address stands without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket address, where no name has to be resolved for it.
    #[must_use]
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host
            .parse()
            .ok()
            .map(|address: IpAddr| SocketAddr::new(address, self.port))
    }
}

impl FromStr for ControllerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self {
                host: address.to_string(),
                port: proto::DEFAULT_PORT,
            });
        }
        if let Ok(address) = text.parse::<SocketAddr>()
            && address.port() != 0
        {
            return Ok(Self {
                host: address.ip().to_string(),
                port: address.port(),
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()),
            None => (text, Some(proto::DEFAULT_PORT)),
        };
        let name_like = !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        match port {
            Some(port) if port != 0 && name_like => Ok(Self {
                host: host.to_owned(),
                port,
            }),
            _ => Err(format!(
                "`{text}` is not where a controller can be; write a name or an address, and its port unless that is {}, such as 10.0.0.1:7443 or [fd00::1]:7443",
                proto::DEFAULT_PORT
            )),
        }
    }
}

impl fmt::Display for ControllerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.literal() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl TryFrom<String> for ControllerAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ControllerAddress> for String {
    fn from(address: ControllerAddress) -> Self {
        address.to_string()
    }
}

impl ControllerList {
    /// In the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &ControllerAddress> {
        self.0.iter()
    }
}

impl TryFrom<Vec<ControllerAddress>> for ControllerList {
    type Error = String;

    fn try_from(list: Vec<ControllerAddress>) -> Result<Self, String> {
        if list.is_empty() {
            return Err(
                "there is no controller; write at least one, such as [\"10.0.0.1:7443\"]"
                    .to_owned(),
            );
        }
        Ok(Self(list))
    }
}

impl From<ControllerList> for Vec<ControllerAddress> {
    fn from(list: ControllerList) -> Self {
        list.0
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        // The kernel's own rule: dev_valid_name() in net/core/dev.c.
        let valid = (1..=15).contains(&name.len())
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        if valid {
            Ok(Self(name))
        } else {
            Err(format!(
                "`{name}` cannot be the name of an interface; write one that `ip link` lists"
            ))
        }
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> Self {
        name.0
    }
}

impl Port {
    /// Secure shell.
    pub const SSH: Self = match NonZeroU16::new(22) {
        Some(port) => Self(port),
        None => unreachable!(),
    };

    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<u32> for Port {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        u16::try_from(number)
            .ok()
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or_else(|| format!("{number} is not a port; write 1 to 65535"))
    }
}

impl From<Port> for u32 {
    fn from(port: Port) -> Self {
        port.number().into()
    }
}

/// A number that is only right within a range.
macro_rules! ranged {
    ($type:ident, $range:expr, $what:literal) => {
        impl $type {
            const RANGE: std::ops::RangeInclusive<u32> = $range;

            /// The number.
            #[must_use]
            pub fn number(self) -> u32 {
                self.0
            }
        }

        impl TryFrom<u32> for $type {
            type Error = String;

            fn try_from(number: u32) -> Result<Self, String> {
                if Self::RANGE.contains(&number) {
                    return Ok(Self(number));
                }
                let (first, last) = (Self::RANGE.start(), Self::RANGE.end());
                Err(format!(
                    concat!($what, "; write {} to {}"),
                    number, first, last
                ))
            }
        }

        impl From<$type> for u32 {
            fn from($type(number): $type) -> Self {
                number
            }
        }
    };
}

ranged!(
    FlowSlots,
    1 << 10..=1 << 24,
    "a flow table cannot have {} entries"
);
ranged!(
    Percent,
    1..=50,
    "{} is no part of the memory that flow tables may take"
);
ranged!(
    TimeoutSeconds,
    1..=2_678_400,
    "a timeout cannot be {} seconds"
);
ranged!(
    Rate,
    1..=1_000_000,
    "denials cannot be reported {} times a second"
);

ranged!(
    WarmStart,
    0..=600,
    "a host cannot learn its flows for {} seconds"
);

impl WarmStart {
    /// How long.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(u64::from(self.0))
    }
}

impl Default for WarmStart {
    fn default() -> Self {
        Self(5)
    }
}

ranged!(Seconds, 0..=3600, "{} seconds are too long");

impl Percent {
    /// One in a hundred.
    pub const ONE: Self = Self(1);
}

impl TimeoutSeconds {
    /// One of the datapath's own.
    pub(super) const fn of_datapath(seconds: u32) -> Self {
        Self(seconds)
    }
}

impl Rate {
    /// So that this many nanoseconds lie between two, at least 1,000.
    pub(super) const fn of_interval(nanoseconds: u32) -> Self {
        Self(1_000_000_000 / nanoseconds)
    }

    /// Nanoseconds between two.
    #[must_use]
    pub fn interval_ns(self) -> u32 {
        1_000_000_000 / self.0
    }
}

impl FlowSlots {
    /// The least that a part of the memory makes.
    pub const LEAST_OF_MEMORY: Self = Self(1 << 15);
    /// The most that a part of the memory makes.
    pub const MOST_OF_MEMORY: Self = Self(1 << 20);
}

impl Seconds {
    /// 30.
    pub const HALF_A_MINUTE: Self = Self(30);
}
