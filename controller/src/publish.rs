//! What each host is to enforce: compiled once for all hosts that are alike, watched by streams.

use std::{collections::BTreeMap, sync::Arc};

use policy::{
    HostPolicy, IdentityTable, Inventory, PolicySet, Population, Revision, Subject, TooLarge,
    check_fit, compile,
};
use prost::bytes::Bytes;
use proto::{Sha256Digest, encode_host_policy, spiffe::HostId};
use tokio::sync::watch;

use crate::model::Host;

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
    /// Whether a host would notice the difference: the revision aside, is it the same policy?
    pub fn means_the_same(&self, other: &Self) -> bool {
        let HostPolicy {
            revision: _,
            identity,
            rules,
            addresses,
        } = &self.policy;
        *identity == other.policy.identity
            && *rules == other.policy.rules
            && *addresses == other.policy.addresses
    }
}

/// A policy that no agent's kernel maps would hold.
#[derive(Debug)]
pub struct Unfit {
    /// The hosts that it is for.
    pub hosts: Vec<HostId>,
    /// What is too large.
    pub error: TooLarge,
}

/// One compilation for every host.
#[derive(Debug, Default)]
pub struct Compilation {
    /// What each host is to enforce; hosts that are alike share it.
    pub policies: BTreeMap<HostId, Arc<Publication>>,
    /// What does not fit; its hosts are not in `policies`.
    pub unfit: Vec<Unfit>,
}

/// Everything that a compilation depends on, taken at one moment.
#[derive(Clone, Debug)]
pub struct Job {
    /// The set.
    pub set: Arc<PolicySet>,
    /// Its number.
    pub revision: Revision,
    /// Every identity; what of each host's labels makes identity under the set has one.
    pub identities: IdentityTable,
    /// Every host.
    pub hosts: Vec<(HostId, policy::Host)>,
}

impl Job {
    /// The job of compiling this set for these hosts.
    pub fn new<'a>(
        set: Arc<PolicySet>,
        revision: Revision,
        identities: &IdentityTable,
        hosts: impl Iterator<Item = &'a Host>,
    ) -> Self {
        let hosts = hosts.map(|host| (host.id, host.to_policy())).collect();
        Self {
            set,
            revision,
            identities: identities.clone(),
            hosts,
        }
    }

    /// Does it, once per subject.
    pub fn run(self) -> Compilation {
        let Self {
            set,
            revision,
            mut identities,
            hosts,
        } = self;
        let mut subjects: BTreeMap<Subject, Vec<HostId>> = BTreeMap::new();
        for (id, host) in &hosts {
            subjects
                .entry(set.subject(host, &mut identities))
                .or_default()
                .push(*id);
        }
        let inventory = Inventory {
            hosts: hosts.into_iter().map(|(_, host)| host).collect(),
        };
        let population = Population::new(&set, &inventory, &mut identities);
        let mut compilation = Compilation::default();
        for (subject, hosts) in subjects {
            let policy = compile(&set, revision, &population, &subject);
            if let Err(error) = check_fit(&policy) {
                compilation.unfit.push(Unfit { hosts, error });
                continue;
            }
            let (bytes, digest) = encode_host_policy(&policy);
            let publication = Arc::new(Publication {
                policy,
                bytes: bytes.into(),
                digest,
            });
            compilation.policies.extend(
                hosts
                    .into_iter()
                    .map(|host| (host, Arc::clone(&publication))),
            );
        }
        compilation
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
    /// Publishes to each host whose policy differs from what it was given before, and forgets the
    /// hosts that are gone. Hosts without a policy that fits keep what they have. Returns how many
    /// were given another one.
    pub fn publish(&mut self, compilation: Compilation) -> usize {
        let Compilation { policies, unfit } = compilation;
        let stays = |id: &HostId| {
            policies.contains_key(id) || unfit.iter().any(|unfit| unfit.hosts.contains(id))
        };
        self.hosts.retain(|id, _| stays(id));
        policies
            .into_iter()
            .filter(|(id, publication)| {
                self.sender(*id).send_if_modified(|current| {
                    let differs = current
                        .as_ref()
                        .is_none_or(|it| it.digest != publication.digest);
                    if differs {
                        *current = Some(Arc::clone(publication));
                    }
                    differs
                })
            })
            .count()
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

    /// Of how many hosts the policy would mean something else.
    pub fn changes(&self, compilation: &Compilation) -> usize {
        compilation
            .policies
            .iter()
            .filter(|(id, publication)| {
                self.current(**id)
                    .is_none_or(|current| !current.means_the_same(publication))
            })
            .count()
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

    use std::collections::BTreeSet;

    use policy::{HostName, Labels, SourceFile};

    use super::*;
    use crate::model::Report;

    const DB_IS_CLOSED: &str = "\
apiVersion: bulkhead/v1
kind: Segment
name: db
match: {tier: db}
---
apiVersion: bulkhead/v1
kind: Policy
name: db-ingress
appliesTo: db
ingress: []
";

    fn hosts() -> (IdentityTable, Vec<Host>) {
        let mut identities = IdentityTable::default();
        let mut host = |number: u8, tier: &str| {
            let labels = Labels::from([("tier".to_owned(), tier.to_owned())]);
            Host {
                id: HostId([number; 16]),
                name: HostName(format!("{tier}-{number}")),
                identity: identities.assign(&labels),
                labels,
                address_subnets: Vec::new(),
                addresses: BTreeSet::new(),
                quarantine: None,
                report: Report::default(),
            }
        };
        let hosts = vec![host(1, "db"), host(2, "db"), host(3, "web")];
        (identities, hosts)
    }

    fn compilation(revision: u64) -> Compilation {
        let (identities, hosts) = hosts();
        let file = SourceFile {
            path: "db.yaml".into(),
            content: DB_IS_CLOSED.into(),
        };
        let set = Arc::new(policy::parse(&[file]).unwrap());
        Job::new(set, Revision(revision), &identities, hosts.iter()).run()
    }

    #[test]
    fn hosts_that_are_alike_share_one_policy() {
        let Compilation { policies, unfit } = compilation(1);
        assert!(unfit.is_empty());
        let policy = |number: u8| &policies[&HostId([number; 16])];
        assert!(Arc::ptr_eq(policy(1), policy(2)));
        assert_ne!(policy(1).digest, policy(3).digest);
    }

    #[test]
    fn only_a_policy_that_differs_is_published() {
        let mut publisher = Publisher::default();
        assert_eq!(publisher.changes(&compilation(1)), 3);
        assert_eq!(publisher.publish(compilation(1)), 3);
        let mut watched = publisher.watch(HostId([1; 16]));
        watched.mark_unchanged();
        assert_eq!(publisher.publish(compilation(1)), 0);
        assert!(!watched.has_changed().unwrap());

        // Another revision of the same meaning is sent, so that its acks say which is in force.
        assert_eq!(publisher.changes(&compilation(2)), 0);
        assert_eq!(publisher.publish(compilation(2)), 3);
        assert!(watched.has_changed().unwrap());
    }

    #[test]
    fn a_host_whose_newest_policy_does_not_fit_keeps_the_one_it_has() {
        let mut publisher = Publisher::default();
        publisher.publish(compilation(1));
        let id = HostId([1; 16]);
        let mut next = compilation(2);
        next.policies.remove(&id);
        let error = TooLarge {
            what: "rules",
            needed: 2,
            limit: 1,
            costliest: Vec::new(),
        };
        next.unfit.push(Unfit {
            hosts: vec![id],
            error,
        });
        assert_eq!(publisher.publish(next), 2);
        assert_eq!(publisher.current(id).unwrap().policy.revision, Revision(1));
    }

    #[test]
    fn a_host_that_is_gone_ends_its_watch() {
        let mut publisher = Publisher::default();
        publisher.publish(compilation(1));
        let watched = publisher.watch(HostId([1; 16]));
        let mut next = compilation(2);
        next.policies.remove(&HostId([1; 16]));
        publisher.publish(next);
        assert!(watched.has_changed().is_err());
    }
}
