//! Which identities the hosts have, by the label schema of a policy set.

use std::collections::{BTreeMap, BTreeSet};

use policy::{Identity, IdentityTable, Labels, PolicySet};
use proto::spiffe::HostId;

use super::{PolicyInForce, State};

/// The hosts' identities as a set sees them.
#[derive(Clone, Debug)]
pub struct Identified {
    /// Every identity that was ever given, and those that this set brings.
    pub table: IdentityTable,
    /// What those that it brings stand for.
    pub new: BTreeMap<Identity, Labels>,
    hosts: BTreeMap<HostId, Identity>,
}

impl State {
    /// The identities that the hosts would have under a set. Nothing changes.
    pub fn identified(&self, set: &PolicySet) -> Identified {
        let known: BTreeSet<Identity> = self.identities.iter().map(|(id, _)| id).collect();
        let mut table = self.identities.clone();
        let mut new = BTreeMap::new();
        let mut hosts = BTreeMap::new();
        for host in self.hosts() {
            let labels = set.identity_labels(&host.labels);
            let identity = table.assign(&labels);
            hosts.insert(host.id, identity);
            if !known.contains(&identity) {
                new.insert(identity, labels);
            }
        }
        Identified { table, new, hosts }
    }

    /// Makes a set the one in force, and the identities those that it sees.
    pub fn put_in_force(&mut self, policy: PolicyInForce, identified: Identified) {
        let Identified {
            table,
            new: _,
            hosts,
        } = identified;
        self.policy = policy;
        self.identities = table;
        for (id, identity) in hosts {
            if let Some(host) = self.hosts.get_mut(&id) {
                host.identity = identity;
            }
        }
    }
}
