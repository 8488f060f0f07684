//! What a plan promises, on the in-memory tables.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up shall fail"
)]

use datapath::{Tables as _, memory::MemoryTables};
use policy::{
    Direction, HostPolicy, IdentityTable, Population, PortKey, Revision,
    testing::{Scenario, scenario},
};
use proptest::prelude::*;

use super::*;
use crate::{
    local_tiers::LocalTiers,
    lower::{direction, lower, slot},
};

/// What each host of a scenario enforces, its own rules included.
pub fn policies(scenario: &Scenario) -> Vec<HostPolicy> {
    let mut identities = IdentityTable::default();
    let population = Population::new(&scenario.set, &scenario.inventory, &mut identities);
    let hosts = scenario.inventory.hosts.iter();
    hosts
        .map(|host| {
            let subject = scenario.set.subject(host, &mut identities);
            let policy = policy::compile(&scenario.set, Revision(1), &population, &subject);
            LocalTiers::default().merge(&policy)
        })
        .collect()
}

pub fn stamp() -> Stamp {
    Stamp {
        revision: 1,
        digest: [7; 32],
        local: 7,
        report_interval: 1_000_000_000,
        timeouts: Timeouts::DEFAULT,
        limits: EventLimits::DEFAULT,
        learn: false,
        other_ether_types: 0,
    }
}

fn plan_for(observed: &Observed, policy: &HostPolicy) -> Vec<Operation> {
    let tables = lower(policy, &policy::classify(policy).unwrap());
    plan(observed, &tables, &stamp()).unwrap()
}

/// The enforced and the staged rule of a flow, as the datapath would look them up.
fn look_up(
    tables: &MemoryTables,
    flow: (Direction, std::net::IpAddr, PortKey),
) -> Option<MatrixCell> {
    use datapath::{
        FamilyTables,
        layout::{Ipv4, Ipv6},
    };
    let (opened, peer, port) = flow;
    let generation = tables.generation()?;
    let number = match peer {
        std::net::IpAddr::V4(peer) => {
            let peer = Ipv4(peer.octets());
            tables
                .exact_peer(&peer)
                .or_else(|| tables.subnet_peer(&peer))
        }
        std::net::IpAddr::V6(peer) => {
            let peer = Ipv6(peer.octets());
            tables
                .exact_peer(&peer)
                .or_else(|| tables.subnet_peer(&peer))
        }
    };
    let peer_class = tables.peer_class(generation, number.unwrap_or(WORLD))?;
    let port_class = tables.port_class(generation, direction(opened), slot(port.slot), port.key)?;
    let stride = tables.settings(generation)?.port_classes;
    tables.cell(generation, peer_class * stride + u32::from(port_class))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// One packet, one revision: at every step of a plan each flow has the old ruling, until the
    /// flip; from then on it has the new one.
    #[test]
    fn the_flip_is_the_only_step_at_which_a_ruling_changes(scenario in scenario()) {
        let policies = policies(&scenario);
        let flows: Vec<_> = scenario
            .flows
            .iter()
            .flat_map(|flow| [
                (Direction::Ingress, flow.source, flow.port),
                (Direction::Egress, flow.destination, flow.port),
            ])
            .collect();
        let mut tables = MemoryTables::default();
        let mut observed = Observed::default();
        for policy in &policies {
            let operations = plan_for(&observed, policy);
            let old: Vec<_> = flows.iter().map(|flow| look_up(&tables, *flow)).collect();
            let mut new = None;
            for operation in &operations {
                memory::execute(&mut tables, operation);
                let steps_of_interest = matches!(
                    operation,
                    Operation::SetPeerClass { .. }
                        | Operation::InsertPeer { .. }
                        | Operation::RemovePeer { .. }
                        | Operation::WriteSettings(_)
                        | Operation::Flip { .. }
                );
                if !steps_of_interest {
                    continue;
                }
                let now: Vec<_> = flows.iter().map(|flow| look_up(&tables, *flow)).collect();
                if matches!(operation, Operation::Flip { .. }) {
                    prop_assert!(now.iter().all(Option::is_some));
                    new = Some(now);
                } else {
                    prop_assert_eq!(&now, new.as_ref().unwrap_or(&old));
                }
            }
            observed = observed.after(&operations);
        }
    }
}

#[test]
fn a_generation_is_never_none_and_never_in_the_slot_of_the_one_before() {
    for generation in [0, 1, 2, u32::MAX - 1, u32::MAX] {
        let next = following(generation);
        assert_ne!(next, 0);
        assert_ne!(slot_of(next), slot_of(generation));
    }
}

#[test]
fn peer_numbers_outlive_generations_and_are_used_again() {
    let tables = |prefixes: &[&str]| Tables {
        peers: prefixes
            .iter()
            .map(|prefix| (prefix.parse().unwrap(), 1))
            .collect(),
        world: 0,
        pages: Vec::new(),
        matrix: Vec::new(),
        port_classes: 1,
        rules: 1,
    };
    let advance = |observed: Observed, prefixes: &[&str]| {
        let operations = plan(&observed, &tables(prefixes), &stamp()).unwrap();
        observed.after(&operations)
    };
    let first = advance(Observed::default(), &["10.0.0.1/32", "10.0.0.2/32"]);
    let second = advance(first.clone(), &["10.0.0.2/32", "10.0.0.3/32"]);
    let third = advance(second.clone(), &["10.0.0.2/32", "10.0.0.4/32"]);
    let number = |observed: &Observed, prefix: &str| observed.peers[&prefix.parse().unwrap()];
    assert_eq!(number(&first, "10.0.0.2/32"), number(&third, "10.0.0.2/32"));
    // Freed in the second step, after its flip; so free for the third.
    assert_eq!(number(&first, "10.0.0.1/32"), number(&third, "10.0.0.4/32"));
    assert_eq!(third.peers.len(), 2);
}

#[test]
fn no_packet_holds_a_number_that_is_given_to_another_prefix() {
    let tables = |prefix: &str| Tables {
        peers: BTreeMap::from([(prefix.parse().unwrap(), 1)]),
        world: 0,
        pages: Vec::new(),
        matrix: Vec::new(),
        port_classes: 1,
        rules: 1,
    };
    let mut observed = Observed::default();
    let mut removed_since_settling = BTreeSet::new();
    let mut given_again = 0;
    let mut ever_removed = BTreeSet::new();
    for prefix in ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "10.0.0.4/32"] {
        let operations = plan(&observed, &tables(prefix), &stamp()).unwrap();
        for operation in &operations {
            match operation {
                Operation::RemovePeer { prefix } => {
                    removed_since_settling.insert(observed.peers[prefix]);
                    ever_removed.insert(observed.peers[prefix]);
                }
                Operation::Settle => removed_since_settling.clear(),
                Operation::SetPeerClass { peer, .. } | Operation::InsertPeer { peer, .. } => {
                    assert!(!removed_since_settling.contains(peer));
                    given_again += u32::from(ever_removed.contains(peer));
                }
                _ => {}
            }
        }
        observed = observed.after(&operations);
    }
    assert!(
        given_again > 0,
        "the test is about numbers that are given again"
    );
}

#[test]
fn more_cells_than_the_maps_hold_are_refused() {
    let tables = Tables {
        peers: BTreeMap::new(),
        world: 0,
        pages: Vec::new(),
        matrix: vec![
            MatrixCell {
                enforced: datapath::layout::Ruling(0),
                staged: datapath::layout::Ruling(0)
            };
            MAX_CELLS as usize + 1
        ],
        port_classes: 1,
        rules: 1,
    };
    let refused = plan(&Observed::default(), &tables, &stamp()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "matrix cells: 1048577 needed, the kernel maps hold 1048576"
    );
}
