//! What a host does with packets, on the in-memory tables.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up shall fail"
)]

use etherparse::{PacketBuilder, TcpHeader};
use proptest::prelude::*;

use super::*;
use crate::{
    headers::tcp_flag::{ACK, FIN, RST, SYN},
    layout::{
        Ipv4, Ipv6, PAGE_KEYS, PortPage, Settings, cell_index, page_index, peer_index, slot_of,
    },
    memory::MemoryTables,
};

const HOST: [u8; 4] = [10, 0, 0, 1];
const FRIEND: [u8; 4] = [10, 0, 0, 2];
const STRANGER: [u8; 4] = [10, 0, 0, 3];
const HOST6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const FRIEND6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

const DENY: u32 = 0;
const ALLOW_HTTPS: u32 = 1;
const ALLOW_EGRESS: u32 = 2;
const STAGED_DENY: u32 = 3;

/// Port classes of the fixture: everything else, ingress tcp/443, all of egress.
const OTHER: u16 = 0;
const HTTPS: u16 = 1;
const EGRESS: u16 = 2;
const STRIDE: u32 = 3;

#[derive(Clone, Copy, PartialEq)]
enum World {
    /// The friend reaches tcp/443; whoever is asked may be reached.
    Https,
    /// Nothing in, everything out.
    NothingIn,
    /// Nothing in, nothing out.
    Nothing,
    /// As `Https`, and the friend would be denied if what is observed were enforced.
    HttpsObserved,
    /// Everything in, nothing out.
    NothingOut,
    /// The friend reaches tcp/443, and nothing goes out.
    HttpsOnly,
    /// Everything in, everything out.
    All,
}

/// Fills the idle slot and flips.
fn publish(tables: &mut MemoryTables, world: World) -> u32 {
    let generation = tables.generation.get() + 1;
    tables.settings[slot_of(generation) as usize] = Some(Settings {
        revision: 1,
        report_interval: SECOND,
        local: 0,
        generation,
        port_classes: STRIDE,
        digest: [0; 32],
    });
    for direction in [Direction::Ingress, Direction::Egress] {
        for slot in 0..crate::layout::SLOTS {
            for page in 0..=255u16 {
                let class = if direction == Direction::Egress {
                    EGRESS
                } else {
                    OTHER
                };
                let mut classes = PortPage([class; PAGE_KEYS]);
                if direction == Direction::Ingress && slot == 0 && page == 1 {
                    classes.0[443 - 256] = HTTPS;
                }
                tables
                    .port_pages
                    .insert(page_index(generation, direction, slot, page << 8), classes);
            }
        }
    }
    tables.ipv4.exact.insert(Ipv4(FRIEND), 1);
    tables.ipv6.subnets = vec![(
        8,
        Ipv6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        1,
    )];
    for peer in [0, 1] {
        tables
            .peer_classes
            .insert(peer_index(generation, peer), peer);
        for class in [OTHER, HTTPS, EGRESS] {
            let https = peer == 1 && class == HTTPS;
            let (rule, allow) = match world {
                World::Https | World::HttpsObserved | World::HttpsOnly if https => {
                    (ALLOW_HTTPS, true)
                }
                World::All => (ALLOW_EGRESS, true),
                World::Https | World::HttpsObserved | World::NothingIn if class == EGRESS => {
                    (ALLOW_EGRESS, true)
                }
                World::NothingOut if class != EGRESS => (ALLOW_HTTPS, true),
                _ => (DENY, false),
            };
            let enforced = Ruling::new(rule, allow);
            let staged = if world == World::HttpsObserved && https {
                Ruling::new(STAGED_DENY, false)
            } else {
                enforced
            };
            let offset = peer * STRIDE + u32::from(class);
            tables.matrix.insert(
                cell_index(generation, offset),
                MatrixCell { enforced, staged },
            );
        }
    }
    tables.generation.set(generation);
    generation
}

fn tables(world: World) -> MemoryTables {
    let mut tables = MemoryTables::default();
    publish(&mut tables, world);
    tables
}

fn tcp(source: ([u8; 4], u16), destination: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut header = TcpHeader::new(source.1, destination.1, 1, 1024);
    (header.syn, header.ack) = (flags & SYN != 0, flags & ACK != 0);
    (header.fin, header.rst) = (flags & FIN != 0, flags & RST != 0);
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(source.0, destination.0, 64)
        .tcp_header(header);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"data").unwrap();
    frame
}

fn udp(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(source.0, destination.0, 64)
        .udp(source.1, destination.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"data").unwrap();
    frame
}

fn ingress(tables: &MemoryTables, frame: &[u8], now: u64) -> Verdict {
    decide(frame, Direction::Ingress, tables, now)
}

fn egress(tables: &MemoryTables, frame: &[u8], now: u64) -> Verdict {
    decide(frame, Direction::Egress, tables, now)
}

const CLIENT: ([u8; 4], u16) = (FRIEND, 40000);
const SERVER: ([u8; 4], u16) = (HOST, 443);

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
fn revoked_means_cut_in_both_directions() {
    let mut tables = tables(World::Https);
    ingress(&tables, &tcp(CLIENT, SERVER, SYN), 1);
    egress(&tables, &tcp(SERVER, CLIENT, SYN | ACK), 2);
    publish(&mut tables, World::Nothing);
    for now in 3..10 {
        assert_eq!(
            egress(&tables, &tcp(SERVER, CLIENT, ACK), now),
            Verdict::Drop
        );
        assert_eq!(
            ingress(&tables, &tcp(CLIENT, SERVER, ACK), now),
            Verdict::Drop
        );
    }
    assert_eq!(tables.packets(Reason::Revoked), 14);
    assert_eq!(tables.events.borrow()[0].reason, Reason::Revoked as u8);
}

#[test]
fn a_revoked_connection_is_not_taken_for_one_from_before_the_agent() {
    // Outward connections are denied, inward ones all allowed: seen alone, a packet of the revoked
    // connection could belong to one that the peer opened.
    let mut tables = tables(World::NothingIn);
    let (local, remote) = ((HOST, 40000), (STRANGER, 5432));
    assert_eq!(egress(&tables, &tcp(local, remote, SYN), 1), Verdict::Pass);
    assert_eq!(
        ingress(&tables, &tcp(remote, local, SYN | ACK), 2),
        Verdict::Pass
    );
    publish(&mut tables, World::NothingOut);
    for packet in 0..600 {
        let now = packet * 10 * SECOND;
        assert_eq!(
            egress(&tables, &tcp(local, remote, ACK), now),
            Verdict::Drop
        );
        assert_eq!(
            ingress(&tables, &tcp(remote, local, ACK), now),
            Verdict::Drop
        );
    }
}

#[test]
fn a_flow_that_the_new_policy_still_allows_lives_on() {
    let mut tables = tables(World::Https);
    ingress(&tables, &tcp(CLIENT, SERVER, SYN), 1);
    for flip in 0..100 {
        publish(&mut tables, World::Https);
        assert_eq!(
            ingress(&tables, &tcp(CLIENT, SERVER, ACK), flip),
            Verdict::Pass
        );
        assert_eq!(
            egress(&tables, &tcp(SERVER, CLIENT, ACK), flip),
            Verdict::Pass
        );
    }
    assert!(tables.events.borrow().is_empty());
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
fn a_connection_from_before_the_agent_goes_on_where_policy_allows_either_end_to_open_it() {
    let tables = tables(World::Https);
    // The server's answer in mid-stream: it is the friend who may have opened this.
    assert_eq!(egress(&tables, &tcp(SERVER, CLIENT, ACK), 1), Verdict::Pass);
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, ACK), 2),
        Verdict::Pass
    );
    let nothing = self::tables(World::Nothing);
    assert_eq!(
        egress(&nothing, &tcp(SERVER, CLIENT, ACK), 1),
        Verdict::Drop
    );
    // Inward from port 5432 to a high port: an answer to what the host may open.
    assert_eq!(
        ingress(&tables, &tcp((STRANGER, 5432), (HOST, 40000), ACK), 3),
        Verdict::Pass
    );
    // A SYN has no such grace, and UDP has none either.
    assert_eq!(
        ingress(&tables, &tcp((STRANGER, 5432), (HOST, 40001), SYN), 4),
        Verdict::Drop
    );
    assert_eq!(
        ingress(&tables, &udp((STRANGER, 53), (HOST, 40000)), 5),
        Verdict::Drop
    );
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

#[test]
fn vlan_tags_and_options_hide_nothing() {
    let tables = tables(World::Https);
    let plain = tcp(CLIENT, SERVER, SYN);
    let tag = [0x81, 0, 0, 7];
    let mut tagged = plain.clone();
    tagged.splice(12..12, tag);
    let mut twice = tagged.clone();
    twice.splice(12..12, [0x88, 0xa8, 0, 8]);
    let mut thrice = twice.clone();
    thrice.splice(12..12, tag);
    assert_eq!(ingress(&tables, &tagged, 1), Verdict::Pass);
    assert_eq!(ingress(&tables, &twice, 1), Verdict::Pass);
    assert_eq!(ingress(&tables, &thrice, 1), Verdict::Drop);
    assert_eq!(tables.packets(Reason::EtherType), 1);
    let mut options = plain;
    options.splice(34..34, [1, 1, 1, 1]);
    options[14] = 0x46;
    options[17] += 4;
    assert_eq!(ingress(&tables, &options, 1), Verdict::Pass);
}

#[test]
fn ipv6_is_judged_as_ipv4_is_also_behind_extension_headers() {
    let tables = tables(World::Https);
    let mut frame = Vec::new();
    let mut header = TcpHeader::new(40000, 443, 1, 1024);
    header.syn = true;
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(FRIEND6, HOST6, 64)
        .tcp_header(header)
        .write(&mut frame, b"data")
        .unwrap();
    assert_eq!(ingress(&tables, &frame, 1), Verdict::Pass);
    let extension = |frame: &[u8], count: usize| {
        let mut extended = frame.to_vec();
        for _ in 0..count {
            let next = extended[20];
            extended[20] = 60;
            extended.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
            let length = u16::from_be_bytes([extended[18], extended[19]]) + 8;
            extended[18..20].copy_from_slice(&length.to_be_bytes());
        }
        extended
    };
    assert_eq!(ingress(&tables, &extension(&frame, 5), 1), Verdict::Pass);
    assert_eq!(ingress(&tables, &extension(&frame, 7), 1), Verdict::Drop);
    assert_eq!(tables.packets(Reason::ExtensionHeaders), 1);
}

#[test]
fn later_fragments_are_dropped_under_their_own_reason() {
    let tables = tables(World::Https);
    let mut later = udp((HOST, 40000), (STRANGER, 53));
    later[20..22].copy_from_slice(&[0x00, 0x10]);
    assert_eq!(egress(&tables, &later, 1), Verdict::Drop);
    assert_eq!(tables.packets(Reason::Fragment), 1);
}

#[test]
fn an_icmp_error_passes_with_the_flow_that_it_is_about_and_with_no_other() {
    let tables = tables(World::NothingIn);
    let sent = udp((HOST, 40000), (STRANGER, 53));
    egress(&tables, &sent, 1);
    let unreachable = |quoted: &[u8]| {
        let mut frame = Vec::new();
        let kind = etherparse::Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::Port,
        );
        // From a router on the way, as it would be for "fragmentation needed".
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 9, 9], HOST, 64)
            .icmpv4(kind.clone())
            .write(&mut frame, &quoted[14..42])
            .unwrap();
        frame
    };
    assert_eq!(ingress(&tables, &unreachable(&sent), 2), Verdict::Pass);
    assert_eq!(tables.packets(Reason::Related), 1);
    let never_sent = udp((HOST, 40000), (STRANGER, 54));
    assert_eq!(
        ingress(&tables, &unreachable(&never_sent), 2),
        Verdict::Drop
    );
    // What it quotes is what the host sent, not what it received.
    let received = udp((STRANGER, 53), (HOST, 40000));
    assert_eq!(ingress(&tables, &unreachable(&received), 2), Verdict::Drop);
}

#[test]
fn echo_requests_and_replies_are_one_flow() {
    let tables = tables(World::NothingIn);
    let echo = |source, destination, reply: bool| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, destination, 64);
        let builder = if reply {
            builder.icmpv4_echo_reply(7, 1)
        } else {
            builder.icmpv4_echo_request(7, 1)
        };
        builder.write(&mut frame, b"data").unwrap();
        frame
    };
    assert_eq!(
        egress(&tables, &echo(HOST, STRANGER, false), 1),
        Verdict::Pass
    );
    assert_eq!(
        ingress(&tables, &echo(STRANGER, HOST, true), 2),
        Verdict::Pass
    );
    assert_eq!(
        ingress(&tables, &echo(FRIEND, HOST, true), 2),
        Verdict::Drop
    );
    assert_eq!(
        ingress(&tables, &echo(FRIEND, HOST, false), 2),
        Verdict::Drop
    );
}

#[test]
fn neighbours_are_found_under_any_policy() {
    let tables = tables(World::Nothing);
    let mut arp = vec![0; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(ingress(&tables, &arp, 1), Verdict::Pass);
    let solicitation = |hop_limit| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6(FRIEND6, HOST6, hop_limit)
            .icmpv6_raw(135, 0, [0; 4])
            .write(&mut frame, &HOST6)
            .unwrap();
        frame
    };
    assert_eq!(ingress(&tables, &solicitation(255), 1), Verdict::Pass);
    // From beyond a router: no neighbour.
    assert_eq!(ingress(&tables, &solicitation(254), 1), Verdict::Drop);
}

/// A connection of which the agent sees the middle first: the accepting end speaks.
fn seen_from_the_middle(world: World) -> MemoryTables {
    let tables = tables(world);
    assert_eq!(egress(&tables, &tcp(SERVER, CLIENT, ACK), 1), Verdict::Pass);
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, ACK), 2),
        Verdict::Pass
    );
    tables
}

#[test]
fn who_speaks_first_after_the_agent_comes_is_not_taken_for_the_opener() {
    // Denied inward: cut, although everything outward is allowed.
    let mut tables = seen_from_the_middle(World::Https);
    publish(&mut tables, World::NothingIn);
    assert_eq!(egress(&tables, &tcp(SERVER, CLIENT, ACK), 3), Verdict::Drop);
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, ACK), 4),
        Verdict::Drop
    );
    // Denied outward, allowed inward: it lives on.
    let mut tables = seen_from_the_middle(World::Https);
    publish(&mut tables, World::NothingOut);
    assert_eq!(egress(&tables, &tcp(SERVER, CLIENT, ACK), 3), Verdict::Pass);
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, ACK), 4),
        Verdict::Pass
    );
}

#[test]
fn where_the_ports_do_not_tell_either_end_may_have_opened_it() {
    let (local, remote) = ((HOST, 50_051), (STRANGER, 40_000));
    let mut tables = tables(World::NothingIn);
    assert_eq!(ingress(&tables, &tcp(remote, local, ACK), 1), Verdict::Pass);
    publish(&mut tables, World::NothingOut);
    assert_eq!(ingress(&tables, &tcp(remote, local, ACK), 2), Verdict::Pass);
    publish(&mut tables, World::Nothing);
    assert_eq!(ingress(&tables, &tcp(remote, local, ACK), 3), Verdict::Drop);
    assert_eq!(egress(&tables, &tcp(local, remote, ACK), 4), Verdict::Drop);
}

#[test]
fn silence_does_not_bring_a_revoked_connection_back() {
    let mut tables = tables(World::NothingIn);
    let (local, remote) = ((HOST, 40_000), (STRANGER, 5432));
    egress(&tables, &tcp(local, remote, SYN), 1);
    ingress(&tables, &tcp(remote, local, SYN | ACK), 2);
    publish(&mut tables, World::NothingOut);
    for hours in [0, 1, 10, 100] {
        let now = hours * 3600 * SECOND + 3;
        assert_eq!(
            egress(&tables, &tcp(local, remote, ACK), now),
            Verdict::Drop
        );
        assert_eq!(
            ingress(&tables, &tcp(remote, local, ACK), now),
            Verdict::Drop
        );
    }
}

#[test]
fn a_revoked_datagram_flow_stays_cut_while_its_opener_keeps_trying() {
    let mut tables = tables(World::NothingIn);
    let (local, remote) = ((HOST, 40_000), (STRANGER, 53));
    assert_eq!(egress(&tables, &udp(local, remote), 1), Verdict::Pass);
    publish(&mut tables, World::NothingOut);
    for seconds in 0..1_000 {
        let now = seconds * SECOND + 2;
        assert_eq!(egress(&tables, &udp(local, remote), now), Verdict::Drop);
        assert_eq!(ingress(&tables, &udp(remote, local), now), Verdict::Drop);
    }
}

#[test]
fn a_syn_from_the_other_end_does_not_make_it_the_opener() {
    let mut tables = tables(World::NothingIn);
    let (local, remote) = ((HOST, 40_000), (FRIEND, 443));
    egress(&tables, &tcp(local, remote, SYN), 1);
    ingress(&tables, &tcp(remote, local, SYN | ACK), 2);
    publish(&mut tables, World::All);
    // Allowed by itself now, it passes; the connection stays the one that this host opened.
    assert_eq!(ingress(&tables, &tcp(remote, local, SYN), 3), Verdict::Pass);
    publish(&mut tables, World::NothingOut);
    assert_eq!(egress(&tables, &tcp(local, remote, ACK), 4), Verdict::Drop);
    assert_eq!(ingress(&tables, &tcp(remote, local, ACK), 5), Verdict::Drop);
}

#[test]
fn an_icmp_error_goes_to_the_end_that_sent_what_it_quotes_and_to_no_other() {
    let tables = tables(World::Https);
    // The friend's connection to this host; the host complains, and tells a stranger.
    let received = tcp(CLIENT, SERVER, SYN);
    assert_eq!(ingress(&tables, &received, 1), Verdict::Pass);
    let kind = etherparse::Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::Port,
    );
    let error = |to| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(HOST, to, 64)
            .icmpv4(kind.clone())
            .write(&mut frame, &received[14..42])
            .unwrap();
        frame
    };
    let mut tables = tables;
    publish(&mut tables, World::HttpsOnly);
    assert_eq!(egress(&tables, &error(FRIEND), 2), Verdict::Pass);
    assert_eq!(egress(&tables, &error(STRANGER), 2), Verdict::Drop);
}

#[test]
fn a_ping_lets_no_ping_back_in() {
    let tables = tables(World::NothingIn);
    let request = |source, destination| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(source, destination, 64)
            .icmpv4_echo_request(77, 1)
            .write(&mut frame, b"data")
            .unwrap();
        frame
    };
    assert_eq!(egress(&tables, &request(HOST, FRIEND), 1), Verdict::Pass);
    assert_eq!(ingress(&tables, &request(FRIEND, HOST), 2), Verdict::Drop);
}

#[test]
fn a_strict_deny_excepts_no_connection_from_before_the_agent() {
    let mut tables = tables(World::NothingIn);
    let packet = tcp((STRANGER, 5432), (HOST, 40_000), ACK);
    for cell in tables.matrix.values_mut() {
        if !cell.enforced.allows() {
            cell.enforced = cell.enforced.strict();
        }
    }
    assert_eq!(ingress(&tables, &packet, 1), Verdict::Drop);
}

#[test]
fn devices_join_their_network_under_any_policy() {
    let tables = tables(World::Nothing);
    let mut lacp = vec![0; 60];
    lacp[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0x02]);
    lacp[12..14].copy_from_slice(&[0x88, 0x09]);
    assert_eq!(ingress(&tables, &lacp, 1), Verdict::Pass);
    lacp[5] = 0x10;
    assert_eq!(ingress(&tables, &lacp, 1), Verdict::Drop);
    assert_eq!(tables.packets(Reason::LinkControl), 1);
}

proptest! {
    #[test]
    fn a_packet_cut_short_never_passes(keep in 0..58usize) {
        let tables = tables(World::Https);
        let frame = tcp(CLIENT, SERVER, SYN);
        prop_assert_eq!(frame.len(), 58);
        prop_assert_eq!(ingress(&tables, &frame[..keep], 1), Verdict::Drop);
    }

    #[test]
    fn no_bytes_pass_where_nothing_is_allowed(mut frame in proptest::collection::vec(any::<u8>(), 0..200), ip in 0..4u8) {
        if frame.len() > 15 {
            match ip {
                0 => frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]),
                1 => frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]),
                2 => frame[12..14].copy_from_slice(&[0x81, 0x00]),
                _ => {}
            }
        }
        let tables = tables(World::Nothing);
        for direction in [Direction::Ingress, Direction::Egress] {
            let verdict = decide(frame.as_slice(), direction, &tables, 1);
            let of_the_link = tables.packets(Reason::Neighbour) + tables.packets(Reason::LinkControl);
            prop_assert_eq!(verdict == Verdict::Pass, of_the_link > 0);
        }
    }

    #[test]
    fn whatever_one_byte_becomes_a_verdict_comes_of_it(position in 0..58usize, value: u8) {
        let tables = tables(World::Https);
        let mut frame = tcp(CLIENT, SERVER, SYN);
        frame[position] = value;
        let verdict = ingress(&tables, &frame, 1);
        let kept = tables.ipv4.flows.borrow().len() + tables.ipv6.flows.borrow().len();
        let of_the_link = tables.packets(Reason::Neighbour) + tables.packets(Reason::LinkControl);
        prop_assert_eq!(verdict == Verdict::Pass, kept == 1 || of_the_link > 0);
    }
}
