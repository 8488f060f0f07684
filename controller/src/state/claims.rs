//! Which addresses count as a host's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use proto::spiffe::HostId;

use super::State;
use crate::model::Host;

/// More addresses than this of one host are not believed.
const MAX_ADDRESSES: usize = 256;

/// What becomes of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// The host's from now on.
    pub accepted: BTreeSet<IpAddr>,
    /// Not believed.
    pub refused: BTreeSet<IpAddr>,
    /// Hosts that have not been seen for a while and lose addresses to this one: what they keep.
    pub left_to: BTreeMap<HostId, BTreeSet<IpAddr>>,
}

impl State {
    /// Judges what a host claims over a connection from `source`: an address is believed when it
    /// is the source, or in a subnet of the host's token, and no other live host has it.
    /// Addresses that mean nothing beyond their link are passed over.
    ///
    /// The source is the host's also when the host does not say so, for packets do come from there.
    /// In quarantine a host loses no address, neither by claiming fewer nor to another host: what
    /// it lost, its peers would no longer shut out.
    pub fn judge(
        &self,
        id: HostId,
        source: IpAddr,
        claimed: &BTreeSet<IpAddr>,
        grace: Duration,
    ) -> Judged {
        let mut judged = Judged::default();
        let Some(host) = self.host(id) else {
            return judged;
        };
        if host.quarantine.is_some() {
            judged.accepted.clone_from(&host.addresses);
        }
        let unsaid = Some(source).filter(|it| !is_link_scoped(*it) && !claimed.contains(it));
        for &address in unsaid.iter().chain(claimed) {
            if (address != source && is_link_scoped(address)) || judged.accepted.contains(&address)
            {
                continue;
            }
            let owner = self.other_owner(id, address);
            let allowed = address == source
                || host
                    .address_subnets
                    .iter()
                    .any(|subnet| subnet.contains(&address));
            let free = owner
                .is_none_or(|owner| owner.quarantine.is_none() && !self.is_live(owner.id, grace));
            let full = judged.accepted.len() >= MAX_ADDRESSES && address != source;
            if !allowed || !free || full {
                // Behind address translation many hosts have one source: no claim, no offence.
                if unsaid != Some(address) {
                    judged.refused.insert(address);
                }
                continue;
            }
            judged.accepted.insert(address);
            if let Some(loser) = owner {
                let keeps = judged
                    .left_to
                    .entry(loser.id)
                    .or_insert_with(|| loser.addresses.clone());
                keeps.remove(&address);
            }
        }
        judged
    }

    /// The host that an address counts as, if it is another one.
    fn other_owner(&self, id: HostId, address: IpAddr) -> Option<&Host> {
        self.owner(address).filter(|owner| owner.id != id)
    }

    /// Notes what is not believed of a host's claim, and returns what is new of it.
    pub fn note_refused(&mut self, id: HostId, refused: BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let before = if refused.is_empty() {
            self.refused.remove(&id)
        } else {
            self.refused.insert(id, refused.clone())
        };
        let before = before.unwrap_or_default();
        refused.difference(&before).copied().collect()
    }

    /// The addresses that a host claims and that are not believed.
    pub fn refused(&self, id: HostId) -> impl Iterator<Item = IpAddr> {
        self.refused.get(&id).into_iter().flatten().copied()
    }

    /// Gives a host its addresses.
    pub fn set_addresses(&mut self, id: HostId, addresses: BTreeSet<IpAddr>) {
        if let Some(host) = self.hosts.get_mut(&id) {
            for address in &host.addresses {
                // Another host may have been given it in the same change.
                if self.owners.get(address) == Some(&id) {
                    self.owners.remove(address);
                }
            }
            self.owners
                .extend(addresses.iter().map(|address| (*address, id)));
            host.addresses = addresses;
            self.changed_hosts.insert(host.name.clone());
        }
    }

    /// Live hosts with a claim that was refused, or a source that another host has: they may be
    /// given it later.
    pub fn hosts_to_judge_again(&self) -> Vec<HostId> {
        self.sessions
            .iter()
            .filter(|(id, session)| {
                self.refused.contains_key(id) || self.other_owner(**id, session.source).is_some()
            })
            .map(|(id, _)| *id)
            .collect()
    }
}

fn is_link_scoped(address: IpAddr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
}
