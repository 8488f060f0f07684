//! What is compiled for every host, kept up to date change by change.
//!
//! Hosts that are alike to policy are one subject and share one publication. A change compiles the
//! subjects that it reaches, and a subject whose policy comes out as it was keeps its publication.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use policy::{
    Fleet, HostName, Identity, IdentityTable, Inventory, Labels, PolicySet, Revision, Subject,
    TooLarge, check_fit,
};
use proto::Sha256Digest;

use crate::publish::Publication;

/// What came of compiling a policy: one to publish, or why no agent's kernel maps would hold it.
pub type Outcome = Result<Arc<Publication>, Arc<TooLarge>>;

/// What each of the hosts that a change reached is to enforce. The others keep what they have.
pub type Update = BTreeMap<HostName, Outcome>;

/// A host that has changed.
#[derive(Clone, Debug)]
pub struct HostChange {
    /// Which.
    pub name: HostName,
    /// As it is now, with the identity of its labels; none if it is gone.
    pub now: Option<(Identity, policy::Host)>,
}

/// Something to compile, taken at one moment.
#[derive(Debug)]
pub enum Work {
    /// All of it, from nothing.
    Everything {
        /// The set in force.
        set: Arc<PolicySet>,
        /// Its number.
        revision: Revision,
        /// Every identity; what of each host's labels makes identity under the set has one.
        identities: IdentityTable,
        /// Every host.
        inventory: Inventory,
        /// What hosts say that they enforce: the revision in it, and its digest.
        enforced: BTreeMap<HostName, (Revision, Sha256Digest)>,
    },
    /// What these hosts bring about.
    Changes {
        /// What is compiled already.
        compiled: Arc<Compiled>,
        /// Each host once.
        hosts: Vec<HostChange>,
    },
}

impl Work {
    /// Does it.
    pub fn run(self) -> (Arc<Compiled>, Update) {
        match self {
            Self::Everything {
                set,
                revision,
                identities,
                inventory,
                enforced,
            } => {
                let (compiled, mut update) = Compiled::new(revision, set, &inventory, identities);
                recall(&mut update, &enforced);
                (Arc::new(compiled), update)
            }
            Self::Changes {
                mut compiled,
                hosts,
            } => {
                let update = Arc::make_mut(&mut compiled).update(hosts);
                (compiled, update)
            }
        }
    }
}

/// What is compiled for every host. A clone is cheap beside compiling: an apply is tried on one.
#[derive(Clone)]
pub struct Compiled {
    fleet: Fleet,
    hosts: BTreeMap<HostName, Arc<Subject>>,
    subjects: BTreeMap<Arc<Subject>, Shared>,
}

/// What the hosts of one subject share.
#[derive(Clone)]
struct Shared {
    /// None until it is compiled.
    outcome: Option<Outcome>,
    hosts: BTreeSet<HostName>,
}

impl Compiled {
    fn new(
        revision: Revision,
        set: Arc<PolicySet>,
        inventory: &Inventory,
        identities: IdentityTable,
    ) -> (Self, Update) {
        let mut compiled = Self {
            fleet: Fleet::new(revision, set, inventory, identities),
            hosts: BTreeMap::new(),
            subjects: BTreeMap::new(),
        };
        let reached = compiled.fleet.subjects().cloned().collect();
        let hosts = inventory.hosts.iter().map(|host| host.name.clone());
        let update = compiled.settle(reached, hosts.collect());
        (compiled, update)
    }

    /// Takes in what has changed about some hosts, each named once.
    fn update(&mut self, changes: Vec<HostChange>) -> Update {
        let mut reached = BTreeSet::new();
        let mut hosts: BTreeSet<_> = changes.iter().map(|change| change.name.clone()).collect();
        let mut take = |changes: policy::fleet::Changes| {
            reached.extend(changes.subjects.into_keys());
            hosts.extend(changes.hosts);
        };
        let mut late = Vec::new();
        for HostChange { name, now } in changes {
            let Some((identity, host)) = now else {
                take(self.fleet.remove(&name));
                continue;
            };
            let labels = self.fleet.set().identity_labels(&host.labels);
            self.fleet.know([(identity, labels)]);
            match self.fleet.put(host.clone()) {
                Ok(changes) => take(changes),
                // Who holds one of its addresses may be a later one of these, or wait for one of
                // its own: first it lets go of all of them.
                Err(_) => {
                    take(self.fleet.remove(&name));
                    late.push(host);
                }
            }
        }
        for host in late {
            match self.fleet.put(host) {
                Ok(changes) => take(changes),
                Err(error) => tracing::error!("compiling a host that is left out: {error}"),
            }
        }
        self.settle(reached, hosts)
    }

    /// Puts another set in force, which gives these identities beside those that are known.
    pub fn apply(
        &mut self,
        revision: Revision,
        set: Arc<PolicySet>,
        new: BTreeMap<Identity, Labels>,
    ) -> Update {
        self.fleet.know(new);
        let changes = self.fleet.apply(revision, set);
        self.settle(changes.subjects.into_keys().collect(), changes.hosts)
    }

    /// What a host is to enforce; none for one that is not compiled, or whose policy does not fit.
    pub fn publication(&self, host: &HostName) -> Option<&Arc<Publication>> {
        let shared = self.subjects.get(self.hosts.get(host)?)?;
        shared.outcome.as_ref()?.as_ref().ok()
    }

    /// The policies that do not fit, with the hosts that they are for.
    pub fn unfit(&self) -> impl Iterator<Item = (&BTreeSet<HostName>, &TooLarge)> {
        self.subjects.values().filter_map(|shared| {
            let error = shared.outcome.as_ref()?.as_ref().err()?;
            Some((&shared.hosts, &**error))
        })
    }

    /// Compiles the subjects that were reached, and moves hosts to the subjects that they are now.
    fn settle(&mut self, reached: BTreeSet<Arc<Subject>>, hosts: BTreeSet<HostName>) -> Update {
        for name in &hosts {
            let before = self.hosts.remove(name);
            let before = before.and_then(|subject| self.subjects.get_mut(&subject));
            let outcome = before.and_then(|shared| {
                shared.hosts.remove(name);
                shared.outcome.clone()
            });
            let Some(subject) = self.fleet.subject_of(name) else {
                continue;
            };
            // Another subject may have the same policy: a new segment renumbers those behind it.
            let shared = self.subjects.entry(Arc::clone(subject));
            let shared = shared.or_insert_with(|| Shared {
                outcome,
                hosts: BTreeSet::new(),
            });
            shared.hosts.insert(name.clone());
            self.hosts.insert(name.clone(), Arc::clone(subject));
        }
        let mut update = Update::new();
        for subject in reached {
            let Some(policy) = self.fleet.policy(&subject) else {
                self.subjects.remove(&subject);
                continue;
            };
            let Some(shared) = self.subjects.get_mut(&subject) else {
                continue;
            };
            if let Some(Ok(known)) = &shared.outcome
                && known.means(&policy)
            {
                continue;
            }
            let outcome = match check_fit(&policy) {
                Ok(_) => Ok(Arc::new(Publication::new(policy))),
                Err(error) => Err(Arc::new(error)),
            };
            let told = shared.hosts.iter().cloned();
            update.extend(told.map(|name| (name, outcome.clone())));
            shared.outcome = Some(outcome);
        }
        for name in hosts {
            let shared = self.hosts.get(&name).map(|it| self.subjects.get(it));
            let outcome = shared.flatten().and_then(|shared| shared.outcome.clone());
            update.extend(outcome.map(|outcome| (name, outcome)));
        }
        update
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled")
            .field("hosts", &self.hosts.len())
            .field("subjects", &self.subjects.len())
            .finish_non_exhaustive()
    }
}

/// Gives hosts that enforce the same, compiled under an earlier revision, just that: after a start
/// nobody is sent what he has.
fn recall(update: &mut Update, enforced: &BTreeMap<HostName, (Revision, Sha256Digest)>) {
    let mut earlier: BTreeMap<(Sha256Digest, Revision), Arc<Publication>> = BTreeMap::new();
    for (name, outcome) in update {
        let (Ok(publication), Some((revision, digest))) = (outcome, enforced.get(name)) else {
            continue;
        };
        if *digest == publication.digest || *revision == publication.policy.revision {
            continue;
        }
        let earlier = earlier
            .entry((publication.digest, *revision))
            .or_insert_with(|| Arc::new(publication.at(*revision)));
        if earlier.digest == *digest {
            *publication = Arc::clone(earlier);
        }
    }
}
