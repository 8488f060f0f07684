//! Which rules make a policy too large.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use crate::{
    classify::{TooLarge, peers::Peers, ports::Ports},
    host_policy::{HostPolicy, Origin, PeerMatch, Rule},
    words::Identity,
};

/// How many rules are named.
const MOST: usize = 5;

/// What one written rule adds to a table that is too large.
///
/// Of rules and peers: how many it stands for and names. Of classes and cells: about how many
/// there would be less without it. Where several rules name the same peers or ports, each bears its
/// share of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Where the rule was written.
    pub origin: Arc<Origin>,
    /// Entries of the table.
    pub entries: usize,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { rule, file, line } = &*self.origin;
        write!(f, "{rule} at {file}:{line} ({})", self.entries)
    }
}

impl TooLarge {
    /// The same, with the rules of the policy that cost most.
    pub(super) fn blame(self, policy: &HostPolicy) -> Self {
        let costs = match self.what {
            "rules" => vec![1; policy.rules.len()],
            "peers" | "overlapping peers" => peers_named(policy),
            what => match Peers::new(policy) {
                Ok(peers) => split(policy, &peers, &Ports::new(policy), what == "port classes"),
                Err(_) => peers_named(policy),
            },
        };
        let mut by_origin: BTreeMap<&Arc<Origin>, usize> = BTreeMap::new();
        for (rule, cost) in policy.rules.iter().zip(costs) {
            if !rule.origin.file.is_empty() {
                *by_origin.entry(&rule.origin).or_default() += cost;
            }
        }
        let mut costs: Vec<Cost> = by_origin
            .into_iter()
            .filter(|(_, entries)| *entries > 0)
            .map(|(origin, entries)| Cost {
                origin: Arc::clone(origin),
                entries,
            })
            .collect();
        // Equal costs stay in the order of their origins.
        costs.sort_by_key(|cost| std::cmp::Reverse(cost.entries));
        costs.truncate(MOST);
        Self {
            costliest: costs,
            ..self
        }
    }
}

/// The addresses and subnets that each rule names.
fn peers_named(policy: &HostPolicy) -> Vec<usize> {
    let mut held: HashMap<Identity, usize> = HashMap::new();
    for identity in policy.addresses.values() {
        *held.entry(*identity).or_default() += 1;
    }
    let named = |rule: &Rule| match &rule.peers {
        PeerMatch::Any => 0,
        PeerMatch::Of {
            identities,
            subnets,
        } => {
            let addresses = identities.iter().filter_map(|identity| held.get(identity));
            let subnets = subnets.iter().map(|subnet| 1 + subnet.except.len());
            addresses.sum::<usize>() + subnets.sum::<usize>()
        }
    };
    policy.rules.iter().map(named).collect()
}

/// The columns, or the cells, that each rule splits off.
fn split(policy: &HostPolicy, peers: &Peers, ports: &Ports, only_columns: bool) -> Vec<usize> {
    let rows = split_by_list(peers.signatures.iter().map(|lists| (0, lists.as_slice())));
    let columns = split_by_list(
        ports
            .signatures
            .iter()
            .map(|(direction, lists)| (*direction as u64, lists.as_slice())),
    );
    let peer_lists = shares(&peers.list_of_rule);
    let port_lists = shares(&ports.list_of_rule);
    let (row_count, column_count) = (peers.signatures.len(), ports.signatures.len());
    let share = |list: Option<u32>, split: &HashMap<u32, usize>, shares: &HashMap<u32, usize>| {
        let of = |list| Some(split.get(&list)? / shares.get(&list)?.max(&1));
        list.and_then(of).unwrap_or(0)
    };
    (0..policy.rules.len())
        .map(|rule| {
            let rows = share(peers.list_of_rule[rule], &rows, &peer_lists);
            let columns = share(ports.list_of_rule[rule], &columns, &port_lists);
            if only_columns {
                columns
            } else {
                row_count * column_count - (row_count - rows) * (column_count - columns)
            }
        })
        .collect()
}

/// How many rules have each list.
fn shares(list_of_rule: &[Option<u32>]) -> HashMap<u32, usize> {
    let mut shares = HashMap::new();
    for list in list_of_rule.iter().flatten() {
        *shares.entry(*list).or_default() += 1;
    }
    shares
}

/// By list, how many signatures would be equal to another one if the list were not there. A
/// signature is found by the sum of its lists' hashes, from which one is quickly taken away.
fn split_by_list<'a>(
    signatures: impl Iterator<Item = (u64, &'a [u32])> + Clone,
) -> HashMap<u32, usize> {
    let hash = |(kind, lists): (u64, &[u32])| {
        let lists = lists.iter().map(|list| mixed(u64::from(*list) + 2));
        lists.fold(mixed(kind), u64::wrapping_add)
    };
    let known: HashSet<u64> = signatures.clone().map(hash).collect();
    let mut split = HashMap::new();
    for (kind, lists) in signatures {
        let whole = hash((kind, lists));
        for list in lists {
            let without = whole.wrapping_sub(mixed(u64::from(*list) + 2));
            if known.contains(&without) {
                *split.entry(*list).or_default() += 1;
            }
        }
    }
    split
}

/// A hash of a small number (Steele, Lea and Flood, 2014: SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
