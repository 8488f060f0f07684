//! What a host says of itself: how far it is protected.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::{
    ConvertError,
    convert::{address_from_bytes, address_to_bytes},
    v1,
};

/// The longest text of a host that is kept, in bytes.
const MAX_TEXT: usize = 1_024;
/// The most entries of each list of a host that are kept.
const MAX_ENTRIES: usize = 4_096;

/// How far a host is protected, as its agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostReport {
    /// The state in one word.
    pub enforcement: Enforcement,
    /// The interfaces on which both programs run.
    pub policed: Vec<PolicedInterface>,
    /// The interfaces that have no verdict. Loopback is not listed.
    pub unpoliced: Vec<UnpolicedInterface>,
    /// Why the host is not fully protected, a sentence each; empty where it is.
    pub problems: Vec<String>,
    /// Where operators come from; empty: the host has no failsafe.
    pub failsafe_subnets: Vec<IpNet>,
    /// The TCP ports that operators come to; empty: the host has no failsafe.
    pub failsafe_tcp_ports: Vec<u16>,
    /// A controller listens on this very host.
    pub hosts_controller: bool,
    /// What was done to Bulkhead's programs since the agent's start, oldest first.
    pub incidents: Vec<Incident>,
}

/// How far a host is protected, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Enforcement {
    /// Every interface that is to be policed is.
    Enforcing,
    /// No policy has come yet: everything passes.
    #[default]
    NoPolicyYet,
    /// No interface is policed: everything passes, whatever the policy says.
    PolicesNothing,
    /// Some interface that is to be policed is not, or what holds the programs up is damaged.
    Degraded,
    /// The operator has ended enforcement on the host.
    Detached,
}

/// An interface on which both programs run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicedInterface {
    /// Its name.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
}

/// An interface that has no verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnpolicedInterface {
    /// Its name.
    pub name: String,
    /// Why, in one word.
    pub reason: String,
    /// It is up, and packets have passed it.
    pub carries_traffic: bool,
    /// It is to be policed, so the host is not protected as its configuration says.
    pub is_problem: bool,
}

/// What somebody did to Bulkhead's programs on a host, and what the agent did about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Nanoseconds since the Unix epoch; each incident of a host has its own.
    pub time_ns: u64,
    /// A sentence, for people.
    pub text: String,
}

impl Enforcement {
    /// The word for tables and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enforcing => "enforcing",
            Self::NoPolicyYet => "no-policy-yet",
            Self::PolicesNothing => "polices-nothing",
            Self::Degraded => "degraded",
            Self::Detached => "detached",
        }
    }

    /// Whether a policy that the host has acknowledged is enforced on all that it is to be enforced on.
    /// In every other state an acknowledged policy must not count as confirmed.
    #[must_use]
    pub const fn confirms(self) -> bool {
        matches!(self, Self::Enforcing)
    }
}

impl From<Enforcement> for v1::Enforcement {
    fn from(enforcement: Enforcement) -> Self {
        match enforcement {
            Enforcement::Enforcing => Self::Enforcing,
            Enforcement::NoPolicyYet => Self::NoPolicyYet,
            Enforcement::PolicesNothing => Self::PolicesNothing,
            Enforcement::Degraded => Self::Degraded,
            Enforcement::Detached => Self::Detached,
        }
    }
}

impl From<HostReport> for v1::HostReport {
    fn from(report: HostReport) -> Self {
        let HostReport {
            enforcement,
            policed,
            unpoliced,
            problems,
            failsafe_subnets,
            failsafe_tcp_ports,
            hosts_controller,
            incidents,
        } = report;
        Self {
            enforcement: v1::Enforcement::from(enforcement).into(),
            policed: policed.into_iter().map(Into::into).collect(),
            unpoliced: unpoliced.into_iter().map(Into::into).collect(),
            problems,
            failsafe_subnets: failsafe_subnets.into_iter().map(Into::into).collect(),
            failsafe_tcp_ports: failsafe_tcp_ports.into_iter().map(u32::from).collect(),
            hosts_controller,
            incidents: incidents.into_iter().map(Into::into).collect(),
        }
    }
}

/// Texts and lists that are longer than any honest one are cut off. A state that this version does not
/// know is a degraded one: what is not understood never counts as protected.
impl TryFrom<v1::HostReport> for HostReport {
    type Error = ConvertError;

    fn try_from(report: v1::HostReport) -> Result<Self, ConvertError> {
        let v1::HostReport {
            enforcement,
            policed,
            unpoliced,
            problems,
            failsafe_subnets,
            failsafe_tcp_ports,
            hosts_controller,
            incidents,
        } = report;
        let mut problems: Vec<String> = some(problems).map(short).collect();
        let enforcement = match v1::Enforcement::try_from(enforcement) {
            Ok(v1::Enforcement::Enforcing) => Enforcement::Enforcing,
            Ok(v1::Enforcement::NoPolicyYet) => Enforcement::NoPolicyYet,
            Ok(v1::Enforcement::PolicesNothing) => Enforcement::PolicesNothing,
            Ok(v1::Enforcement::Degraded) => Enforcement::Degraded,
            Ok(v1::Enforcement::Detached) => Enforcement::Detached,
            Ok(v1::Enforcement::Unspecified) | Err(_) => {
                problems.push(format!(
                    "the host reports the state {enforcement}, which this version does not know"
                ));
                Enforcement::Degraded
            }
        };
        Ok(Self {
            enforcement,
            policed: some(policed).map(Into::into).collect(),
            unpoliced: some(unpoliced).map(Into::into).collect(),
            problems,
            failsafe_subnets: some(failsafe_subnets)
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            failsafe_tcp_ports: some(failsafe_tcp_ports)
                .map(port)
                .collect::<Result<_, _>>()?,
            hosts_controller,
            incidents: some(incidents).map(Into::into).collect(),
        })
    }
}

impl From<PolicedInterface> for v1::PolicedInterface {
    fn from(interface: PolicedInterface) -> Self {
        let PolicedInterface { name, index } = interface;
        Self { name, index }
    }
}

impl From<v1::PolicedInterface> for PolicedInterface {
    fn from(interface: v1::PolicedInterface) -> Self {
        let v1::PolicedInterface { name, index } = interface;
        let name = short(name);
        Self { name, index }
    }
}

impl From<UnpolicedInterface> for v1::UnpolicedInterface {
    fn from(interface: UnpolicedInterface) -> Self {
        let UnpolicedInterface {
            name,
            reason,
            carries_traffic,
            is_problem,
        } = interface;
        Self {
            name,
            reason,
            carries_traffic,
            is_problem,
        }
    }
}

impl From<v1::UnpolicedInterface> for UnpolicedInterface {
    fn from(interface: v1::UnpolicedInterface) -> Self {
        let v1::UnpolicedInterface {
            name,
            reason,
            carries_traffic,
            is_problem,
        } = interface;
        Self {
            name: short(name),
            reason: short(reason),
            carries_traffic,
            is_problem,
        }
    }
}

impl From<Incident> for v1::Incident {
    fn from(incident: Incident) -> Self {
        let Incident { time_ns, text } = incident;
        Self { time_ns, text }
    }
}

impl From<v1::Incident> for Incident {
    fn from(incident: v1::Incident) -> Self {
        let v1::Incident { time_ns, text } = incident;
        let text = short(text);
        Self { time_ns, text }
    }
}

/// What a controller tells an agent of where controllers are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// Sorted, each once. Empty: the controllers announce none.
    pub addresses: Vec<SocketAddr>,
    /// Whether the agent's connection comes from the controller's own machine.
    pub same_host: bool,
}

/// The message that announces these addresses of controllers.
#[must_use]
pub fn announce_controllers(announcement: Announcement) -> v1::ControllerAddresses {
    let Announcement {
        addresses,
        same_host,
    } = announcement;
    let addresses = addresses.into_iter().map(|address| v1::ControllerAddress {
        address: address_to_bytes(address.ip()),
        port: address.port().into(),
    });
    v1::ControllerAddresses {
        addresses: addresses.collect(),
        same_host,
    }
}

/// What a message announces.
///
/// # Errors
/// [`ConvertError`] for an address or a port that there is not.
pub fn announced_controllers(
    message: v1::ControllerAddresses,
) -> Result<Announcement, ConvertError> {
    let v1::ControllerAddresses {
        addresses,
        same_host,
    } = message;
    let address = |address: v1::ControllerAddress| {
        let v1::ControllerAddress { address, port } = address;
        let address: IpAddr = address_from_bytes(&address)?.to_canonical();
        Ok(SocketAddr::new(address, self::port(port)?))
    };
    let mut addresses: Vec<SocketAddr> = some(addresses)
        .map(address)
        .collect::<Result<_, ConvertError>>()?;
    addresses.sort();
    addresses.dedup();
    Ok(Announcement {
        addresses,
        same_host,
    })
}

fn port(number: u32) -> Result<u16, ConvertError> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or(ConvertError::Invalid("a TCP port is not 1 to 65535"))
}

fn some<T>(list: Vec<T>) -> impl Iterator<Item = T> {
    list.into_iter().take(MAX_ENTRIES)
}

fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn report() -> HostReport {
        HostReport {
            enforcement: Enforcement::Degraded,
            policed: vec![PolicedInterface {
                name: "eth0".into(),
                index: 2,
            }],
            unpoliced: vec![UnpolicedInterface {
                name: "ens3".into(),
                reason: "missing".into(),
                carries_traffic: false,
                is_problem: true,
            }],
            problems: vec!["the interface ens3 of the configuration does not exist".into()],
            failsafe_subnets: vec!["10.9.0.0/24".parse().unwrap()],
            failsafe_tcp_ports: vec![22],
            hosts_controller: true,
            incidents: vec![Incident {
                time_ns: 5,
                text: "the qdisc of eth0 was deleted".into(),
            }],
        }
    }

    #[test]
    fn a_host_report_says_the_same_after_the_wire() {
        for enforcement in [
            Enforcement::Enforcing,
            Enforcement::NoPolicyYet,
            Enforcement::PolicesNothing,
            Enforcement::Degraded,
            Enforcement::Detached,
        ] {
            let report = HostReport {
                enforcement,
                ..report()
            };
            let wire = v1::HostReport::from(report.clone());
            assert_eq!(HostReport::try_from(wire), Ok(report));
        }
    }

    #[test]
    fn a_state_that_is_not_known_never_counts_as_protected() {
        for number in [0, 99] {
            let wire = v1::HostReport {
                enforcement: number,
                ..v1::HostReport::from(report())
            };
            let read = HostReport::try_from(wire).unwrap();
            assert_eq!(read.enforcement, Enforcement::Degraded);
            assert!(!read.enforcement.confirms());
            assert!(read.problems[1].contains(&number.to_string()));
        }
    }

    #[test]
    fn announced_controllers_are_sorted_and_have_a_port() {
        let addresses: Vec<SocketAddr> = vec![
            "10.0.0.1:7443".parse().unwrap(),
            "[fd00::1]:7443".parse().unwrap(),
        ];
        let announcement = |addresses: Vec<SocketAddr>| Announcement {
            addresses,
            same_host: true,
        };
        let twice = addresses.iter().rev().chain(&addresses).copied().collect();
        assert_eq!(
            announced_controllers(announce_controllers(announcement(twice))),
            Ok(announcement(addresses))
        );
        let nowhere = announcement(vec!["10.0.0.1:0".parse().unwrap()]);
        assert!(announced_controllers(announce_controllers(nowhere)).is_err());
    }
}
