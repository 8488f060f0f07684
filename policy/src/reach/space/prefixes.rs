//! One walk over all prefixes that anything names, with a stack of those around the current one:
//! what an address is in changes only at them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    host_policy::SubnetMatch,
    limits,
    reach::{TooMany, rulebook::Term},
};

/// How many addresses of a region are looked for. The first is often the one that names a network;
/// of three it is passed over.
const EXAMPLES: usize = 3;

/// All prefixes that something names.
pub(super) struct Prefixes<'a>(BTreeMap<IpNet, Prefix<'a>>);

#[derive(Default)]
struct Prefix<'a> {
    edges: Vec<Edge<'a>>,
    host: Option<u32>,
}

/// What entering a prefix does to a term.
enum Edge<'a> {
    Enter(Term),
    /// Unless the prefix lies in one of the exceptions.
    EnterMatch(Term, &'a SubnetMatch),
    Leave(Term),
}

/// An address, and the terms of the innermost prefix around it.
pub(super) struct Found {
    pub address: IpAddr,
    pub host: Option<u32>,
    /// Sorted.
    pub terms: Arc<[Term]>,
}

/// A prefix that the walk is in.
struct Around {
    net: IpNet,
    terms: Arc<[Term]>,
    host: Option<u32>,
    /// The first address behind the prefixes inside it so far; none behind the last there is.
    next: Option<u128>,
    /// Addresses outside of the prefixes inside it.
    free: Vec<IpAddr>,
}

impl Default for Prefixes<'_> {
    /// Both families as they are.
    fn default() -> Self {
        let roots = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        Self(roots.map(|root| (root, Prefix::default())).into())
    }
}

impl<'a> Prefixes<'a> {
    /// The addresses of a subnet are in a term.
    pub fn enter(&mut self, subnet: IpNet, term: Term) {
        self.at(subnet).edges.push(Edge::Enter(term));
    }

    /// The addresses that a subnet match holds are in a term.
    pub fn enter_match(&mut self, matched: &'a SubnetMatch, term: Term) {
        let edge = Edge::EnterMatch(term, matched);
        self.at(matched.subnet).edges.push(edge);
        for hole in &matched.except {
            self.at(*hole).edges.push(Edge::Leave(term));
        }
    }

    /// The addresses of a subnet are kept apart from the others.
    pub fn cut(&mut self, subnet: IpNet) {
        self.at(subnet);
    }

    /// A host holds an address.
    pub fn hold(&mut self, address: IpAddr, host: u32) {
        self.at(address.into()).host.get_or_insert(host);
    }

    fn at(&mut self, subnet: IpNet) -> &mut Prefix<'a> {
        self.0.entry(subnet.trunc()).or_default()
    }

    /// Every address that is held, and examples of all others.
    pub fn walk(self) -> Result<Vec<Found>, TooMany> {
        let mut found = Vec::new();
        let mut memberships = 0;
        let mut around: Vec<Around> = Vec::new();
        for (net, prefix) in self.0 {
            while let Some(left) = around.pop_if(|outer| !outer.net.contains(&net)) {
                left.finish(&mut found);
            }
            let outer_terms: Arc<[Term]> = match around.last_mut() {
                Some(outer) => {
                    outer.pass(&net);
                    Arc::clone(&outer.terms)
                }
                None => Arc::new([]),
            };
            let terms = if prefix.edges.is_empty() {
                outer_terms
            } else {
                let terms = cross(&net, &outer_terms, &prefix.edges);
                memberships += terms.len();
                TooMany::check("overlapping subnets", memberships, limits::MAX_MEMBERSHIPS)?;
                terms.into()
            };
            around.push(Around {
                net,
                terms,
                host: prefix.host,
                next: Some(number(net.network())),
                free: Vec::new(),
            });
        }
        while let Some(left) = around.pop() {
            left.finish(&mut found);
        }
        Ok(found)
    }
}

/// The terms inside a prefix, from those around it.
fn cross(net: &IpNet, outer: &[Term], edges: &[Edge<'_>]) -> Vec<Term> {
    let mut terms = outer.to_vec();
    terms.extend(edges.iter().filter_map(|edge| match edge {
        Edge::Enter(term) => Some(*term),
        Edge::EnterMatch(term, matched) => {
            let mut holes = matched.except.iter();
            (!holes.any(|hole| hole.contains(net))).then_some(*term)
        }
        Edge::Leave(_) => None,
    }));
    let mut left: Vec<Term> = edges
        .iter()
        .filter_map(|edge| match edge {
            Edge::Leave(term) => Some(*term),
            _ => None,
        })
        .collect();
    left.sort_unstable();
    terms.sort_unstable();
    terms.dedup();
    terms.retain(|term| left.binary_search(term).is_err());
    terms
}

impl Around {
    /// Notes what lies before a prefix inside, and goes on behind it.
    fn pass(&mut self, inside: &IpNet) {
        self.take_below(number(inside.network()));
        self.next = number(inside.broadcast()).checked_add(1);
    }

    fn take_below(&mut self, end: u128) {
        while let Some(next) = self
            .next
            .filter(|next| *next < end && self.free.len() < EXAMPLES)
        {
            self.free.push(address(next, &self.net));
            self.next = next.checked_add(1);
        }
    }

    /// Adds what the prefix has to show when nothing else is inside it.
    fn finish(mut self, found: &mut Vec<Found>) {
        if self.host.is_none() {
            let last = number(self.net.broadcast());
            self.take_below(last);
            if self.next == Some(last) && self.free.len() < EXAMPLES {
                self.free.push(self.net.broadcast());
            }
            if self.free.len() == EXAMPLES {
                self.free.remove(0);
            }
        } else {
            self.free = vec![self.net.addr()];
        }
        found.extend(self.free.into_iter().map(|address| Found {
            address,
            host: self.host,
            terms: Arc::clone(&self.terms),
        }));
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(number: u128, family: &IpNet) -> IpAddr {
    match family {
        // Addresses of a prefix of 32 bits fit.
        IpNet::V4(_) => IpAddr::V4((number as u32).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}
