//! What every host of a fleet enforces, kept up to date change by change.
//!
//! A compiled subject keeps its rules and the identities that they name; who holds which address is
//! kept once for all subjects. So an address that comes or goes touches no rule: a subject that
//! names its identity is told one address, the others nothing. Rules are made anew only for the
//! subjects that a change can reach, and count as changed only where they differ. What a fleet
//! says never depends on its history: it is what [`crate::compile()`] makes from nothing.

mod changes;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

pub use self::changes::{AddressTaken, Change, Changes};
use self::changes::{Effect, Moved};
use crate::{
    compile::{
        Subject, book,
        index::{Members, SetIndex},
        make,
        rules::Rules,
    },
    host_policy::HostPolicy,
    inventory::{Host, HostName, Inventory, Labels, PORT_SCOPE},
    population::{IdentityTable, Population},
    set::PolicySet,
    words::{Identity, Revision},
};

/// A policy set, the hosts that it is compiled for, and what each of them enforces.
///
/// A clone shares the rules: a change can be tried on it, and be dropped.
#[derive(Clone)]
pub struct Fleet {
    revision: Revision,
    set: Arc<PolicySet>,
    index: Arc<SetIndex>,
    identities: IdentityTable,
    hosts: BTreeMap<HostName, Member>,
    population: Population,
    members: Members,
    /// How many hosts have an identity.
    residents: BTreeMap<Identity, usize>,
    subjects: BTreeMap<Arc<Subject>, Compiled>,
}

#[derive(Clone)]
struct Member {
    host: Host,
    identity: Identity,
    subject: Arc<Subject>,
}

#[derive(Clone)]
struct Compiled {
    made: Arc<Rules>,
    /// How many hosts are this subject.
    hosts: usize,
}

impl Fleet {
    /// Compiles every subject of an inventory. The identities are those given so far; the owner
    /// of the fleet persists them.
    #[must_use]
    pub fn new(
        revision: Revision,
        set: impl Into<Arc<PolicySet>>,
        inventory: &Inventory,
        mut identities: IdentityTable,
    ) -> Self {
        let set = set.into();
        let population = Population::new(&set, inventory, &mut identities);
        let index = Arc::new(SetIndex::new(&set));
        let members = Members::new(&set, &index, &population);
        let mut fleet = Self {
            revision,
            set,
            index,
            identities,
            hosts: BTreeMap::new(),
            population,
            members,
            residents: BTreeMap::new(),
            subjects: BTreeMap::new(),
        };
        for host in &inventory.hosts {
            let identity = fleet.identity(host);
            let subject = fleet.subject(host, identity);
            fleet.settle(host.clone(), identity, subject);
        }
        let counted = std::mem::take(&mut fleet.subjects);
        fleet.subjects = counted
            .into_iter()
            .map(|(subject, Compiled { hosts, .. })| {
                let made = fleet.make(&subject);
                (subject, Compiled { made, hosts })
            })
            .collect();
        fleet
    }

    /// The policy set in force.
    #[must_use]
    pub fn set(&self) -> &PolicySet {
        &self.set
    }

    /// The identities given so far.
    #[must_use]
    pub fn identities(&self) -> &IdentityTable {
        &self.identities
    }

    /// Takes over identities that were given elsewhere.
    pub fn know(&mut self, identities: impl IntoIterator<Item = (Identity, Labels)>) {
        for (identity, labels) in identities {
            self.identities.insert(identity, labels);
        }
    }

    /// Every subject that some host is, sorted.
    pub fn subjects(&self) -> impl Iterator<Item = &Arc<Subject>> {
        self.subjects.keys()
    }

    /// What a host is; none if there is no such host.
    #[must_use]
    pub fn subject_of(&self, host: &HostName) -> Option<&Arc<Subject>> {
        Some(&self.hosts.get(host)?.subject)
    }

    /// What a subject enforces; none if no host is this subject. The revision is that of the set in
    /// force, also where an earlier one gave the same rules.
    #[must_use]
    pub fn policy(&self, subject: &Subject) -> Option<HostPolicy> {
        let made = &self.subjects.get(subject)?.made;
        Some(HostPolicy {
            revision: self.revision,
            identity: subject.identity,
            rules: made.rules.clone(),
            addresses: book(&self.members, &made.named),
        })
    }

    /// Adds a host, or takes over what is new about one: addresses, labels, quarantine.
    ///
    /// # Errors
    /// [`AddressTaken`], with nothing changed.
    pub fn put(&mut self, host: Host) -> Result<Changes, AddressTaken> {
        let own = self.hosts.get(&host.name);
        let is_taken = |address: &&IpAddr| {
            self.population.addresses.contains_key(address)
                && own.is_none_or(|own| !own.host.addresses.contains(address))
        };
        if let Some(address) = host.addresses.iter().find(is_taken) {
            return Err(AddressTaken {
                address: *address,
                host: host.name,
            });
        }
        Ok(self.replace(host.name.clone(), Some(host)))
    }

    /// Removes a host; changes nothing if there is none of this name.
    pub fn remove(&mut self, host: &HostName) -> Changes {
        self.replace(host.clone(), None)
    }

    /// Puts another policy set in force.
    pub fn apply(&mut self, revision: Revision, set: impl Into<Arc<PolicySet>>) -> Changes {
        let set = set.into();
        self.revision = revision;
        let has_same_members = set.schema == self.set.schema
            && set
                .segments
                .iter()
                .map(|segment| (&segment.selector, &segment.subnets))
                .eq(self
                    .set
                    .segments
                    .iter()
                    .map(|segment| (&segment.selector, &segment.subnets)));
        let index = Arc::new(SetIndex::new(&set));
        let set = std::mem::replace(&mut self.set, set);
        let index = std::mem::replace(&mut self.index, index);
        let mut members = None;
        if !has_same_members {
            let hosts = self.hosts.values().map(|member| member.host.clone());
            let inventory = Inventory {
                hosts: hosts.collect(),
            };
            self.population = Population::new(&self.set, &inventory, &mut self.identities);
            let new = Members::new(&self.set, &self.index, &self.population);
            members = Some(std::mem::replace(&mut self.members, new));
        }

        let mut changes = Changes::default();
        let mut before = std::mem::take(&mut self.subjects);
        self.residents.clear();
        for (name, member) in std::mem::take(&mut self.hosts) {
            let identity = self.identity(&member.host);
            let subject = self.subject(&member.host, identity);
            if subject != *member.subject {
                changes.hosts.insert(name);
            }
            self.settle(member.host, identity, subject);
        }
        for (subject, Compiled { hosts, .. }) in std::mem::take(&mut self.subjects) {
            let known = before.remove(&subject);
            let is_same = |_: &Compiled| {
                has_same_members
                    && index.concerning(&set, &subject)
                        == self.index.concerning(&self.set, &subject)
            };
            let made = match known {
                Some(known) if is_same(&known) => known.made,
                known => {
                    let made = self.make(&subject);
                    let has_same_book = || {
                        members.as_ref().is_none_or(|members| {
                            book(members, &made.named) == book(&self.members, &made.named)
                        })
                    };
                    if known.is_none_or(|known| known.made.rules != made.rules) || !has_same_book()
                    {
                        changes
                            .subjects
                            .insert(Arc::clone(&subject), Change::Policy);
                    }
                    made
                }
            };
            self.subjects.insert(subject, Compiled { made, hosts });
        }
        changes
            .subjects
            .extend(before.into_keys().map(|subject| (subject, Change::Gone)));
        changes
    }

    fn replace(&mut self, name: HostName, new: Option<Host>) -> Changes {
        let old = self.hosts.remove(&name);
        let new = new.map(|host| (self.identity(&host), host));
        let effect = self.move_population(old.as_ref(), new.as_ref());

        let mut changes = Changes::default();
        let subject = new.map(|(identity, host)| {
            let subject = self.subject(&host, identity);
            let known = self.subjects.contains_key(&subject);
            let subject = self.settle(host, identity, subject);
            if !known {
                let made = self.make(&subject);
                if let Some(compiled) = self.subjects.get_mut(&subject) {
                    compiled.made = made;
                }
                changes
                    .subjects
                    .insert(Arc::clone(&subject), Change::Policy);
            }
            subject
        });
        let before = old.map(|member| member.subject);
        if before != subject {
            changes.hosts.insert(name);
        }
        if let Some(before) = before
            && let Some(compiled) = self.subjects.get_mut(&before)
        {
            compiled.hosts -= 1;
            if compiled.hosts == 0 {
                self.subjects.remove(&before);
                changes.subjects.insert(before, Change::Gone);
            }
        }

        let mut subjects = std::mem::take(&mut self.subjects);
        for (subject, compiled) in &mut subjects {
            if changes.subjects.contains_key(subject) {
                continue;
            }
            if effect.reaches(&compiled.made) {
                let made = self.make(subject);
                if made.rules != compiled.made.rules {
                    changes.subjects.insert(Arc::clone(subject), Change::Policy);
                }
                compiled.made = made;
            }
            let addresses = effect.addresses_of(&compiled.made.named);
            if !addresses.is_empty() {
                let change = changes.subjects.entry(Arc::clone(subject));
                change.or_insert(Change::Addresses(addresses));
            }
        }
        self.subjects = subjects;
        changes
    }

    /// Takes what one host was and is to the population.
    fn move_population(&mut self, old: Option<&Member>, new: Option<&(Identity, Host)>) -> Effect {
        let was_quarantined = self.members.any_quarantined();
        let mut effect = Effect::default();
        let held = |host: &Host, identity: Identity| -> BTreeMap<IpAddr, Identity> {
            let addresses = host.addresses.iter();
            addresses.map(|address| (*address, identity)).collect()
        };
        let before = old.map_or_else(BTreeMap::new, |old| held(&old.host, old.identity));
        let after = new.map_or_else(BTreeMap::new, |(identity, host)| held(host, *identity));
        for address in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let (before, after) = (before.get(address).copied(), after.get(address).copied());
            if before == after {
                continue;
            }
            if let Some(identity) = before {
                self.population.addresses.remove(address);
                self.members.let_go(*address, identity);
            }
            if let Some(identity) = after {
                self.population.addresses.insert(*address, identity);
                self.members.hold(*address, identity);
            }
            effect.moved.push(Moved {
                address: *address,
                before,
                after,
            });
        }
        let is_workload = |identity: &Identity| *identity != Identity::QUARANTINED;
        let left = old.map(|old| old.identity).filter(is_workload);
        let came = new.filter(|(identity, _)| is_workload(identity));
        if let Some((identity, host)) = came {
            let labels = self.set.identity_labels(&host.labels);
            effect.has_ports |= numbers_ports(&labels);
            // Its own resident is counted when it settles.
            if !self.residents.contains_key(identity) && left != Some(*identity) {
                let segments = self.index.labelled(&self.set, &labels);
                self.members.change(*identity, &segments, true);
                effect.segments.extend(segments);
                self.population.labels.insert(*identity, labels);
            }
        }
        if let Some(identity) = left {
            let labels = self.population.labels.get(&identity);
            effect.has_ports |= labels.is_some_and(numbers_ports);
            let residents = self.residents.entry(identity).or_default();
            *residents -= 1;
            if *residents == 0 {
                self.residents.remove(&identity);
                if came.is_none_or(|(came, _)| *came != identity)
                    && let Some(labels) = self.population.labels.remove(&identity)
                {
                    let segments = self.index.labelled(&self.set, &labels);
                    self.members.change(identity, &segments, false);
                    effect.segments.extend(segments);
                }
            }
        }
        effect.is_quarantine_new = was_quarantined != self.members.any_quarantined();
        effect
    }

    fn identity(&mut self, host: &Host) -> Identity {
        if host.quarantined {
            return Identity::QUARANTINED;
        }
        self.identities
            .assign(&self.set.identity_labels(&host.labels))
    }

    fn subject(&self, host: &Host, identity: Identity) -> Subject {
        let unlabelled = Labels::new();
        let labels = self.population.labels.get(&identity);
        self.index
            .subject(&self.set, host, labels.unwrap_or(&unlabelled), identity)
    }

    /// Takes a host in as a subject, which is compiled if some host was it before.
    fn settle(&mut self, host: Host, identity: Identity, subject: Subject) -> Arc<Subject> {
        if identity != Identity::QUARANTINED {
            *self.residents.entry(identity).or_default() += 1;
        }
        let subject = match self.subjects.get_key_value(&subject) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(subject),
        };
        let compiled = self.subjects.entry(Arc::clone(&subject));
        let compiled = compiled.or_insert_with(|| Compiled {
            made: Arc::default(),
            hosts: 0,
        });
        compiled.hosts += 1;
        let member = Member {
            subject: Arc::clone(&subject),
            identity,
            host,
        };
        self.hosts.insert(member.host.name.clone(), member);
        subject
    }

    fn make(&self, subject: &Subject) -> Arc<Rules> {
        Arc::new(make(
            &self.set,
            &self.index,
            &self.population,
            &self.members,
            subject,
        ))
    }
}

impl Effect {
    /// Whether rules may be others now.
    fn reaches(&self, made: &Rules) -> bool {
        self.is_quarantine_new
            || (self.has_ports && made.has_named_ports)
            || !self.segments.is_disjoint(&made.segments)
    }

    /// The addresses that are told to a subject whose rules name some identities.
    fn addresses_of(&self, named: &[Identity]) -> Vec<(IpAddr, Option<Identity>)> {
        let is_named = |identity: &Identity| named.binary_search(identity).is_ok();
        let moved = self.moved.iter().filter_map(|moved| {
            let (before, after) = (moved.before.filter(is_named), moved.after.filter(is_named));
            (before != after).then_some((moved.address, after))
        });
        moved.collect()
    }
}

fn numbers_ports(labels: &Labels) -> bool {
    labels.keys().any(|key| key.starts_with(PORT_SCOPE))
}
