//! Who can reach whom, on what: exact, for all pairs of hosts.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use serde::{Serialize, Serializer};

use crate::{
    classify::{Classes, PeerClass, TooLarge, classify},
    compile::{Subject, compile},
    host_policy::{HostPolicy, Origin, RuleId},
    inventory::{Host, HostName, Inventory},
    population::{IdentityTable, Population},
    service::{PortSpan, ProtocolSlot, merge},
    set::PolicySet,
    words::{Action, Direction, Revision},
};

/// A source and a destination each.
pub type AddressPairs = Vec<(IpAddr, IpAddr)>;

/// What one host can reach on another, over some of their addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Who opens.
    pub src: HostName,
    /// To whom.
    pub dst: HostName,
    /// The pairs of addresses (source, destination) that this holds for; empty if the hosts have
    /// no addresses of one family.
    pub addresses: AddressPairs,
    /// What passes both sides, sorted; empty: nothing.
    pub allowed: Arc<[Allowed]>,
}

/// Keys that pass, and the rules that let them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allowed {
    /// The keys; in JSON as authors write them, such as `tcp/8000-8010`.
    #[serde(serialize_with = "as_text")]
    pub ports: PortSpan,
    /// The rule on the side of the source.
    pub egress: Arc<Origin>,
    /// The rule on the side of the destination.
    pub ingress: Arc<Origin>,
}

fn as_text<S: Serializer>(ports: &PortSpan, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(ports)
}

impl Reach {
    /// What passes, for people: `nothing`, `any`, or a list such as `tcp/5432, icmp/8`.
    #[must_use]
    pub fn summary(&self) -> String {
        let passing = merge(self.allowed.iter().map(|allowed| allowed.ports).collect());
        if passing.is_empty() {
            return "nothing".to_owned();
        }
        let v4 = self.addresses.iter().any(|(source, _)| source.is_ipv4());
        let passes_whole = |slot| {
            let whole = PortSpan {
                slot,
                first: 0,
                last: slot.last_key(),
            };
            !runs_over(slot, v4) || passing.contains(&whole)
        };
        if ProtocolSlot::ALL.into_iter().all(passes_whole) {
            return "any".to_owned();
        }
        let spans: Vec<String> = passing.iter().map(PortSpan::to_string).collect();
        spans.join(", ")
    }
}

/// For every ordered pair of different hosts of an inventory, what the first can reach on the
/// second by what is enforced: an item for each set of address pairs with the same answer. Sorted
/// as the inventory is, by source, then destination.
///
/// # Errors
/// A host's policy that is too large to enforce.
pub fn reach(set: &PolicySet, inventory: &Inventory) -> Result<Vec<Reach>, TooLarge> {
    let mut atlas = Atlas::new(set, inventory)?;
    let mut found = Vec::new();
    for (a, source) in inventory.hosts.iter().enumerate() {
        for (b, destination) in inventory.hosts.iter().enumerate() {
            if a != b {
                atlas.pair((a, source), (b, destination), &mut found);
            }
        }
    }
    Ok(found)
}

/// Whether packets of a slot exist in a family.
fn runs_over(slot: ProtocolSlot, v4: bool) -> bool {
    match slot {
        ProtocolSlot::Icmp => v4,
        ProtocolSlot::Icmpv6 => !v4,
        _ => true,
    }
}

/// The tables of all hosts.
struct Atlas {
    tables: Vec<Table>,
    /// The table of each host of the inventory.
    table_of_host: Vec<usize>,
    /// What passes, by the tables of both sides and each one's class in the other's.
    known: HashMap<Key, Arc<[Allowed]>>,
}

struct Table {
    policy: HostPolicy,
    classes: Classes,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    egress: (usize, PeerClass),
    ingress: (usize, PeerClass),
    v4: bool,
}

impl Atlas {
    fn new(set: &PolicySet, inventory: &Inventory) -> Result<Self, TooLarge> {
        let mut identities = IdentityTable::default();
        let population = Population::new(set, inventory, &mut identities);
        let mut tables: Vec<Table> = Vec::new();
        let mut table_of_subject: BTreeMap<Subject, usize> = BTreeMap::new();
        let mut table_of_host = Vec::with_capacity(inventory.hosts.len());
        for host in &inventory.hosts {
            let subject = set.subject(host, &mut identities);
            let table = match table_of_subject.get(&subject) {
                Some(table) => *table,
                None => {
                    let policy = compile(set, Revision::default(), &population, &subject);
                    let classes = classify(&policy)?;
                    tables.push(Table { policy, classes });
                    table_of_subject.insert(subject, tables.len() - 1);
                    tables.len() - 1
                }
            };
            table_of_host.push(table);
        }
        Ok(Self {
            tables,
            table_of_host,
            known: HashMap::new(),
        })
    }

    fn pair(
        &mut self,
        source: (usize, &Host),
        destination: (usize, &Host),
        found: &mut Vec<Reach>,
    ) {
        let (egress, ingress) = (
            self.table_of_host[source.0],
            self.table_of_host[destination.0],
        );
        let (source, destination) = (source.1, destination.1);
        let mut answers: Vec<(AddressPairs, Arc<[Allowed]>)> = Vec::new();
        for from in &source.addresses {
            for to in destination
                .addresses
                .iter()
                .filter(|to| to.is_ipv4() == from.is_ipv4())
            {
                let key = Key {
                    egress: (egress, self.tables[egress].classes.peer(*to)),
                    ingress: (ingress, self.tables[ingress].classes.peer(*from)),
                    v4: from.is_ipv4(),
                };
                let allowed = Arc::clone(
                    self.known
                        .entry(key)
                        .or_insert_with(|| allowed(&self.tables, key).into()),
                );
                match answers.iter_mut().find(|(pairs, known)| {
                    *known == allowed && pairs.iter().all(|(from, _)| from.is_ipv4() == key.v4)
                }) {
                    Some((pairs, _)) => pairs.push((*from, *to)),
                    None => answers.push((vec![(*from, *to)], allowed)),
                }
            }
        }
        if answers.is_empty() {
            answers.push((Vec::new(), Arc::new([])));
        }
        found.extend(answers.into_iter().map(|(addresses, allowed)| Reach {
            src: source.name.clone(),
            dst: destination.name.clone(),
            addresses,
            allowed,
        }));
    }
}

/// What passes both sides, by walking the port classes of both at once.
fn allowed(tables: &[Table], key: Key) -> Vec<Allowed> {
    let egress = passing(&tables[key.egress.0], Direction::Egress, key.egress.1);
    let ingress = passing(&tables[key.ingress.0], Direction::Ingress, key.ingress.1);
    let mut allowed: Vec<Allowed> = Vec::new();
    let mut rules: Option<(RuleId, RuleId)> = None;
    let (mut i, mut j) = (0, 0);
    while let (Some((out, out_rule)), Some((into, into_rule))) = (egress.get(i), ingress.get(j)) {
        let (first, last) = (out.first.max(into.first), out.last.min(into.last));
        if out.slot == into.slot && first <= last && runs_over(out.slot, key.v4) {
            let ports = PortSpan {
                slot: out.slot,
                first,
                last,
            };
            match allowed.last_mut() {
                Some(before)
                    if rules == Some((*out_rule, *into_rule))
                        && before.ports.slot == ports.slot
                        && before.ports.last + 1 == first =>
                {
                    before.ports.last = last;
                }
                _ => allowed.push(Allowed {
                    ports,
                    egress: origin(&tables[key.egress.0], *out_rule),
                    ingress: origin(&tables[key.ingress.0], *into_rule),
                }),
            }
            rules = Some((*out_rule, *into_rule));
        }
        if (out.slot, out.last) <= (into.slot, into.last) {
            i += 1;
        } else {
            j += 1;
        }
    }
    allowed
}

/// The keys that one side lets pass, each with its rule, sorted.
fn passing(table: &Table, direction: Direction, peer: PeerClass) -> Vec<(PortSpan, RuleId)> {
    let spans = table
        .classes
        .ports
        .iter()
        .filter(|span| span.direction == direction);
    spans
        .filter_map(|span| {
            let rule = table.classes.cell(peer, span.class).enforced;
            let passes = table.policy.rules.get(rule.0 as usize)?.action == Action::Allow;
            let ports = PortSpan {
                slot: span.slot,
                first: span.first,
                last: span.last,
            };
            passes.then_some((ports, rule))
        })
        .collect()
}

fn origin(table: &Table, rule: RuleId) -> Arc<Origin> {
    Arc::clone(&table.policy.rules[rule.0 as usize].origin)
}
