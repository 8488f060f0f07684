//! Between the wire and the types of the policy crate.
//!
//! Each message is taken apart field by field, so that a new field cannot be forgotten. What comes
//! from the wire is checked for everything that the policy types promise: an agent never enforces a
//! policy that means something else than the controller's.

use std::net::IpAddr;

use ipnet::IpNet;
use policy::{Action, Direction, Mode, ProtocolSlot, Tier};

use crate::v1;

mod host_policy;

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
convert_enum!(Action, "action", Allow, Deny, Pass);
convert_enum!(Mode, "mode", Enforce, Observe);
convert_enum!(
    Tier,
    "tier",
    Lifeline,
    Quarantine,
    Failsafe,
    AntiSpoofing,
    Guardrail,
    Exception,
    Policy,
    Baseline,
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

#[cfg(test)]
mod tests;
