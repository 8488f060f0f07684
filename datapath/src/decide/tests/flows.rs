//! Flows: what passes, what is dropped, what is counted and reported.

use super::*;
use crate::layout::event_kind;

#[test]
fn what_a_rule_allows_passes_and_so_do_its_replies() {
    let tables = tables(World::Https);
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, SYN), 1),
        Verdict::Pass
    );
    assert_eq!(
        egress(&tables, &tcp(SERVER, CLIENT, SYN | ACK), 2),
        Verdict::Pass
    );
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, ACK), 3),
        Verdict::Pass
    );
    let flows = tables.ipv4.flows.borrow();
    let flow = flows.values().next().unwrap();
    assert_eq!(
        (flows.len(), flow.record.get().state()),
        (1, flow_state::ESTABLISHED)
    );
    assert!(tables.events.borrow().is_empty());
}

#[test]
fn what_no_rule_allows_is_dropped_and_counted_exactly() {
    let tables = tables(World::Https);
    let stranger = (STRANGER, 40000);
    for packet in 0..100 {
        assert_eq!(
            ingress(&tables, &tcp(stranger, SERVER, SYN), packet),
            Verdict::Drop
        );
    }
    assert_eq!(ingress(&tables, &udp(CLIENT, SERVER), 0), Verdict::Drop);
    assert_eq!(tables.rule_packets(1, DENY), 101);
    assert_eq!(tables.packets(Reason::Policy), 101);
    assert!(tables.ipv4.flows.borrow().is_empty());
}

#[test]
fn a_denied_flow_is_reported_once_an_interval_with_its_repeats_summed() {
    let tables = tables(World::Nothing);
    for packet in 0..10 {
        ingress(&tables, &tcp(CLIENT, SERVER, SYN), packet);
    }
    ingress(&tables, &tcp(CLIENT, SERVER, SYN), SECOND + 1);
    let events = tables.events.borrow();
    assert_eq!(
        events.iter().map(|event| event.packets).collect::<Vec<_>>(),
        [1, 10]
    );
    let event = events[0];
    assert_eq!(
        (event.remote[..4].to_vec(), event.remote_port),
        (FRIEND.to_vec(), 40000)
    );
    assert_eq!(
        (event.local[..4].to_vec(), event.local_port),
        (HOST.to_vec(), 443)
    );
    assert_eq!((event.family, event.protocol, event.direction), (4, 6, 0));
    assert_eq!(
        (event.ruling.rule(), event.reason, event.kind),
        (DENY, Reason::Policy as u8, 0)
    );
}

#[test]
fn an_event_that_the_ring_does_not_take_is_counted() {
    let mut tables = tables(World::Nothing);
    tables.event_room = Some(1);
    for port in 0..5 {
        ingress(&tables, &tcp((STRANGER, port), SERVER, SYN), 1);
    }
    assert_eq!(tables.events.borrow().len(), 1);
    assert_eq!(tables.packets(Reason::EventLost), 4);
    assert_eq!(tables.rule_packets(1, DENY), 5);
}

#[test]
fn a_reply_does_not_let_its_sender_open_a_connection() {
    let tables = tables(World::Https);
    let (local, remote) = ((HOST, 40000), (FRIEND, 5432));
    egress(&tables, &tcp(local, remote, SYN), 1);
    assert_eq!(
        ingress(&tables, &tcp(remote, local, SYN | ACK), 2),
        Verdict::Pass
    );
    assert_eq!(ingress(&tables, &tcp(remote, local, SYN), 3), Verdict::Drop);
    assert_eq!(ingress(&tables, &tcp(remote, local, ACK), 4), Verdict::Pass);
}

#[test]
fn an_idle_flow_is_forgotten() {
    let tables = tables(World::Https);
    let (local, remote) = ((HOST, 40000), (STRANGER, 53));
    egress(&tables, &udp(local, remote), 0);
    assert_eq!(
        ingress(&tables, &udp(remote, local), 20 * SECOND),
        Verdict::Pass
    );
    assert_eq!(
        ingress(&tables, &udp(remote, local), 400 * SECOND),
        Verdict::Drop
    );
}

#[test]
fn an_observed_policy_is_reported_and_nothing_is_dropped() {
    let tables = tables(World::HttpsObserved);
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, SYN), 1),
        Verdict::Pass
    );
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, ACK), 2),
        Verdict::Pass
    );
    let events = tables.events.borrow();
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].kind, events[0].ruling.rule()),
        (event_kind::STAGED, STAGED_DENY)
    );
}

#[test]
fn before_the_first_generation_nothing_passes() {
    let tables = MemoryTables::default();
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, SYN), 1),
        Verdict::Drop
    );
    assert_eq!(tables.packets(Reason::Tables), 1);
}

#[test]
fn a_table_without_an_answer_drops() {
    let mut tables = tables(World::Https);
    tables.matrix.clear();
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, SYN), 1),
        Verdict::Drop
    );
    assert_eq!(tables.packets(Reason::Tables), 1);
}
