//! Host policies and their parts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ipnet::IpNet;
use policy::{
    HostPolicy, Identity, Origin, PeerMatch, PortSpan, Revision, Rule, SubnetMatch, Timestamp,
};

use super::{ConvertError, address_from_bytes, address_to_bytes};
use crate::v1;

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
        action,
        mode,
        peers,
        ports,
        log,
        expires,
        origin,
    } = rule;
    v1::Rule {
        direction: v1::Direction::from(*direction).into(),
        tier: v1::Tier::from(*tier).into(),
        action: v1::Action::from(*action).into(),
        mode: v1::Mode::from(*mode).into(),
        peers: Some(peers.into()),
        ports: ports.iter().map(|&span| span.into()).collect(),
        log: *log,
        origin: origins.index_of(origin),
        expires_unix: expires.map(|Timestamp(seconds)| seconds),
    }
}

fn rule_from_wire(rule: v1::Rule, origins: &[Arc<Origin>]) -> Result<Rule, ConvertError> {
    let v1::Rule {
        direction,
        tier,
        action,
        mode,
        peers,
        ports,
        log,
        origin,
        expires_unix,
    } = rule;
    Ok(Rule {
        direction: v1::Direction::from_field(direction)?,
        tier: v1::Tier::from_field(tier)?,
        action: v1::Action::from_field(action)?,
        mode: v1::Mode::from_field(mode)?,
        peers: peers
            .ok_or(ConvertError::Missing("the peer of a rule"))?
            .try_into()?,
        ports: ports
            .into_iter()
            .map(PortSpan::try_from)
            .collect::<Result<_, _>>()?,
        log,
        expires: expires_unix.map(Timestamp),
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
