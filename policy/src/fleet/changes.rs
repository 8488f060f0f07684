//! What a change of a fleet does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{compile::Subject, inventory::HostName, set::SegmentId, words::Identity};

/// What a change of a fleet did: exactly that, nothing that came out as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The subjects whose policy is another now.
    pub subjects: BTreeMap<Arc<Subject>, Change>,
    /// The hosts that came, that left, and that are another subject now.
    pub hosts: BTreeSet<HostName>,
}

/// How the policy of a subject changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new or has other rules.
    Policy,
    /// Its rules are the same. These addresses have an identity that they name, or (none) have one
    /// no more; sorted.
    Addresses(Vec<(IpAddr, Option<Identity>)>),
    /// No host is this subject any more.
    Gone,
}

/// Two hosts cannot hold one address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} cannot be an address of {host}: another host holds it")]
pub struct AddressTaken {
    /// The address.
    pub address: IpAddr,
    /// Who asked for it.
    pub host: HostName,
}

/// An address that has another identity now.
pub(super) struct Moved {
    pub address: IpAddr,
    pub before: Option<Identity>,
    pub after: Option<Identity>,
}

/// What one host's change did to the population.
#[derive(Default)]
pub(super) struct Effect {
    pub moved: Vec<Moved>,
    /// With other members now.
    pub segments: BTreeSet<SegmentId>,
    /// The first host in quarantine came, or the last one left.
    pub is_quarantine_new: bool,
    /// Identities that number named ports are part of the change.
    pub has_ports: bool,
}
