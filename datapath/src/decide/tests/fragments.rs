//! Packets in pieces, of both families.

use super::*;

const MORE: u16 = 0x2000;
const FRAGMENT: u8 = 44;
const NO_PORT: ([u8; 4], u16) = (FRIEND, 40001);

/// Which bytes of an IP payload a fragment carries.
#[derive(Clone, Copy)]
struct Piece {
    id: u16,
    from: usize,
    to: usize,
}

/// A fragment of what an unfragmented IPv4 frame carries.
fn piece4(frame: &[u8], Piece { id, from, to }: Piece) -> Vec<u8> {
    let mut piece = frame[..34].to_vec();
    let payload = &frame[34..];
    piece.extend(&payload[from..to]);
    let more = if to < payload.len() { MORE } else { 0 };
    let total = u16::try_from(piece.len() - 14).unwrap();
    piece[16..18].copy_from_slice(&total.to_be_bytes());
    piece[18..20].copy_from_slice(&id.to_be_bytes());
    piece[20..22].copy_from_slice(&(more | u16::try_from(from / 8).unwrap()).to_be_bytes());
    piece
}

/// The same of an IPv6 frame without extension headers.
fn piece6(frame: &[u8], Piece { id, from, to }: Piece) -> Vec<u8> {
    let payload = &frame[54..];
    let more = u16::from(to < payload.len());
    let place = (u16::try_from(from).unwrap() | more).to_be_bytes();
    let [high, low] = id.to_be_bytes();
    // Only the first one's next header counts; a later one's may say anything.
    let next = if from == 0 { frame[20] } else { 59 };
    let mut piece = frame[..54].to_vec();
    piece[20] = FRAGMENT;
    piece.extend([next, 0, place[0], place[1], 0, 0, high, low]);
    piece.extend(&payload[from..to]);
    let length = u16::try_from(piece.len() - 54).unwrap();
    piece[18..20].copy_from_slice(&length.to_be_bytes());
    piece
}

type Cut = fn(&[u8], Piece) -> Vec<u8>;

/// A datagram of 40 bytes with its header, to the host, as a frame of each family, and what cuts it.
fn datagrams(source_port: u16) -> [(Vec<u8>, Cut); 2] {
    let mut v4 = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(FRIEND, HOST, 64)
        .udp(source_port, 443)
        .write(&mut v4, &[7; 32])
        .unwrap();
    let mut v6 = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(FRIEND6, HOST6, 64)
        .udp(source_port, 443)
        .write(&mut v6, &[7; 32])
        .unwrap();
    [(v4, piece4), (v6, piece6)]
}

/// The same with a connection's first segment: 20 bytes of header, 20 of data.
fn segments() -> [(Vec<u8>, Cut); 2] {
    let mut header = TcpHeader::new(40000, 443, 1, 1024);
    header.syn = true;
    let mut v4 = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(FRIEND, HOST, 64)
        .tcp_header(header.clone())
        .write(&mut v4, &[7; 20])
        .unwrap();
    let mut v6 = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(FRIEND6, HOST6, 64)
        .tcp_header(header)
        .write(&mut v6, &[7; 20])
        .unwrap();
    [(v4, piece4), (v6, piece6)]
}

fn first(id: u16, to: usize) -> Piece {
    Piece { id, from: 0, to }
}

fn later(id: u16, from: usize) -> Piece {
    Piece { id, from, to: 40 }
}

#[test]
fn later_ones_follow_the_first() {
    for (frame, cut) in datagrams(40000) {
        let tables = tables(World::All);
        assert_eq!(
            ingress(&tables, &cut(&frame, first(1, 16)), 1),
            Verdict::Pass
        );
        let middle = Piece {
            id: 1,
            from: 16,
            to: 32,
        };
        assert_eq!(ingress(&tables, &cut(&frame, middle), 2), Verdict::Pass);
        assert_eq!(
            ingress(&tables, &cut(&frame, later(1, 32)), 3),
            Verdict::Pass
        );
        // They made one flow, and it is that of the whole datagram.
        assert_eq!(ingress(&tables, &frame, 4), Verdict::Pass);
        let kept = tables.ipv4.flows.borrow().len() + tables.ipv6.flows.borrow().len();
        assert_eq!(kept, 1);
    }
}

#[test]
fn orphans_are_dropped() {
    for (frame, cut) in datagrams(40000) {
        let tables = tables(World::All);
        assert_eq!(
            ingress(&tables, &cut(&frame, later(1, 16)), 1),
            Verdict::Drop
        );
        ingress(&tables, &cut(&frame, first(1, 16)), 1);
        // Another packet's, the other direction's, and one that comes when nobody waits for it.
        assert_eq!(
            ingress(&tables, &cut(&frame, later(2, 16)), 1),
            Verdict::Drop
        );
        assert_eq!(
            egress(&tables, &cut(&frame, later(1, 16)), 1),
            Verdict::Drop
        );
        let late = 61 * SECOND;
        assert_eq!(
            ingress(&tables, &cut(&frame, later(1, 16)), late),
            Verdict::Drop
        );
        assert_eq!(tables.packets(Reason::FragmentOrphan), 4);
    }
}

#[test]
fn a_denied_first_takes_its_later_ones_along_and_no_room() {
    for (frame, cut) in datagrams(40000) {
        let mut tables = tables(World::All);
        ingress(&tables, &cut(&frame, first(1, 16)), 1);
        publish(&mut tables, World::Nothing);
        // Another flow with the same identification.
        let [v4, v6] = datagrams(NO_PORT.1);
        let other = if frame[12] == 0x08 { v4.0 } else { v6.0 };
        assert_eq!(
            ingress(&tables, &cut(&other, first(1, 16)), 2),
            Verdict::Drop
        );
        publish(&mut tables, World::All);
        assert_eq!(
            ingress(&tables, &cut(&other, later(1, 16)), 3),
            Verdict::Drop
        );
        assert_eq!(tables.packets(Reason::FragmentOrphan), 1);
        publish(&mut tables, World::Nothing);
        ingress(&tables, &cut(&other, first(2, 16)), 4);
        let kept = tables.ipv4.fragments.borrow().len() + tables.ipv6.fragments.borrow().len();
        assert_eq!(kept, 1);
    }
}

#[test]
fn a_flip_between_two_fragments_cuts_the_later_one() {
    for (frame, cut) in datagrams(40000) {
        let mut tables = tables(World::All);
        ingress(&tables, &cut(&frame, first(1, 16)), 1);
        let generation = publish(&mut tables, World::Nothing);
        assert_eq!(
            ingress(&tables, &cut(&frame, later(1, 16)), 2),
            Verdict::Drop
        );
        assert_eq!(tables.packets(Reason::Revoked), 1);
        assert_eq!(tables.rule_packets(generation, DENY), 1);
        // It is reported with the ports that it does not carry.
        let event = tables.events.borrow()[0];
        assert_eq!((event.remote_port, event.local_port), (40000, 443));
        publish(&mut tables, World::All);
        assert_eq!(
            ingress(&tables, &cut(&frame, later(1, 16)), 3),
            Verdict::Pass
        );
    }
}

#[test]
fn a_first_one_that_is_too_small_is_dropped() {
    for (frame, cut) in segments() {
        let tables = tables(World::All);
        for to in [8, 16] {
            assert_eq!(
                ingress(&tables, &cut(&frame, first(1, to)), 1),
                Verdict::Drop
            );
        }
        assert_eq!(tables.packets(Reason::FragmentSmall), 2);
        assert_eq!(
            ingress(&tables, &cut(&frame, later(1, 16)), 1),
            Verdict::Drop
        );
        assert_eq!(
            ingress(&tables, &cut(&frame, first(1, 24)), 1),
            Verdict::Pass
        );
    }
    for (frame, cut) in datagrams(40000) {
        // The smallest that carries the ports of a datagram.
        let tables = tables(World::All);
        assert_eq!(
            ingress(&tables, &cut(&frame, first(1, 8)), 1),
            Verdict::Pass
        );
        assert_eq!(
            ingress(&tables, &cut(&frame, later(1, 8)), 1),
            Verdict::Pass
        );
    }
}

#[test]
fn a_chain_of_headers_that_goes_on_in_the_next_fragment_is_too_small() {
    let [_, (mut frame, cut)] = datagrams(40000);
    frame[20] = 60;
    frame.splice(54..54, [17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let tables = tables(World::All);
    for to in [8, 16] {
        assert_eq!(
            ingress(&tables, &cut(&frame, first(1, to)), 1),
            Verdict::Drop
        );
    }
    assert_eq!(tables.packets(Reason::FragmentSmall), 2);
    assert_eq!(
        ingress(&tables, &cut(&frame, first(1, 24)), 1),
        Verdict::Pass
    );
    // What overlaps the options would replace the ports behind them.
    assert_eq!(
        ingress(&tables, &cut(&frame, later(1, 16)), 1),
        Verdict::Drop
    );
    assert_eq!(tables.packets(Reason::FragmentOverlap), 1);
    assert_eq!(
        ingress(&tables, &cut(&frame, later(1, 24)), 1),
        Verdict::Pass
    );
}

#[test]
fn what_overlaps_the_headers_of_the_first_is_dropped() {
    for (frame, cut) in segments() {
        let tables = tables(World::All);
        assert_eq!(
            ingress(&tables, &cut(&frame, first(1, 24)), 1),
            Verdict::Pass
        );
        for from in [8, 16] {
            assert_eq!(
                ingress(&tables, &cut(&frame, later(1, from)), 1),
                Verdict::Drop
            );
        }
        assert_eq!(tables.packets(Reason::FragmentOverlap), 2);
        assert_eq!(
            ingress(&tables, &cut(&frame, later(1, 24)), 1),
            Verdict::Pass
        );
    }
}

#[test]
fn more_than_the_largest_packet_is_malformed() {
    for (frame, cut) in datagrams(40000) {
        let tables = tables(World::All);
        ingress(&tables, &cut(&frame, first(1, 16)), 1);
        let mut beyond = cut(&frame, later(1, 16));
        let at = if frame[12] == 0x08 { 20 } else { 56 };
        let place: u16 = if at == 20 { 0x1fff } else { 0xfff8 };
        beyond[at..at + 2].copy_from_slice(&place.to_be_bytes());
        assert_eq!(ingress(&tables, &beyond, 1), Verdict::Drop);
        assert_eq!(tables.packets(Reason::Malformed), 1);
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet_and_two_fragment_headers_are_none() {
    let [_, (frame, cut)] = datagrams(40000);
    let tables = tables(World::All);
    let whole = Piece {
        id: 1,
        from: 0,
        to: 40,
    };
    let atomic = cut(&frame, whole);
    assert_eq!(ingress(&tables, &atomic, 1), Verdict::Pass);
    assert!(tables.ipv6.fragments.borrow().is_empty());
    assert_eq!(
        ingress(&tables, &cut(&frame, later(1, 16)), 1),
        Verdict::Drop
    );
    let twice = cut(
        &atomic,
        Piece {
            id: 2,
            from: 0,
            to: 48,
        },
    );
    assert_eq!(ingress(&tables, &twice, 1), Verdict::Drop);
    assert_eq!(tables.packets(Reason::Malformed), 1);
}

#[test]
fn neighbour_discovery_in_fragments_is_none() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(FRIEND6, HOST6, 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut frame, &[0; 32])
        .unwrap();
    let tables = tables(World::Nothing);
    assert_eq!(ingress(&tables, &frame, 1), Verdict::Pass);
    for to in [24, 40] {
        let piece = piece6(&frame, first(1, to));
        assert_eq!(ingress(&tables, &piece, 1), Verdict::Drop);
    }
    assert_eq!(tables.packets(Reason::Policy), 2);
}

#[test]
fn protocols_without_ports_follow_too() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(FRIEND, HOST, 64)
        .write(&mut frame, 47.into(), &[7; 40])
        .unwrap();
    let tables = tables(World::All);
    assert_eq!(
        ingress(&tables, &piece4(&frame, first(1, 8)), 1),
        Verdict::Pass
    );
    assert_eq!(
        ingress(&tables, &piece4(&frame, later(1, 8)), 1),
        Verdict::Pass
    );
    // Of another protocol, and so of another packet.
    let mut other = piece4(&frame, later(1, 8));
    other[23] = 50;
    assert_eq!(ingress(&tables, &other, 1), Verdict::Drop);
}

#[test]
fn a_reply_in_fragments_belongs_to_its_flow() {
    let tables = tables(World::NothingIn);
    egress(&tables, &udp((HOST, 443), (FRIEND, 40000)), 1);
    let [(frame, cut), _] = datagrams(40000);
    assert_eq!(
        ingress(&tables, &cut(&frame, first(1, 16)), 2),
        Verdict::Pass
    );
    assert_eq!(
        ingress(&tables, &cut(&frame, later(1, 16)), 2),
        Verdict::Pass
    );
}
