//! Many questions about one set and one inventory: answered from indexes and tables.

mod kinds;
#[cfg(test)]
mod tests;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    classify::{Classes, PeerClass, classify},
    compile::{
        Subject,
        index::{Members, SetIndex},
        make,
    },
    evaluate::{
        Evidence, Flow, SideVerdict, Verdict, evaluate,
        evaluator::kinds::{Kind, Kinds},
        query::{Answer, Query, QueryError, World, loopback, verdict},
    },
    host_policy::HostPolicy,
    inventory::Inventory,
    population::{IdentityTable, Population},
    service::PortKey,
    set::PolicySet,
    words::{Direction, Effect, Identity, Revision, Tier},
};

/// Answers as [`crate::evaluate::query::answer`] does, faster: names and addresses are found by
/// their hash, and a side's verdict in the tables of its host, which are made at the first question
/// about a host like it, for kinds of addresses instead of all that there are.
pub struct Evaluator<'a> {
    set: &'a PolicySet,
    inventory: &'a Inventory,
    host_of_name: HashMap<&'a str, usize>,
    held: HashMap<IpAddr, Held>,
    kinds: Kinds,
    population: Population,
    index: SetIndex,
    members: Members,
    /// The place in `subjects` and `tables` of each host of the inventory.
    subject_of_host: Vec<usize>,
    subjects: Vec<Subject>,
    /// None inside for a subject whose tables would be too large.
    tables: Vec<OnceCell<Option<Table>>>,
}

/// An address of a host.
#[derive(Clone, Copy)]
struct Held {
    address: IpAddr,
    /// The place of the host in the inventory.
    host: usize,
    kind: Kind,
}

/// One end of a flow.
#[derive(Clone, Copy)]
enum End {
    /// A host holds it.
    Held(Held),
    /// No host does.
    Free(IpAddr),
}

/// What one subject enforces, for looking up.
struct Table {
    /// Of all the addresses that hosts hold, it has none.
    classes: Classes,
    /// The classes of held addresses that are not as the subnets around them; sorted.
    class_of_kind: Vec<(Kind, PeerClass)>,
    /// The lengths of the prefixes in `classes.subnets`, of IPv4 and of IPv6.
    lengths: [BTreeSet<u8>; 2],
    /// By rule; none of one that passes, which no cell names.
    evidence: Vec<Option<Evidence>>,
}

impl<'a> Evaluator<'a> {
    /// Takes time in proportion to the set and the inventory.
    #[must_use]
    pub fn new(set: &'a PolicySet, inventory: &'a Inventory) -> Self {
        let mut identities = IdentityTable::default();
        let population = Population::new(set, inventory, &mut identities);
        let index = SetIndex::new(set);
        let members = Members::new(set, &index, &population);
        let mut host_of_name = HashMap::with_capacity(inventory.hosts.len());
        let (kinds, kind_of_address) = Kinds::new(set, &population);
        let mut held = HashMap::with_capacity(kind_of_address.len());
        let mut subject_of_host = Vec::with_capacity(inventory.hosts.len());
        let mut places: BTreeMap<Subject, usize> = BTreeMap::new();
        for (place, host) in inventory.hosts.iter().enumerate() {
            host_of_name.entry(host.name.0.as_str()).or_insert(place);
            for address in &host.addresses {
                held.entry(*address).or_insert_with(|| Held {
                    address: *address,
                    host: place,
                    kind: kind_of_address[address],
                });
            }
            let labels = set.identity_labels(&host.labels);
            let identity = match host.quarantined {
                true => Identity::QUARANTINED,
                false => identities.assign(&labels),
            };
            let subject = index.subject(set, host, &labels, identity);
            let next = places.len();
            subject_of_host.push(*places.entry(subject).or_insert(next));
        }
        let mut subjects: Vec<(Subject, usize)> = places.into_iter().collect();
        subjects.sort_by_key(|(_, place)| *place);
        Self {
            set,
            inventory,
            host_of_name,
            held,
            kinds,
            population,
            index,
            members,
            subject_of_host,
            tables: subjects.iter().map(|_| OnceCell::new()).collect(),
            subjects: subjects.into_iter().map(|(subject, _)| subject).collect(),
        }
    }

    /// Answers one query.
    ///
    /// # Errors
    /// As [`crate::evaluate::query::answer`].
    pub fn answer(&self, query: Query) -> Result<Answer, QueryError> {
        let verdict = verdict(self, &query)?;
        Ok(Answer::new(query, verdict))
    }

    /// As [`evaluate()`].
    #[must_use]
    pub fn evaluate(&self, flow: &Flow) -> Verdict {
        self.between(flow, self.end(flow.source), self.end(flow.destination))
    }

    fn end(&self, address: IpAddr) -> End {
        let held = self.held.get(&address);
        held.map_or(End::Free(address), |held| End::Held(*held))
    }

    fn between(&self, flow: &Flow, source: End, destination: End) -> Verdict {
        let port = flow.port;
        let egress = self.side(Direction::Egress, source, destination, port);
        let ingress = self.side(Direction::Ingress, destination, source, port);
        match (egress, ingress) {
            (Some(egress), Some(ingress)) => Verdict { egress, ingress },
            // Tables too large for a host are too large here: asked the slow way.
            _ => evaluate(self.set, self.inventory, flow),
        }
    }

    /// None where the tables would be too large.
    fn side(
        &self,
        direction: Direction,
        own: End,
        peer: End,
        port: PortKey,
    ) -> Option<SideVerdict> {
        let End::Held(Held { host, .. }) = own else {
            return Some(Evidence::unwritten(Effect::Allow, Tier::Default, "unmanaged").into());
        };
        let subject = self.subject_of_host[host];
        let table = self.tables[subject].get_or_init(|| self.table(&self.subjects[subject]));
        table.as_ref()?.decide(direction, peer, port)
    }

    fn table(&self, subject: &Subject) -> Option<Table> {
        let made = make(
            self.set,
            &self.index,
            &self.population,
            &self.members,
            subject,
        );
        let policy = HostPolicy {
            revision: Revision::default(),
            identity: subject.identity,
            addresses: self.kinds.book(&made.named),
            rules: made.rules,
        };
        Table::new(&policy, &self.kinds)
    }
}

impl World for Evaluator<'_> {
    fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        let host = *self.host_of_name.get(name)?;
        Some(&self.inventory.hosts[host].addresses)
    }

    fn judge(&self, flow: &Flow) -> Verdict {
        let (source, destination) = (self.end(flow.source), self.end(flow.destination));
        match (source, destination) {
            (End::Held(a), End::Held(b)) if a.host == b.host => loopback(),
            _ => self.between(flow, source, destination),
        }
    }
}

impl Table {
    fn new(policy: &HostPolicy, kinds: &Kinds) -> Option<Self> {
        let mut classes = classify(policy).ok()?;
        let class_of_kind = kinds.take(&mut classes.addresses);
        let mut lengths = [BTreeSet::new(), BTreeSet::new()];
        for subnet in classes.subnets.keys() {
            lengths[usize::from(subnet.addr().is_ipv6())].insert(subnet.prefix_len());
        }
        let evidence = policy.rules.iter().map(|rule| {
            Some(Evidence {
                effect: rule.action.effect()?,
                tier: rule.tier,
                origin: Arc::clone(&rule.origin),
            })
        });
        Some(Self {
            evidence: evidence.collect(),
            classes,
            class_of_kind,
            lengths,
        })
    }

    /// As [`Classes::decide`].
    fn decide(&self, direction: Direction, peer: End, port: PortKey) -> Option<SideVerdict> {
        let port = self.classes.port(direction, port);
        let cell = self.classes.cell(self.peer(peer), port);
        let evidence = |rule: u32| self.evidence.get(rule as usize)?.clone();
        Some(SideVerdict {
            enforced: evidence(cell.enforced.0)?,
            staged: evidence(cell.staged.0)?,
        })
    }

    /// As [`Classes::peer`], asking only for prefixes of a length that is there.
    fn peer(&self, end: End) -> PeerClass {
        let Classes {
            addresses,
            subnets,
            world,
            ..
        } = &self.classes;
        let (address, exact) = match end {
            End::Held(Held { address, kind, .. }) => {
                let place = self
                    .class_of_kind
                    .binary_search_by_key(&kind, |(kind, _)| *kind);
                (address, place.ok().map(|place| self.class_of_kind[place].1))
            }
            End::Free(address) => (address, addresses.get(&address).copied()),
        };
        let subnet = |length: &u8| subnets.get(&IpNet::new(address, *length).ok()?.trunc());
        let around = || {
            let lengths = &self.lengths[usize::from(address.is_ipv6())];
            lengths.iter().rev().find_map(subnet).copied()
        };
        exact.or_else(around).unwrap_or(*world)
    }
}
