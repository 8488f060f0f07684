//! Who may answer this host's DHCP client: whoever answers a request of its own, while that is open.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::layout::{Address, FlowKey, flow_kind, local_service};

const SERVER_4: [u8; 4] = [10, 9, 9, 9];
const BROADCAST: [u8; 4] = [255; 4];
const NOBODY: [u8; 4] = [0; 4];
const LEASED: [u8; 4] = [10, 0, 0, 77];
const SERVER_6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const ALL_SERVERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const ANSWERS: u16 = 3;
const RENEWALS: u16 = 4;
const REQUESTS: u16 = 5;
const STRIDE: u32 = 6;
const LIFELINE: u32 = 7;

/// Denies everything, but for requests to broadcast addresses, answers and, if `renewals`, requests to servers
/// that have answered; answers of friends alone, unless `anybody`.
fn lifeline(renewals: bool, anybody: bool) -> MemoryTables {
    let mut tables = MemoryTables::default();
    publish(&mut tables, World::Nothing);
    let generation = tables.generation.get();
    if let Some(settings) = &mut tables.settings[slot_of(generation) as usize] {
        settings.port_classes = STRIDE;
    }
    let mut class = |direction, slot, key: u16, class| {
        let page = tables
            .port_pages
            .entry(page_index(generation, direction, slot, key));
        page.or_insert(PortPage([0; PAGE_KEYS])).0[usize::from(key) % PAGE_KEYS] = class;
    };
    class(Direction::Ingress, 5, local_service::DHCP_ANSWER, ANSWERS);
    class(Direction::Egress, 5, local_service::DHCP_RENEWAL, RENEWALS);
    class(Direction::Egress, 1, 67, REQUESTS);
    class(Direction::Egress, 1, 547, REQUESTS);
    // Peers: the world, friends, and to whom requests may be sent.
    tables.ipv4.exact.insert(Ipv4(BROADCAST), 2);
    tables.ipv6.exact.insert(Ipv6(ALL_SERVERS), 2);
    for peer in 0..3 {
        tables
            .peer_classes
            .insert(peer_index(generation, peer), peer);
        for class in 0..STRIDE as u16 {
            let allow = match class {
                ANSWERS => anybody || peer == 1,
                RENEWALS => renewals && (anybody || peer == 1),
                REQUESTS => peer == 2,
                _ => false,
            };
            let ruling = Ruling::new(if allow { LIFELINE } else { DENY }, allow);
            let cell = MatrixCell {
                enforced: ruling,
                staged: ruling,
            };
            let offset = peer * STRIDE + u32::from(class);
            tables.matrix.insert(cell_index(generation, offset), cell);
        }
    }
    tables
}

fn datagram(source: [u8; 4], destination: [u8; 4], ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(source, destination, 64)
        .udp(ports[0], ports[1]);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// BOOTREQUEST or BOOTREPLY, with the options of an acknowledgement of a server.
fn bootp(operation: u8, transaction: u32, server: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0; 236];
    message[0] = operation;
    message[4..8].copy_from_slice(&transaction.to_be_bytes());
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 5, 54, 4]);
    message.extend(server);
    message.push(255);
    message
}

fn request(source: [u8; 4], destination: [u8; 4], transaction: u32) -> Vec<u8> {
    datagram(
        source,
        destination,
        [68, 67],
        &bootp(1, transaction, SERVER_4),
    )
}

fn answer(source: [u8; 4], destination: [u8; 4], transaction: u32) -> Vec<u8> {
    datagram(
        source,
        destination,
        [67, 68],
        &bootp(2, transaction, SERVER_4),
    )
}

fn datagram6(source: [u8; 16], destination: [u8; 16], ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(source, destination, 64)
        .udp(ports[0], ports[1]);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn request6(kind: u8, transaction: [u8; 3]) -> Vec<u8> {
    let [a, b, c] = transaction;
    datagram6(LINK_LOCAL, ALL_SERVERS, [546, 547], &[kind, a, b, c])
}

fn answer6(source: [u8; 16], kind: u8, transaction: [u8; 3]) -> Vec<u8> {
    let [a, b, c] = transaction;
    datagram6(source, LINK_LOCAL, [547, 546], &[kind, a, b, c])
}

use Verdict::{Drop, Pass};

#[test]
fn an_answer_passes_while_its_exchange_is_open_from_whatever_server_to_whatever_address() {
    let tables = lifeline(false, true);
    assert_eq!(ingress(&tables, &answer(SERVER_4, LEASED, 7), 1), Drop);
    assert_eq!(egress(&tables, &request(NOBODY, BROADCAST, 7), 1), Pass);
    for destination in [LEASED, BROADCAST] {
        for source in [SERVER_4, STRANGER] {
            let frame = answer(source, destination, 7);
            assert_eq!(ingress(&tables, &frame, 64 * SECOND), Pass);
        }
    }
    assert_eq!(ingress(&tables, &answer(SERVER_4, LEASED, 8), 2), Drop);
    let late = 66 * SECOND;
    assert_eq!(ingress(&tables, &answer(SERVER_4, LEASED, 7), late), Drop);
    // A request opens it anew.
    assert_eq!(egress(&tables, &request(NOBODY, BROADCAST, 7), late), Pass);
    assert_eq!(ingress(&tables, &answer(SERVER_4, LEASED, 7), late), Pass);
    assert_eq!(tables.rule_packets(1, LIFELINE), 2 + 5);
}

#[test]
fn what_only_looks_like_an_answer_does_not_pass() {
    let tables = lifeline(true, true);
    egress(&tables, &request(NOBODY, BROADCAST, 7), 1);
    let reply = bootp(2, 7, SERVER_4);
    let asked = bootp(1, 7, SERVER_4);
    for (ports, payload) in [
        ([67, 68], &asked[..]),
        ([67, 68], &reply[..7]),
        ([67, 69], &reply[..]),
        ([53, 68], &reply[..]),
        ([67, 67], &reply[..]),
        ([68, 67], &asked[..]),
    ] {
        let frame = datagram(SERVER_4, LEASED, ports, payload);
        assert_eq!(ingress(&tables, &frame, 2), Drop, "{ports:?}");
    }
    // Of IPv6, with the same transaction.
    assert_eq!(ingress(&tables, &answer6(SERVER_6, 7, [0, 0, 7]), 2), Drop);
}

#[test]
fn a_request_that_policy_denies_opens_nothing_and_one_that_comes_in_neither() {
    let tables = lifeline(false, true);
    assert_eq!(egress(&tables, &request(HOST, STRANGER, 7), 1), Drop);
    assert_eq!(ingress(&tables, &request(NOBODY, BROADCAST, 7), 1), Drop);
    assert_eq!(ingress(&tables, &answer(STRANGER, HOST, 7), 2), Drop);
}

#[test]
fn a_server_that_has_answered_is_asked_by_unicast_and_in_quarantine_it_is_not() {
    for allowed in [true, false] {
        let tables = lifeline(allowed, true);
        let renew = |to, now| egress(&tables, &request(LEASED, to, 9), now);
        assert_eq!(renew(SERVER_4, 1), Drop);
        egress(&tables, &request(NOBODY, BROADCAST, 7), 2);
        // By a relay: both are known from then on.
        let relay = STRANGER;
        assert_eq!(ingress(&tables, &answer(relay, LEASED, 7), 3), Pass);
        let week = 7 * 24 * 3600 * SECOND;
        for to in [SERVER_4, relay] {
            assert_eq!(renew(to, week) == Pass, allowed);
            let answered = ingress(&tables, &answer(to, LEASED, 9), week + 1);
            assert_eq!(answered == Pass, allowed);
        }
        assert_eq!(renew([10, 9, 9, 8], week), Drop);
        // Nothing else goes to it.
        let frame = datagram(LEASED, SERVER_4, [68, 67], b"not DHCP");
        assert_eq!(egress(&tables, &frame, week), Drop);
        assert_eq!(
            egress(&tables, &udp((LEASED, 68), (SERVER_4, 53)), week),
            Drop
        );
        // Quarantined or not, the client falls back to this.
        assert_eq!(egress(&tables, &request(LEASED, BROADCAST, 10), week), Pass);
        assert_eq!(ingress(&tables, &answer(SERVER_4, LEASED, 10), week), Pass);
    }
}

#[test]
fn a_server_is_forgotten_a_month_after_its_last_answer() {
    let tables = lifeline(true, true);
    let day = 24 * 3600 * SECOND;
    egress(&tables, &request(NOBODY, BROADCAST, 7), 1);
    ingress(&tables, &answer(SERVER_4, LEASED, 7), 1);
    assert_eq!(
        egress(&tables, &request(LEASED, SERVER_4, 8), 29 * day),
        Pass
    );
    assert_eq!(
        egress(&tables, &request(LEASED, SERVER_4, 9), 31 * day),
        Drop
    );
}

#[test]
fn who_may_answer_can_be_restricted() {
    let tables = lifeline(true, false);
    egress(&tables, &request(NOBODY, BROADCAST, 7), 1);
    assert_eq!(ingress(&tables, &answer(STRANGER, LEASED, 7), 2), Drop);
    assert_eq!(egress(&tables, &request(LEASED, STRANGER, 7), 2), Drop);
    assert_eq!(ingress(&tables, &answer(FRIEND, LEASED, 7), 2), Pass);
}

#[test]
fn a_denied_answer_of_another_client_does_not_silence_the_server() {
    let tables = lifeline(true, true);
    // All three have the same addresses and ports.
    assert_eq!(ingress(&tables, &answer(SERVER_4, BROADCAST, 1), 1), Drop);
    egress(&tables, &request(NOBODY, BROADCAST, 7), 2);
    assert_eq!(ingress(&tables, &answer(SERVER_4, BROADCAST, 7), 3), Pass);
    assert_eq!(ingress(&tables, &answer(SERVER_4, BROADCAST, 2), 4), Drop);
    assert_eq!(tables.packets(Reason::Policy), 2);
    // Once a second, however often.
    assert_eq!(tables.events.borrow().len(), 1);
}

#[test]
fn a_host_that_policy_lets_talk_keeps_no_flows_of_its_client() {
    let tables = tables(World::All);
    egress(&tables, &request(LEASED, SERVER_4, 7), 1);
    assert_eq!(ingress(&tables, &answer(SERVER_4, LEASED, 7), 1), Pass);
    let flows = tables.ipv4.flows.borrow();
    assert!(flows.keys().all(|key| key.kind != flow_kind::PACKETS));
}

#[test]
fn answers_of_dhcpv6_pass_from_a_global_address_and_only_to_their_exchange() {
    let tables = lifeline(false, true);
    let transaction = [1, 2, 3];
    for kind in [1, 3, 4, 5, 6, 8, 9, 11] {
        assert_eq!(egress(&tables, &request6(kind, transaction), 1), Pass);
    }
    for kind in [2, 7] {
        for source in [SERVER_6, FRIEND6] {
            let frame = answer6(source, kind, transaction);
            assert_eq!(ingress(&tables, &frame, 2), Pass);
            assert_eq!(ingress(&tables, &answer6(source, kind, [1, 2, 4]), 2), Drop);
        }
    }
    // Reconfigure, and what servers and relays say to each other.
    for kind in [1, 10, 12, 13] {
        assert_eq!(
            ingress(&tables, &answer6(SERVER_6, kind, transaction), 2),
            Drop
        );
    }
    // From another port than 547: nothing says that servers send from it.
    let frame = datagram6(SERVER_6, LINK_LOCAL, [4711, 546], &[7, 1, 2, 3]);
    assert_eq!(ingress(&tables, &frame, 2), Pass);
}

#[test]
fn a_packet_on_the_wire_has_the_key_of_no_exchange() {
    // The transaction 0x00430044 makes the ports of the entry those of DHCP.
    let tables = lifeline(false, true);
    egress(&tables, &request(NOBODY, BROADCAST, 0x0043_0044), 1);
    let key = |kind| FlowKey {
        remote: Ipv4::UNSPECIFIED,
        local: Ipv4::UNSPECIFIED,
        remote_port: 67,
        local_port: 68,
        protocol: 17,
        kind,
        zeros: 0,
    };
    {
        let flows = tables.ipv4.flows.borrow();
        assert!(flows.contains_key(&key(flow_kind::DHCP_EXCHANGE)));
        assert!(!flows.contains_key(&key(flow_kind::PACKETS)));
    }
    let frame = datagram(NOBODY, NOBODY, [67, 68], b"from nobody to nobody");
    assert_eq!(ingress(&tables, &frame, 2), Drop);
}

proptest! {
    /// Whatever is sent in whatever order: an answer passes if a request of its transaction left no longer
    /// than 64 seconds before.
    #[test]
    fn an_answer_passes_exactly_while_its_exchange_is_open(
        packets in prop::collection::vec((any::<bool>(), 0..4_u32, 0..40_u64, any::<bool>()), 1..40),
    ) {
        let tables = lifeline(true, true);
        let mut open: Vec<(u32, u64)> = Vec::new();
        let mut answered = HashSet::new();
        let mut now = SECOND;
        for (asks, transaction, later, unicast) in packets {
            now += later * SECOND;
            if asks {
                let to = if unicast { SERVER_4 } else { BROADCAST };
                let passes = egress(&tables, &request(LEASED, to, transaction), now) == Pass;
                prop_assert_eq!(passes, !unicast || answered.contains(&SERVER_4));
                if passes {
                    open.retain(|(of, _)| *of != transaction);
                    open.push((transaction, now));
                }
            } else {
                let to = if unicast { LEASED } else { BROADCAST };
                let passes = ingress(&tables, &answer(SERVER_4, to, transaction), now) == Pass;
                let is_open = open
                    .iter()
                    .any(|(of, since)| *of == transaction && now - since <= 64 * SECOND);
                prop_assert_eq!(passes, is_open);
                if passes {
                    answered.insert(SERVER_4);
                }
            }
        }
    }
}
