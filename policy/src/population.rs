//! Who is behind an address: identities, and the addresses that have them.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    inventory::{Inventory, Labels},
    set::PolicySet,
    words::Identity,
};

/// Which identity stands for which labels. An identity, once given, never stands for other labels;
/// the owner of the table persists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityTable {
    identities: BTreeMap<Labels, Identity>,
    /// Above every identity that was given.
    next: Identity,
}

impl IdentityTable {
    /// The identity of these labels; a new one, the next after the highest, if they have none yet.
    pub fn assign(&mut self, labels: &Labels) -> Identity {
        if let Some(identity) = self.identities.get(labels) {
            return *identity;
        }
        let identity = self.next;
        self.next = Identity(identity.0 + 1);
        self.identities.insert(labels.clone(), identity);
        identity
    }

    /// Notes an identity that was given elsewhere.
    pub fn insert(&mut self, identity: Identity, labels: Labels) {
        self.next = self.next.max(Identity(identity.0 + 1));
        self.identities.insert(labels, identity);
    }

    /// Every identity with its labels, sorted by labels.
    pub fn iter(&self) -> impl Iterator<Item = (Identity, &Labels)> {
        self.identities
            .iter()
            .map(|(labels, identity)| (*identity, labels))
    }
}

impl Default for IdentityTable {
    fn default() -> Self {
        Self {
            identities: BTreeMap::new(),
            next: Identity::FIRST,
        }
    }
}

impl FromIterator<(Identity, Labels)> for IdentityTable {
    fn from_iter<I: IntoIterator<Item = (Identity, Labels)>>(entries: I) -> Self {
        let mut table = Self::default();
        for (identity, labels) in entries {
            table.insert(identity, labels);
        }
        table
    }
}

/// All workloads, as policy sees them: by address and by identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Population {
    /// The labels of every identity that some host has now; quarantined hosts have none.
    pub labels: BTreeMap<Identity, Labels>,
    /// The identity behind each address; [`Identity::QUARANTINED`] for hosts in quarantine.
    pub addresses: BTreeMap<IpAddr, Identity>,
}

impl Population {
    /// Takes the population of an inventory as a set sees it, giving identities to labels that have
    /// none yet.
    #[must_use]
    pub fn new(set: &PolicySet, inventory: &Inventory, identities: &mut IdentityTable) -> Self {
        let mut population = Self::default();
        for host in &inventory.hosts {
            let identity = if host.quarantined {
                Identity::QUARANTINED
            } else {
                let labels = set.identity_labels(&host.labels);
                let identity = identities.assign(&labels);
                population.labels.insert(identity, labels);
                identity
            };
            population
                .addresses
                .extend(host.addresses.iter().map(|address| (*address, identity)));
        }
        population
    }
}
