//! From classes to what the kernel maps shall hold. Pure.

use std::collections::BTreeMap;

use datapath::layout::{MatrixCell, PAGE_KEYS, PAGES, PortPage, Ruling, page_index};
use ipnet::IpNet;
use policy::{
    Action, Classes, Direction, HostPolicy, ProtocolSlot, Rule, RuleId, Tier, classify::ClassSpan,
};

/// The meaning of tables. It goes up when [`lower`] or [`policy::classify`] make other tables of the
/// same rules: then a new agent writes tables of its own, where it would adopt an older one's.
pub const TABLES_VERSION: u64 = 1;

/// The tables of one generation, before it has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The class of every peer; host-length prefixes are exact addresses.
    pub peers: BTreeMap<IpNet, u32>,
    /// The class of an address that no peer holds.
    pub world: u32,
    /// All pages, in the order of the map's first slot.
    pub pages: Vec<PortPage>,
    /// Row by row.
    pub matrix: Vec<MatrixCell>,
    /// The stride of the matrix.
    pub port_classes: u32,
    /// How many rules the rulings speak of.
    pub rules: u32,
}

/// Lowers the classes of a host policy.
#[must_use]
pub fn lower(policy: &HostPolicy, classes: &Classes) -> Tables {
    let addresses = classes
        .addresses
        .iter()
        .map(|(address, class)| (IpNet::from(*address), class.0));
    let subnets = classes
        .subnets
        .iter()
        .map(|(subnet, class)| (*subnet, class.0));
    Tables {
        peers: addresses.chain(subnets).collect(),
        world: classes.world.0,
        pages: pages(&classes.ports),
        matrix: classes
            .matrix
            .iter()
            .map(|cell| MatrixCell {
                enforced: ruling(&policy.rules, cell.enforced),
                staged: ruling(&policy.rules, cell.staged),
            })
            .collect(),
        port_classes: classes.port_classes,
        rules: u32::try_from(policy.rules.len()).unwrap_or(u32::MAX),
    }
}

/// The datapath's word for a direction.
#[must_use]
pub fn direction(direction: Direction) -> datapath::Direction {
    match direction {
        Direction::Ingress => datapath::Direction::Ingress,
        Direction::Egress => datapath::Direction::Egress,
    }
}

/// The number of a slot in the datapath's tables.
#[must_use]
pub fn slot(slot: ProtocolSlot) -> u32 {
    match slot {
        ProtocolSlot::Tcp => 0,
        ProtocolSlot::Udp => 1,
        ProtocolSlot::Sctp => 2,
        ProtocolSlot::Icmp => 3,
        ProtocolSlot::Icmpv6 => 4,
        ProtocolSlot::Other => 5,
    }
}

fn ruling(rules: &[Rule], id: RuleId) -> Ruling {
    let Some(rule) = rules.get(id.0 as usize) else {
        // A rule that is not there would be a bug of `classify`; it denies.
        return Ruling::new(id.0, false).strict();
    };
    let mut ruling = Ruling::new(id.0, rule.action == Action::Allow);
    if rule.log {
        ruling = ruling.logged();
    }
    // Quarantine and anti-spoofing mean every packet. What operators write of a direction speaks of
    // who opens: the answers to what was opened the other way are none of it.
    if rule.tier < Tier::Guardrail {
        ruling = ruling.strict();
    }
    ruling
}

fn pages(spans: &[ClassSpan]) -> Vec<PortPage> {
    let mut pages = vec![PortPage([0; PAGE_KEYS]); PAGES as usize];
    for span in spans {
        for key in span.first..=span.last {
            let index = page_index(0, direction(span.direction), slot(span.slot), key);
            pages[index as usize].0[usize::from(key) % PAGE_KEYS] = span.class.0;
        }
    }
    pages
}
