//! Between the wire and the types of the policy crate.
//!
//! Each message is taken apart field by field, so that a new field cannot be forgotten. What comes
//! from the wire is checked for everything that the policy types promise: an agent never enforces a
//! policy that means something else than the controller's.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use policy::{
    Direction, Effect, HostPolicy, Identity, Mode, Origin, PeerMatch, PortSpan, ProtocolSlot,
    Revision, Rule, Tier, host_policy::SubnetMatch,
};

use crate::v1;

/// A message that holds what no policy type can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// Neither 4 nor 16 bytes.
    #[error("an address has {0} bytes, not 4 or 16")]
    Address(usize),
    /// A prefix length beyond the family's, or bits beyond the prefix.
    #[error("{address}/{prefix_length} is not a subnet")]
    Subnet {
        /// The address as sent.
        address: IpAddr,
        /// The prefix length as sent, in bits.
        prefix_length: u32,
    },
    /// A number that the enum does not have, or its unspecified one.
    #[error("{number} is not a {what}")]
    Enum {
        /// The enum, in words.
        what: &'static str,
        /// The number as sent.
        number: i32,
    },
    /// A message field that must be there and is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number beyond what its place holds, or an order that does not hold.
    #[error("{0}")]
    Invalid(&'static str),
}

/// The 4 or 16 bytes of an address, in network order.
#[must_use]
pub fn address_to_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address in 4 or 16 bytes, in network order.
///
/// # Errors
/// [`ConvertError::Address`] for any other length.
pub fn address_from_bytes(bytes: &[u8]) -> Result<IpAddr, ConvertError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        Ok(octets.into())
    } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        Ok(octets.into())
    } else {
        Err(ConvertError::Address(bytes.len()))
    }
}

/// An enum of the wire and its counterpart, both ways. Zero, "unspecified", has none.
macro_rules! convert_enum {
    ($ours:ident, $what:literal, $($variant:ident),+) => {
        impl From<$ours> for v1::$ours {
            fn from(value: $ours) -> Self {
                match value {
                    $($ours::$variant => Self::$variant,)+
                }
            }
        }

        impl TryFrom<v1::$ours> for $ours {
            type Error = ConvertError;

            fn try_from(value: v1::$ours) -> Result<Self, ConvertError> {
                match value {
                    $(v1::$ours::$variant => Ok(Self::$variant),)+
                    v1::$ours::Unspecified => Err(ConvertError::Enum { what: $what, number: 0 }),
                }
            }
        }

        impl v1::$ours {
            /// The counterpart of the number that a message field holds.
            ///
            /// # Errors
            /// [`ConvertError::Enum`] for an unknown or unspecified number.
            pub fn from_field(number: i32) -> Result<$ours, ConvertError> {
                Self::try_from(number)
                    .map_err(|_| ConvertError::Enum { what: $what, number })?
                    .try_into()
            }
        }
    };
}

convert_enum!(Direction, "direction", Ingress, Egress);
convert_enum!(Effect, "effect", Allow, Deny);
convert_enum!(Mode, "mode", Enforce, Observe);
convert_enum!(
    Tier,
    "tier",
    Lifeline,
    Quarantine,
    Failsafe,
    AntiSpoofing,
    Policy,
    Default
);
convert_enum!(
    ProtocolSlot,
    "protocol slot",
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv6,
    Other
);

impl From<IpNet> for v1::Subnet {
    fn from(subnet: IpNet) -> Self {
        Self {
            address: address_to_bytes(subnet.addr()),
            prefix_length: subnet.prefix_len().into(),
        }
    }
}

impl TryFrom<v1::Subnet> for IpNet {
    type Error = ConvertError;

    fn try_from(subnet: v1::Subnet) -> Result<Self, ConvertError> {
        let v1::Subnet {
            address,
            prefix_length,
        } = subnet;
        let address = address_from_bytes(&address)?;
        u8::try_from(prefix_length)
            .ok()
            .and_then(|length| Self::new(address, length).ok())
            .filter(|subnet| subnet.network() == address)
            .ok_or(ConvertError::Subnet {
                address,
                prefix_length,
            })
    }
}

impl From<&SubnetMatch> for v1::SubnetMatch {
    fn from(subnet: &SubnetMatch) -> Self {
        let SubnetMatch { subnet, except } = subnet;
        Self {
            subnet: Some((*subnet).into()),
            except: except.iter().map(|&hole| hole.into()).collect(),
        }
    }
}

impl TryFrom<v1::SubnetMatch> for SubnetMatch {
    type Error = ConvertError;

    fn try_from(subnet: v1::SubnetMatch) -> Result<Self, ConvertError> {
        let v1::SubnetMatch { subnet, except } = subnet;
        Ok(Self {
            subnet: subnet
                .ok_or(ConvertError::Missing("the subnet of a peer"))?
                .try_into()?,
            except: except
                .into_iter()
                .map(IpNet::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&PeerMatch> for v1::PeerMatch {
    fn from(peers: &PeerMatch) -> Self {
        match peers {
            PeerMatch::Any => Self {
                any: true,
                identities: Vec::new(),
                subnets: Vec::new(),
            },
            PeerMatch::Of {
                identities,
                subnets,
            } => Self {
                any: false,
                identities: identities.iter().map(|identity| identity.0).collect(),
                subnets: subnets.iter().map(Into::into).collect(),
            },
        }
    }
}

impl TryFrom<v1::PeerMatch> for PeerMatch {
    type Error = ConvertError;

    fn try_from(peers: v1::PeerMatch) -> Result<Self, ConvertError> {
        let v1::PeerMatch {
            any,
            identities,
            subnets,
        } = peers;
        if any {
            return if identities.is_empty() && subnets.is_empty() {
                Ok(Self::Any)
            } else {
                Err(ConvertError::Invalid("a peer is any and a list at once"))
            };
        }
        // Lookups in it are by binary search.
        if !identities.is_sorted_by(|left, right| left < right) {
            return Err(ConvertError::Invalid(
                "the identities of a peer are not in order",
            ));
        }
        Ok(Self::Of {
            identities: identities.into_iter().map(Identity).collect(),
            subnets: subnets
                .into_iter()
                .map(SubnetMatch::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<PortSpan> for v1::PortSpan {
    fn from(span: PortSpan) -> Self {
        let PortSpan { slot, first, last } = span;
        Self {
            slot: v1::ProtocolSlot::from(slot).into(),
            first: first.into(),
            last: last.into(),
        }
    }
}

impl TryFrom<v1::PortSpan> for PortSpan {
    type Error = ConvertError;

    fn try_from(span: v1::PortSpan) -> Result<Self, ConvertError> {
        let v1::PortSpan { slot, first, last } = span;
        let slot = v1::ProtocolSlot::from_field(slot)?;
        let beyond = |_| ConvertError::Invalid("a port is above 65535");
        let first = u16::try_from(first).map_err(beyond)?;
        let last = u16::try_from(last).map_err(beyond)?;
        if first > last || last > slot.last_key() {
            return Err(ConvertError::Invalid(
                "a span of ports ends before it begins or too late",
            ));
        }
        Ok(Self { slot, first, last })
    }
}

impl From<&Origin> for v1::Origin {
    fn from(origin: &Origin) -> Self {
        let Origin { rule, file, line } = origin;
        Self {
            rule: rule.clone(),
            file: file.clone(),
            line: *line,
        }
    }
}

impl From<v1::Origin> for Origin {
    fn from(origin: v1::Origin) -> Self {
        let v1::Origin { rule, file, line } = origin;
        Self { rule, file, line }
    }
}

impl From<&HostPolicy> for v1::HostPolicy {
    fn from(policy: &HostPolicy) -> Self {
        let HostPolicy {
            revision,
            identity,
            rules,
            addresses,
        } = policy;
        let mut origins = Origins::default();
        Self {
            revision: revision.0,
            identity: identity.0,
            rules: rules
                .iter()
                .map(|rule| rule_to_wire(rule, &mut origins))
                .collect(),
            origins: origins.list,
            addresses: addresses
                .iter()
                .map(|(&address, identity)| v1::BookEntry {
                    address: address_to_bytes(address),
                    identity: identity.0,
                })
                .collect(),
        }
    }
}

/// Each origin once, in the order in which rules first name them.
#[derive(Default)]
struct Origins<'a> {
    list: Vec<v1::Origin>,
    index: HashMap<&'a Origin, u32>,
}

impl<'a> Origins<'a> {
    fn index_of(&mut self, origin: &'a Origin) -> u32 {
        *self.index.entry(origin).or_insert_with(|| {
            self.list.push(origin.into());
            // There are no more origins than rules, and those are numbered in 32 bits.
            u32::try_from(self.list.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

fn rule_to_wire<'a>(rule: &'a Rule, origins: &mut Origins<'a>) -> v1::Rule {
    let Rule {
        direction,
        tier,
        effect,
        mode,
        peers,
        ports,
        log,
        origin,
    } = rule;
    v1::Rule {
        direction: v1::Direction::from(*direction).into(),
        tier: v1::Tier::from(*tier).into(),
        effect: v1::Effect::from(*effect).into(),
        mode: v1::Mode::from(*mode).into(),
        peers: Some(peers.into()),
        ports: ports.iter().map(|&span| span.into()).collect(),
        log: *log,
        origin: origins.index_of(origin),
    }
}

fn rule_from_wire(rule: v1::Rule, origins: &[Arc<Origin>]) -> Result<Rule, ConvertError> {
    let v1::Rule {
        direction,
        tier,
        effect,
        mode,
        peers,
        ports,
        log,
        origin,
    } = rule;
    Ok(Rule {
        direction: v1::Direction::from_field(direction)?,
        tier: v1::Tier::from_field(tier)?,
        effect: v1::Effect::from_field(effect)?,
        mode: v1::Mode::from_field(mode)?,
        peers: peers
            .ok_or(ConvertError::Missing("the peer of a rule"))?
            .try_into()?,
        ports: ports
            .into_iter()
            .map(PortSpan::try_from)
            .collect::<Result<_, _>>()?,
        log,
        origin: usize::try_from(origin)
            .ok()
            .and_then(|index| origins.get(index))
            .cloned()
            .ok_or(ConvertError::Missing("the origin of a rule"))?,
    })
}

impl TryFrom<v1::HostPolicy> for HostPolicy {
    type Error = ConvertError;

    fn try_from(policy: v1::HostPolicy) -> Result<Self, ConvertError> {
        let v1::HostPolicy {
            revision,
            identity,
            origins,
            rules,
            addresses,
        } = policy;
        let origins: Vec<_> = origins
            .into_iter()
            .map(|origin| Arc::new(Origin::from(origin)))
            .collect();
        let entries = addresses.len();
        let addresses = addresses
            .into_iter()
            .map(|v1::BookEntry { address, identity }| {
                Ok((address_from_bytes(&address)?, Identity(identity)))
            })
            .collect::<Result<BTreeMap<_, _>, ConvertError>>()?;
        if addresses.len() != entries {
            return Err(ConvertError::Invalid(
                "an address is in the address book twice",
            ));
        }
        Ok(Self {
            revision: Revision(revision),
            identity: Identity(identity),
            rules: rules
                .into_iter()
                .map(|rule| rule_from_wire(rule, &origins))
                .collect::<Result<_, _>>()?,
            addresses,
        })
    }
}

#[cfg(test)]
mod tests;
