//! Denials: resolved to names when they come, kept, and passed on to those who follow.

use std::sync::Arc;

use policy::Identity;
use proto::{convert::address_from_bytes, spiffe::HostId, v1};
use tokio::sync::broadcast;

use super::{Controller, enrol::replaced};
use crate::{
    error::{Error, Result},
    state::State,
    store::{KeptDenial, Store},
};

impl Controller {
    /// Keeps a batch of a host's denials, once, however often it is sent. Whoever sent it may
    /// forget it when this returns.
    ///
    /// # Errors
    /// When the store cannot be written: the batch is to be sent again.
    pub async fn keep_denials(&self, id: HostId, batch: v1::DenialBatch) -> Result<()> {
        let v1::DenialBatch {
            sequence,
            denials,
            lost,
        } = batch;
        let sent = denials.len();
        let denials: Vec<_> = {
            let state = self.lock().await;
            let host = state.host(id).ok_or_else(|| replaced(id))?;
            let host_name = host.name.0.clone();
            let host_identity = host.effective_identity().0;
            denials
                .into_iter()
                .filter_map(|denial| resolve(&state, &host_name, host_identity, denial))
                .collect()
        };
        // Not under the lock: the disk may be slow, and nothing is decided from denials.
        let first = self
            .store
            .add_denials(id, sequence, &denials, self.limits.denials)
            .await?;
        let Some(first) = first else {
            tracing::debug!(host = %id, sequence, "this batch was kept before");
            return Ok(());
        };
        let malformed = sent - denials.len();
        if malformed > 0 {
            tracing::warn!(host = %id, malformed, "denials that make no sense, counted as lost");
        }
        let lost = lost + malformed as u64;
        self.lock()
            .await
            .report(id, |report| report.denials_lost += lost);
        for (id, denial) in (first..).zip(denials) {
            // Nobody may be following.
            let _ = self.denials.send(Arc::new(KeptDenial { id, denial }));
        }
        Ok(())
    }

    /// Denials as they come, for a follower.
    pub fn follow_denials(&self) -> broadcast::Receiver<Arc<KeptDenial>> {
        self.denials.subscribe()
    }

    /// Where kept denials are read.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Checks that there is a host of this name; empty is every host.
    ///
    /// # Errors
    /// When there is none.
    pub async fn check_host_filter(&self, name: &str) -> Result<()> {
        let state = self.lock().await;
        if name.is_empty() || state.host_named(name).is_some() {
            Ok(())
        } else {
            Err(Error::NotFound(state.no_such_host(name)))
        }
    }
}

/// A denial with the names of both ends, as they are now; none for one that makes no sense.
fn resolve(
    state: &State,
    host: &str,
    host_identity: u32,
    denial: v1::Denial,
) -> Option<v1::HostDenial> {
    v1::Direction::from_field(denial.direction).ok()?;
    // Without a rule there are addresses only if the frame has an IP header.
    let address = match &denial.frame {
        Some(frame) => {
            let is_whole = frame.peer_mac.len() == 6 && frame.ether_type <= u16::MAX.into();
            is_whole.then_some(())?;
            let none = denial.peer_address.is_empty() && denial.local_address.is_empty();
            (!none).then_some(&denial)
        }
        None => {
            v1::Tier::from_field(denial.tier).ok()?;
            Some(&denial)
        }
    };
    let address = match address {
        Some(denial) => {
            address_from_bytes(&denial.local_address).ok()?;
            let peer = address_from_bytes(&denial.peer_address).ok()?;
            Some(peer.to_canonical())
        }
        None => None,
    };
    let owner = address.and_then(|address| state.owner(address));
    let (peer, identity) = match owner {
        Some(peer) => (peer.name.0.clone(), peer.effective_identity()),
        None if state.policy.set.segments.iter().any(|segment| {
            segment
                .subnets
                .iter()
                .any(|subnet| address.is_some_and(|address| subnet.contains(&address)))
        }) =>
        {
            (String::new(), Identity::UNMANAGED)
        }
        None => (String::new(), Identity::WORLD),
    };
    Some(v1::HostDenial {
        host: host.to_owned(),
        peer,
        peer_identity: identity.0,
        host_identity,
        denial: Some(denial),
        missed: 0,
    })
}
