//! What each host is to enforce, watched by its stream.

use std::{collections::BTreeMap, sync::Arc};

use policy::{HostPolicy, Revision};
use prost::bytes::Bytes;
use proto::{Sha256Digest, encode_host_policy, spiffe::HostId};
use tokio::sync::watch;

/// A host policy and its encoded form.
#[derive(Debug)]
pub struct Publication {
    /// As compiled.
    pub policy: HostPolicy,
    /// As sent.
    pub bytes: Bytes,
    /// The SHA-256 of `bytes`.
    pub digest: Sha256Digest,
}

impl Publication {
    /// Encodes a policy.
    pub fn new(policy: HostPolicy) -> Self {
        let (bytes, digest) = encode_host_policy(&policy);
        Self {
            policy,
            bytes: bytes.into(),
            digest,
        }
    }

    /// The same policy as that of another revision.
    pub fn at(&self, revision: Revision) -> Self {
        Self::new(HostPolicy {
            revision,
            ..self.policy.clone()
        })
    }

    /// Whether a host would notice no difference: the revision aside, is it the same policy?
    pub fn means(&self, policy: &HostPolicy) -> bool {
        let HostPolicy {
            revision: _,
            identity,
            rules,
            addresses,
        } = policy;
        *identity == self.policy.identity
            && *rules == self.policy.rules
            && *addresses == self.policy.addresses
    }
}

/// What a stream watches: none until something was compiled that fits.
pub type Watched = Option<Arc<Publication>>;

/// The newest policy of every host.
#[derive(Debug, Default)]
pub struct Publisher {
    hosts: BTreeMap<HostId, watch::Sender<Watched>>,
}

impl Publisher {
    /// Gives a host a policy, unless it has one that means the same. Returns whether it did.
    pub fn publish(&mut self, id: HostId, publication: Arc<Publication>) -> bool {
        let changes = self.changes(id, &publication);
        if changes {
            self.send(id, publication);
        }
        changes
    }

    /// Gives a host a policy, whatever it has.
    pub fn send(&mut self, id: HostId, publication: Arc<Publication>) {
        self.sender(id).send_replace(Some(publication));
    }

    /// Whether a policy means something else than what a host has.
    pub fn changes(&self, id: HostId, publication: &Arc<Publication>) -> bool {
        self.current(id).is_none_or(|current| {
            !Arc::ptr_eq(&current, publication) && !current.means(&publication.policy)
        })
    }

    /// Follows the policy of a host.
    pub fn watch(&mut self, id: HostId) -> watch::Receiver<Watched> {
        self.sender(id).subscribe()
    }

    /// The policy of a host now.
    pub fn current(&self, id: HostId) -> Watched {
        self.hosts
            .get(&id)
            .and_then(|sender| sender.borrow().clone())
    }

    /// Ends what follows the policy of a host that is gone.
    pub fn forget(&mut self, id: HostId) {
        self.hosts.remove(&id);
    }

    fn sender(&mut self, id: HostId) -> &watch::Sender<Watched> {
        self.hosts
            .entry(id)
            .or_insert_with(|| watch::Sender::new(None))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

    use policy::Identity;

    use super::*;

    const HOST: HostId = HostId([1; 16]);

    fn publication(identity: u32, revision: u64) -> Arc<Publication> {
        Arc::new(Publication::new(HostPolicy {
            revision: Revision(revision),
            identity: Identity(identity),
            rules: Vec::new(),
            addresses: BTreeMap::new(),
        }))
    }

    #[test]
    fn a_policy_that_means_the_same_is_not_published_again() {
        let mut publisher = Publisher::default();
        assert!(publisher.publish(HOST, publication(300, 1)));
        let mut watched = publisher.watch(HOST);
        watched.mark_unchanged();
        assert!(!publisher.publish(HOST, publication(300, 2)));
        assert!(!watched.has_changed().unwrap());
        assert_eq!(
            publisher.current(HOST).unwrap().policy.revision,
            Revision(1)
        );
        assert!(publisher.publish(HOST, publication(301, 3)));
        assert!(watched.has_changed().unwrap());
    }

    #[test]
    fn the_same_policy_of_another_revision_has_another_digest() {
        let one = publication(300, 1);
        assert_eq!(one.at(Revision(2)).digest, publication(300, 2).digest);
        assert_ne!(one.at(Revision(2)).digest, one.digest);
    }

    #[test]
    fn a_host_that_is_gone_ends_its_watch() {
        let mut publisher = Publisher::default();
        publisher.publish(HOST, publication(300, 1));
        let watched = publisher.watch(HOST);
        publisher.forget(HOST);
        assert!(watched.has_changed().is_err());
    }
}
