//! A policy that differs from the one applied last by one address: written without compiling anything.

use std::{collections::HashSet, net::IpAddr};

use datapath::layout::Settings;
use policy::{HostPolicy, PeerMatch};

use crate::{
    enforcer::{EnforceError, Enforcer, Live},
    plan::{AddressChange, Operation, Stamp, change_address},
};

/// What was applied last.
pub(super) struct Applied {
    policy: HostPolicy,
    /// Addresses that rules name by themselves; their classes are not those of their identities.
    named: HashSet<IpAddr>,
    /// Peer numbers from this one on have not been used since the last whole plan settled.
    unused: u32,
    /// Addresses that went since: their numbers are kept.
    gone: usize,
}

/// Addresses that may go before a whole plan clears their numbers away.
const MAX_GONE: usize = 1024;

impl Applied {
    /// `merged` has the host's own rules too; `unused` is above all peer numbers from before and after.
    pub fn new(policy: &HostPolicy, merged: &HostPolicy, unused: u32) -> Self {
        let subnets = merged.rules.iter().flat_map(|rule| match &rule.peers {
            PeerMatch::Any => &[][..],
            PeerMatch::Of { subnets, .. } => subnets,
        });
        let prefixes = subnets.flat_map(|matched| matched.except.iter().chain([&matched.subnet]));
        let named = prefixes
            .filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len())
            .map(|prefix| prefix.addr())
            .collect();
        Self {
            policy: policy.clone(),
            named,
            unused,
            gone: 0,
        }
    }

    /// How a policy differs, if it does so by one address that came or went.
    fn change(&self, policy: &HostPolicy) -> Option<AddressChange> {
        if self.gone >= MAX_GONE {
            return None;
        }
        let (before, after) = (&self.policy.addresses, &policy.addresses);
        let change = match after.len().checked_sub(before.len()) {
            Some(1) => {
                let address = only_in(after.keys(), before.keys())?;
                let identity = after.get(&address)?;
                let like =
                    |(known, of): &(&IpAddr, _)| *of == identity && !self.named.contains(known);
                let (like, _) = before.iter().find(like)?;
                AddressChange::Comes {
                    address,
                    like: *like,
                }
            }
            None if after.len() + 1 == before.len() => AddressChange::Goes {
                address: only_in(before.keys(), after.keys())?,
            },
            _ => return None,
        };
        let (AddressChange::Comes { address, .. } | AddressChange::Goes { address }) = change;
        let others_stay = before
            .iter()
            .filter(|(known, _)| **known != address)
            .eq(after.iter().filter(|(known, _)| **known != address));
        (others_stay
            && !self.named.contains(&address)
            && self.policy.identity == policy.identity
            && self.policy.rules == policy.rules)
            .then_some(change)
    }
}

/// The first of the one that is not in the other; both are sorted.
fn only_in<'a>(
    one: impl Iterator<Item = &'a IpAddr>,
    other: impl Iterator<Item = &'a IpAddr>,
) -> Option<IpAddr> {
    let mut other = other.peekable();
    for address in one {
        if other.next_if_eq(&address).is_none() {
            return Some(*address);
        }
    }
    None
}

impl Enforcer {
    /// Makes a policy live that differs by one address from the one that was applied last; `settings`
    /// are the live ones, which the same rules of the host went into. None: it differs by more.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`]: the tables are between the two policies, and it takes a whole plan.
    pub(super) fn apply_address(
        &mut self,
        policy: &HostPolicy,
        settings: &Settings,
        stamp: &Stamp,
    ) -> Result<Option<Live>, EnforceError> {
        let Some((applied, observed)) = self.applied.as_ref().zip(self.observed.as_ref()) else {
            return Ok(None);
        };
        let operations = applied
            .change(policy)
            .and_then(|change| change_address(observed, change, settings, stamp, applied.unused));
        let Some(operations) = operations else {
            return Ok(None);
        };
        let (Some(observed), Some(mut applied)) = (self.observed.take(), self.applied.take())
        else {
            return Ok(None);
        };
        let before = observed.generation;
        let observed = observed.after(&operations);
        self.rule_book
            .renumber(before, observed.generation, policy.revision);
        for operation in &operations {
            self.maps.execute(std::slice::from_ref(operation))?;
        }
        tracing::info!(
            revision = policy.revision.0,
            generation = observed.generation,
            "policy applied: one address changed"
        );
        if policy.addresses.len() < applied.policy.addresses.len() {
            applied.gone += 1;
        }
        let inserts = |operation: &Operation| matches!(operation, Operation::InsertPeer { .. });
        applied.unused += u32::from(operations.iter().any(inserts));
        applied.policy.addresses.clone_from(&policy.addresses);
        applied.policy.revision = policy.revision;
        let live = Live {
            generation: observed.generation,
            revision: policy.revision,
            digest: stamp.digest,
        };
        (self.observed, self.applied) = (Some(observed), Some(applied));
        Ok(Some(live))
    }
}
