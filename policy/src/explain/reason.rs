//! Why a rule does not match a flow, as values and in words.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{
    selector::{Requirement, Test},
    service::{PortKey, PortSpan},
    set::NamedPort,
};

/// Items of a list that a text shows before it only counts.
const SHOWN: usize = 4;

/// One thing that would have to be different for the rule to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It does not speak of the judging host: why that is in none of its segments.
    Host(Vec<Outside>),
    /// It does not name the other end: why that is none of its peers.
    Peer(Vec<Outside>),
    /// It does not name the port.
    Port(PortMismatch),
}

/// Why a workload or an address is not what one name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Not in a segment.
    Segment {
        /// The host's name, or the address that no host holds.
        who: String,
        /// The segment's name.
        segment: String,
        /// The requirements that do not hold; none where no host holds the address, or where the
        /// segment requires no labels.
        unmet: Option<Vec<Unmet>>,
        /// Whether the segment means workloads by labels.
        by_labels: bool,
        /// The subnets that the segment means too.
        subnets: Vec<IpNet>,
    },
    /// Not in a subnet.
    Subnet {
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// In a subnet, and in a part of it that is excepted.
    Excepted {
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNet,
        /// The part.
        hole: IpNet,
    },
}

/// A requirement of a selector that a workload does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// What is required.
    pub requirement: Requirement,
    /// What the workload has; none: no such label that counts.
    pub value: Option<String>,
    /// Whether it has the label, but the label schema does not let it count.
    pub is_ignored: bool,
}

/// What a rule names, where that is not the port of the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMismatch {
    /// The flow's.
    pub asked: PortKey,
    /// The rule's, by number.
    pub spans: Vec<PortSpan>,
    /// The rule's, by name.
    pub named: Vec<NamedNumbers>,
}

/// A named port, and the numbers that the destination gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedNumbers {
    /// The port.
    pub port: NamedPort,
    /// Empty: the destination has no port of that name.
    pub numbers: Vec<u16>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(reasons) | Self::Peer(reasons) if reasons.is_empty() => {
                f.write_str("it names nobody")
            }
            Self::Host(reasons) | Self::Peer(reasons) => shorten(f, reasons, "; "),
            Self::Port(mismatch) => mismatch.fmt(f),
        }
    }
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subnet { address, subnet } => write!(f, "{address} is not in {subnet}"),
            Self::Excepted {
                address,
                subnet,
                hole,
            } => write!(f, "{address} is in {subnet}, but {hole} of it is excepted"),
            Self::Segment {
                who,
                segment,
                unmet,
                by_labels,
                subnets,
            } => {
                write!(f, "{who} is not in segment {segment}")?;
                let mut lead = " because ";
                match unmet {
                    Some(unmet) => {
                        f.write_str(lead)?;
                        shorten(f, unmet, ", ")?;
                        lead = ", nor is it in ";
                    }
                    None if *by_labels => {
                        write!(f, "{lead}no host of the inventory has this address")?;
                        lead = ", nor is it in ";
                    }
                    None => lead = " because it is not in ",
                }
                if !subnets.is_empty() {
                    f.write_str(lead)?;
                    shorten(f, subnets, " or ")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.requirement.key;
        if self.is_ignored {
            return write!(f, "{key} is not in the label schema");
        }
        match (&self.requirement.test, &self.value) {
            (Test::DoesNotExist, Some(value)) => write!(f, "it has the label {key}: {value}"),
            (_, None) => write!(f, "it has no label {key}"),
            (Test::In(_) | Test::NotIn(_) | Test::Exists, Some(value)) => {
                write!(f, "{key} is {value}")
            }
        }
    }
}

impl fmt::Display for PortMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spans = self.spans.iter().map(ToString::to_string);
        let named = self.named.iter().map(ToString::to_string);
        let all: Vec<String> = spans.chain(named).collect();
        write!(f, "the port is {}, ", one(self.asked))?;
        f.write_str(match all.len() {
            0 => "and it names none",
            1 => "not ",
            _ => "not one of ",
        })?;
        shorten(f, &all, ", ")
    }
}

impl fmt::Display for NamedNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NamedPort { slot, name } = &self.port;
        write!(f, "{slot}/{name} (")?;
        if self.numbers.is_empty() {
            f.write_str("no port of the destination")?;
        } else {
            shorten(f, &self.numbers, ", ")?;
        }
        f.write_str(")")
    }
}

/// A key as the span that is shown as authors write it.
pub(super) const fn one(PortKey { slot, key }: PortKey) -> PortSpan {
    PortSpan {
        slot,
        first: key,
        last: key,
    }
}

/// The first few, and how many more there are.
fn shorten<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T], between: &str) -> fmt::Result {
    for (index, item) in items.iter().take(SHOWN).enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        item.fmt(f)?;
    }
    if items.len() > SHOWN {
        write!(f, "{between}{} more", items.len() - SHOWN)?;
    }
    Ok(())
}
