//! Peers that every rule treats alike.
//!
//! Rules name peers in lists, and many rules share a list. The *signature* of an address is the set
//! of lists that hold it; addresses with one signature are alike. Signatures change only at the
//! prefixes that some list names, so one walk over the sorted prefixes, with a stack of those that
//! hold the current one, finds them all without asking each list about each prefix.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    classify::{TooLarge, index::Index},
    host_policy::{HostPolicy, PeerMatch, SubnetMatch},
    limits,
    words::Identity,
};

/// Which lists of peers hold which addresses.
pub(super) struct Peers {
    /// The list of each rule, as a number; none is everybody.
    pub list_of_rule: Vec<Option<u32>>,
    /// Lists by number, sorted; the signature 0 is empty: that of the world.
    pub signatures: Vec<Vec<u32>>,
    /// The signature of each exact address; sorted.
    pub addresses: Vec<(IpAddr, u32)>,
    /// The signature of each subnet, outside of the longer ones in it; sorted.
    pub subnets: Vec<(IpNet, u32)>,
}

/// One prefix that some list or the address book names.
struct Prefix {
    identity: Option<Identity>,
    edges: Vec<Edge>,
}

/// What entering a prefix does to one subnet match.
#[derive(Clone, Copy)]
struct Edge {
    /// Which match, as a number.
    matched: u32,
    /// Whether the prefix is one of its exceptions, or its subnet.
    is_hole: bool,
}

/// What the walk knows of one subnet match where it stands.
#[derive(Clone, Copy, Default)]
struct State {
    inside: u32,
    holes: u32,
}

impl Peers {
    pub fn new(policy: &HostPolicy) -> Result<Self, TooLarge> {
        let mut lists: Index<&PeerMatch> = Index::default();
        let list_of_rule = policy
            .rules
            .iter()
            .map(|rule| (rule.peers != PeerMatch::Any).then(|| lists.number(&rule.peers)))
            .collect();

        let mut lists_of_identity: HashMap<Identity, Vec<u32>> = HashMap::new();
        for identity in policy.addresses.values() {
            lists_of_identity.entry(*identity).or_default();
        }
        let mut matches: Index<&SubnetMatch> = Index::default();
        let mut lists_of_match: Vec<Vec<u32>> = Vec::new();
        for (list, peers) in (0..).zip(lists.items()) {
            let PeerMatch::Of {
                identities,
                subnets,
            } = peers
            else {
                continue;
            };
            for identity in identities {
                if let Some(lists) = lists_of_identity.get_mut(identity) {
                    lists.push(list);
                }
            }
            for subnet in subnets {
                let number = matches.number(subnet) as usize;
                lists_of_match.resize_with(matches.items().len(), Vec::new);
                lists_of_match[number].push(list);
            }
        }

        let prefixes = prefixes(policy, matches.items());
        TooLarge::check("peers", prefixes.len(), limits::MAX_PEERS)?;

        let mut walk = Walk {
            states: vec![State::default(); matches.items().len()],
            matches_of_list: vec![0; lists.items().len()],
            lists_of_match,
            lists_of_identity,
            signatures: Index::default(),
            memberships: 0,
            with_identity: HashMap::new(),
        };
        walk.signatures.number(Vec::new());
        let (addresses, subnets) = walk.run(&prefixes)?;
        Ok(Self {
            list_of_rule,
            signatures: walk.signatures.into_items(),
            addresses,
            subnets,
        })
    }
}

/// Every prefix that a rule or the address book names, sorted: those around others come first.
fn prefixes(policy: &HostPolicy, matches: &[&SubnetMatch]) -> Vec<(IpNet, Prefix)> {
    let mut edges: BTreeMap<IpNet, Vec<Edge>> = BTreeMap::new();
    for (matched, SubnetMatch { subnet, except }) in (0..).zip(matches) {
        let mut cross = |prefix: &IpNet, is_hole| {
            let edge = Edge { matched, is_hole };
            edges.entry(prefix.trunc()).or_default().push(edge);
        };
        cross(subnet, false);
        except.iter().for_each(|hole| cross(hole, true));
    }
    let mut prefixes = Vec::with_capacity(edges.len() + policy.addresses.len());
    let mut edges = edges.into_iter().peekable();
    for (address, identity) in &policy.addresses {
        let net = IpNet::from(*address);
        let mut prefix = Prefix {
            identity: Some(*identity),
            edges: Vec::new(),
        };
        while let Some((other, edges)) = edges.next_if(|(other, _)| *other <= net) {
            if other == net {
                prefix.edges = edges;
            } else {
                let identity = None;
                prefixes.push((other, Prefix { identity, edges }));
            }
        }
        prefixes.push((net, prefix));
    }
    let identity = None;
    prefixes.extend(edges.map(|(net, edges)| (net, Prefix { identity, edges })));
    prefixes
}

struct Walk {
    /// Of each subnet match.
    states: Vec<State>,
    /// How many matches of each list hold where the walk stands.
    matches_of_list: Vec<u32>,
    lists_of_match: Vec<Vec<u32>>,
    /// Of the identities in the address book.
    lists_of_identity: HashMap<Identity, Vec<u32>>,
    signatures: Index<Vec<u32>>,
    /// Lengths of all signatures.
    memberships: usize,
    /// The signature of an address by that of the subnets around it and its identity.
    with_identity: HashMap<(u32, Identity), u32>,
}

type Found = (Vec<(IpAddr, u32)>, Vec<(IpNet, u32)>);

impl Walk {
    /// Visits every prefix, those around it before it.
    fn run(&mut self, prefixes: &[(IpNet, Prefix)]) -> Result<Found, TooLarge> {
        let (mut addresses, mut subnets) = (Vec::new(), Vec::new());
        let mut around: Vec<(&IpNet, &Prefix, u32)> = Vec::new();
        for (net, prefix) in prefixes {
            while let Some((_, left, _)) = around.pop_if(|(outer, ..)| !outer.contains(net)) {
                for edge in &left.edges {
                    self.cross(*edge, u32::wrapping_sub);
                }
            }
            let outer = around.last().map_or(0, |(.., signature)| *signature);
            for edge in &prefix.edges {
                self.cross(*edge, u32::wrapping_add);
            }
            let mut signature = self.signature(outer, &prefix.edges)?;
            around.push((net, prefix, signature));
            if let Some(identity) = prefix.identity {
                signature = self.signature_with(signature, identity)?;
            }
            if net.prefix_len() == net.max_prefix_len() {
                addresses.push((net.addr(), signature));
            } else {
                subnets.push((*net, signature));
            }
        }
        Ok((addresses, subnets))
    }

    /// Enters or leaves a prefix, as far as it concerns one subnet match.
    fn cross(&mut self, edge: Edge, step: fn(u32, u32) -> u32) {
        let state = &mut self.states[edge.matched as usize];
        let held = state.holds();
        let count = if edge.is_hole {
            &mut state.holes
        } else {
            &mut state.inside
        };
        *count = step(*count, 1);
        if state.holds() != held {
            let step = if held {
                u32::wrapping_sub
            } else {
                u32::wrapping_add
            };
            for list in &self.lists_of_match[edge.matched as usize] {
                let count = &mut self.matches_of_list[*list as usize];
                *count = step(*count, 1);
            }
        }
    }

    /// The signature where the walk stands, from the one around it and what these edges changed.
    fn signature(&mut self, outer: u32, edges: &[Edge]) -> Result<u32, TooLarge> {
        if edges.is_empty() {
            return Ok(outer);
        }
        let mut touched: Vec<u32> = edges
            .iter()
            .flat_map(|edge| &self.lists_of_match[edge.matched as usize])
            .copied()
            .collect();
        touched.sort_unstable();
        touched.dedup();
        let outer = &self.signatures.items()[outer as usize];
        let mut lists: Vec<u32> = outer
            .iter()
            .copied()
            .filter(|list| touched.binary_search(list).is_err())
            .collect();
        lists.extend(
            touched
                .iter()
                .filter(|list| self.matches_of_list[**list as usize] > 0),
        );
        lists.sort_unstable();
        self.keep(lists)
    }

    /// The signature of an address that has an identity, too.
    fn signature_with(&mut self, signature: u32, identity: Identity) -> Result<u32, TooLarge> {
        if let Some(known) = self.with_identity.get(&(signature, identity)) {
            return Ok(*known);
        }
        let mut lists = self.signatures.items()[signature as usize].clone();
        lists.extend(self.lists_of_identity.get(&identity).into_iter().flatten());
        lists.sort_unstable();
        lists.dedup();
        let number = self.keep(lists)?;
        self.with_identity.insert((signature, identity), number);
        Ok(number)
    }

    fn keep(&mut self, lists: Vec<u32>) -> Result<u32, TooLarge> {
        let (known, length) = (self.signatures.items().len(), lists.len());
        let number = self.signatures.number(lists);
        if number as usize == known {
            self.memberships += length;
            TooLarge::check(
                "overlapping peers",
                self.memberships,
                limits::MAX_MEMBERSHIPS,
            )?;
        }
        Ok(number)
    }
}

impl State {
    fn holds(self) -> bool {
        self.inside > 0 && self.holes == 0
    }
}
