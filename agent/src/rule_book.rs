//! What the rule numbers in events mean: the rules of the last generations.

use std::{
    collections::{HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use datapath::{
    Reason,
    layout::{Event, event_kind},
};
use policy::{Direction, HostPolicy, Origin, Revision, Tier};
use rustix::{
    net::{AddressFamily, SocketType, netdevice::index_to_name, socket},
    time::{ClockId, clock_gettime},
};

use crate::denial::{DecidedBy, Denial, Frame};

/// Generations that are remembered: an event may wait in the ring while policy moves on.
const REMEMBERED: usize = 64;

/// The rules of the last generations, shared by the enforcer and the reader of events.
#[derive(Clone, Debug, Default)]
pub struct RuleBook(Arc<Mutex<VecDeque<Page>>>);

#[derive(Debug)]
struct Page {
    generation: u32,
    revision: Revision,
    /// The same in pages whose rules have the same names, which most changes leave alone.
    rules: Arc<[Name]>,
}

/// What a report says of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    tier: Tier,
    origin: Arc<Origin>,
}

impl RuleBook {
    /// Remembers the names of a generation's rules.
    pub fn insert(&self, generation: u32, policy: &HostPolicy) {
        let mut pages = self.pages();
        let names = policy.rules.iter().map(|rule| (rule.tier, &rule.origin));
        let before = pages.front().map_or(&[][..], |page| &page.rules);
        let same = |(tier, origin): (Tier, &Arc<Origin>), name: &Name| {
            tier == name.tier && *origin == name.origin
        };
        let rules = if names.len() == before.len()
            && names
                .clone()
                .zip(before)
                .all(|(rule, name)| same(rule, name))
            && let Some(page) = pages.front()
        {
            Arc::clone(&page.rules)
        } else {
            let known: HashSet<&Arc<Origin>> = before.iter().map(|name| &name.origin).collect();
            names
                .map(|(tier, origin)| Name {
                    tier,
                    origin: Arc::clone(known.get(origin).copied().unwrap_or(origin)),
                })
                .collect()
        };
        pages.retain(|page| page.generation != generation);
        pages.push_front(Page {
            generation,
            revision: policy.revision,
            rules,
        });
        pages.truncate(REMEMBERED);
    }

    /// Gives the rules of a generation to another one too, for tables that stay and get another number.
    pub fn renumber(&self, from: u32, to: u32, revision: Revision) {
        let mut pages = self.pages();
        let Some(rules) = pages
            .iter()
            .find(|page| page.generation == from)
            .map(|page| Arc::clone(&page.rules))
        else {
            return;
        };
        pages.push_front(Page {
            generation: to,
            revision,
            rules,
        });
        pages.truncate(REMEMBERED);
    }

    fn name(&self, generation: u32, rule: u32) -> Option<(Name, Revision)> {
        let pages = self.pages();
        let page = pages.iter().find(|page| page.generation == generation)?;
        let name = page.rules.get(usize::try_from(rule).ok()?)?;
        Some((name.clone(), page.revision))
    }

    /// The policy set of a generation; 0 of one that is not remembered.
    fn revision(&self, generation: u32) -> Revision {
        let pages = self.pages();
        let mut pages = pages.iter();
        let page = pages.find(|page| page.generation == generation);
        page.map_or(Revision(0), |page| page.revision)
    }

    /// What an event reports. Events of rules with `log: true` are no denials: they are logged here.
    #[must_use]
    pub fn resolve(&self, event: &Event) -> Option<Denial> {
        let unparsed = event.kind == event_kind::UNPARSED;
        let (rule, revision) = if unparsed {
            (None, self.revision(event.generation))
        } else {
            let number = event.ruling.rule();
            let (Name { tier, origin }, revision) =
                self.name(event.generation, number).unwrap_or_else(|| {
                    // Judged before this agent's memory began; the packet was denied all the same.
                    let name = Name {
                        tier: Tier::Default,
                        origin: Arc::new(forgotten(number)),
                    };
                    (name, Revision(0))
                });
            (Some(DecidedBy { tier, origin }), revision)
        };
        let address = |bytes| (event.family != 0).then(|| address(event.family, bytes));
        let denial = Denial {
            time_ns: unix_time_of(event.time),
            direction: match datapath::Direction::from_number(event.direction) {
                datapath::Direction::Ingress => Direction::Ingress,
                datapath::Direction::Egress => Direction::Egress,
            },
            reason: Reason::from_number(event.reason)
                .map_or("unknown", Reason::word)
                .to_owned(),
            rule,
            revision,
            generation: event.generation,
            protocol: event.protocol,
            local_address: address(event.local),
            peer_address: address(event.remote),
            local_port: event.local_port,
            peer_port: event.remote_port,
            packets: event.packets,
            staged: event.kind == event_kind::STAGED,
            staged_allows: event.staged_allows != 0,
            lost_before: event.lost,
            frame: unparsed.then(|| Frame {
                ether_type: event.ether_type,
                peer_mac: event.mac,
                interface: interface_name(event.interface),
            }),
        };
        if let (event_kind::LOGGED, Some(DecidedBy { origin, .. })) = (event.kind, &denial.rule) {
            let end = |address: Option<IpAddr>| address.map(tracing::field::display);
            tracing::info!(
                direction = %denial.direction,
                protocol = denial.protocol,
                local = end(denial.local_address),
                local_port = denial.local_port,
                peer = end(denial.peer_address),
                peer_port = denial.peer_port,
                rule = origin.rule,
                file = origin.file,
                line = origin.line,
                "flow allowed"
            );
            return None;
        }
        Some(denial)
    }

    fn pages(&self) -> MutexGuard<'_, VecDeque<Page>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forgotten(rule: u32) -> Origin {
    Origin {
        rule: format!("rule {rule} of an earlier agent"),
        file: String::new(),
        line: 0,
    }
}

/// The name of an interface in this agent's network namespace; empty when there is none.
fn interface_name(index: u32) -> String {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None);
    let name = socket.and_then(|socket| index_to_name(socket, index));
    name.unwrap_or_default()
}

pub fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    match family {
        4 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
        _ => Ipv6Addr::from(bytes).into(),
    }
}

/// Nanoseconds since the Unix epoch of a moment on the monotonic clock.
fn unix_time_of(monotonic: u64) -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec)
        .unwrap_or_default()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default());
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_nanos())
        .unwrap_or(u64::MAX)
        .saturating_sub(now.saturating_sub(monotonic))
}

#[cfg(test)]
mod tests;
