//! Flows: what passes, what is dropped, what is counted and reported.

use super::*;
use crate::layout::{event_kind, settings_flag};

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
fn the_end_of_a_connection_that_is_not_known_is_not_remembered_as_one_that_goes_on() {
    for (flags, state) in [
        (RST, flow_state::CLOSING),
        (FIN | ACK, flow_state::CLOSING),
        (ACK, flow_state::ESTABLISHED),
    ] {
        let tables = tables(World::Https);
        let packet = tcp(CLIENT, SERVER, flags);
        assert_eq!(ingress(&tables, &packet, 1), Verdict::Pass);
        let flows = tables.ipv4.flows.borrow();
        assert_eq!(flows.values().next().unwrap().record.get().state(), state);
    }
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
fn a_deny_is_kept_for_packets_that_open_a_flow_in_its_direction_and_generation() {
    let mut tables = tables(World::NothingIn);
    let (local, remote) = ((HOST, 40000), (STRANGER, 443));
    for packet in [udp(remote, local), tcp(remote, local, SYN)] {
        assert_eq!(ingress(&tables, &packet, 0), Verdict::Drop);
    }
    // Without the tables, or it would be for another reason.
    let matrix = std::mem::take(&mut tables.matrix);
    for packet in [udp(remote, local), tcp(remote, local, SYN)] {
        assert_eq!(ingress(&tables, &packet, 1), Verdict::Drop);
    }
    assert_eq!(tables.packets(Reason::Policy), 4);
    assert_eq!(tables.rule_packets(1, DENY), 4);
    tables.matrix = matrix;

    // The middle of a connection that this host has opened is no such packet,
    assert_eq!(ingress(&tables, &tcp(remote, local, ACK), 2), Verdict::Pass);
    // nor is one that goes out.
    assert_eq!(egress(&tables, &udp(local, remote), 3), Verdict::Pass);

    publish(&mut tables, World::All);
    tables.ipv4.flows.borrow_mut().clear();
    for packet in [udp(remote, local), tcp(remote, local, SYN)] {
        assert_eq!(ingress(&tables, &packet, 4), Verdict::Pass);
    }
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

/// Sets what holds for the live generation.
fn set(tables: &mut MemoryTables, change: impl Fn(&mut Settings)) {
    tables.settings.iter_mut().flatten().for_each(change);
}

#[test]
fn each_state_and_protocol_has_a_timeout_of_its_own() {
    let (local, remote) = ((HOST, 40_000), (STRANGER, 53));
    // A reply passes until the timeout of the state that its flow is in, and no longer.
    let seconds = Timeouts {
        udp_new: 7,
        udp_established: 50,
        ..Timeouts::DEFAULT
    };
    for (answered, after, verdict) in [
        (false, 7, Verdict::Pass),
        (false, 8, Verdict::Drop),
        (true, 50, Verdict::Pass),
        (true, 51, Verdict::Drop),
    ] {
        let mut tables = tables(World::NothingIn);
        set(&mut tables, |settings| settings.timeouts = seconds);
        egress(&tables, &udp(local, remote), 0);
        if answered {
            ingress(&tables, &udp(remote, local), 0);
        }
        let found = ingress(&tables, &udp(remote, local), after * SECOND);
        assert_eq!(found, verdict, "answered {answered}, after {after} s");
    }
    let of = |number, state| Timeouts::DEFAULT.of(number, state) / SECOND;
    let (new, established) = (flow_state::NEW, flow_state::ESTABLISHED);
    let tcp = [new, established, flow_state::CLOSING].map(|state| of(6, state));
    assert_eq!(tcp, [60, 21_600, 120]);
    assert_eq!([of(132, new), of(132, established)], [60, 3_600]);
    assert_eq!(
        [of(1, established), of(58, new), of(47, new)],
        [30, 30, 600]
    );
}

#[test]
fn a_flow_counts_what_passes_each_way() {
    let tables = tables(World::Https);
    let out = tcp(SERVER, CLIENT, ACK);
    ingress(&tables, &tcp(CLIENT, SERVER, SYN), 1);
    for now in 2..5 {
        egress(&tables, &out, now);
    }
    let flows = tables.ipv4.flows.borrow();
    let flow = flows.values().next().unwrap();
    let traffic = [&flow.ingress, &flow.egress];
    assert_eq!(traffic.map(|it| it.packets.get()), [1, 3]);
    assert_eq!(flow.egress.bytes.get(), 3 * out.len() as u64);
}

#[test]
fn no_packet_that_is_denied_keeps_a_flow_alive_or_counts_in_it() {
    let mut tables = tables(World::NothingIn);
    let (local, remote) = ((HOST, 40_000), (STRANGER, 5432));
    egress(&tables, &tcp(local, remote, SYN), 0);
    ingress(&tables, &tcp(remote, local, SYN | ACK), 0);
    publish(&mut tables, World::NothingOut);
    for seconds in 1..100 {
        let now = seconds * SECOND;
        assert_eq!(
            ingress(&tables, &tcp(remote, local, ACK), now),
            Verdict::Drop
        );
    }
    let flows = tables.ipv4.flows.borrow();
    let flow = flows.values().next().unwrap();
    assert_eq!(flow.last_seen.get(), 0);
    assert_eq!(
        (flow.ingress.packets.get(), flow.egress.packets.get()),
        (1, 1)
    );
}

#[test]
fn a_datagram_flow_from_before_the_agent_belongs_to_the_end_that_its_ports_tell() {
    let learning = |world| {
        let mut tables = tables(world);
        set(&mut tables, |settings| {
            settings.flags = settings_flag::LEARN
        });
        tables
    };
    // The answer is seen first: the host asked.
    let (local, remote) = ((HOST, 40_000), (STRANGER, 53));
    for (world, verdict) in [
        (World::NothingIn, Verdict::Pass),
        (World::NothingOut, Verdict::Drop),
    ] {
        let mut tables = learning(World::All);
        assert_eq!(ingress(&tables, &udp(remote, local), 1), Verdict::Pass);
        publish(&mut tables, world);
        assert_eq!(ingress(&tables, &udp(remote, local), 2), verdict);
        assert_eq!(egress(&tables, &udp(local, remote), 3), verdict);
    }
    // The ports tell nothing: either will do.
    let (local, remote) = ((HOST, 4_789), (FRIEND, 4_789));
    for (world, verdict) in [
        (World::NothingIn, Verdict::Pass),
        (World::NothingOut, Verdict::Pass),
        (World::Nothing, Verdict::Drop),
    ] {
        let mut tables = learning(World::All);
        assert_eq!(ingress(&tables, &udp(remote, local), 1), Verdict::Pass);
        publish(&mut tables, world);
        assert_eq!(ingress(&tables, &udp(remote, local), 2), verdict);
    }
    // To learn is not to let pass what policy denies.
    let tables = learning(World::Nothing);
    assert_eq!(ingress(&tables, &udp(remote, local), 1), Verdict::Drop);
}
