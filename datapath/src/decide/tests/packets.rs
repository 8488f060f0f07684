//! Packets: tags, options, extensions, fragments, ICMP, and what never passes.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;

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
    assert_eq!(tables.packets(Reason::VlanTags), 1);
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
fn length_fields_that_lie_are_not_believed() {
    let frame = tcp(CLIENT, SERVER, SYN);
    let datagram = udp(CLIENT, SERVER);
    let header_end = 34;
    for (what, good, at, value) in [
        ("a header of 16 bytes", &frame, 14, 0x44),
        ("a header longer than the packet", &frame, 14, 0x4f),
        ("a version that is none", &frame, 14, 0x65),
        ("more than there is", &frame, 17, 45),
        ("less than the header", &frame, 17, 19),
        ("less than the header above", &frame, 17, 39),
        ("a TCP header of 16 bytes", &frame, header_end + 12, 0x40),
        (
            "a TCP header longer than the packet",
            &frame,
            header_end + 12,
            0x70,
        ),
        ("a datagram of 7 bytes", &datagram, header_end + 5, 7),
        (
            "a datagram longer than the packet",
            &datagram,
            header_end + 5,
            13,
        ),
    ] {
        let tables = tables(World::All);
        assert_eq!(ingress(&tables, good, 1), Verdict::Pass, "{what}");
        let mut lying = good.clone();
        lying[at] = value;
        assert_eq!(ingress(&tables, &lying, 1), Verdict::Drop, "{what}");
        assert_eq!(tables.packets(Reason::Malformed), 1, "{what}");
    }
}

#[test]
fn a_segment_that_no_length_field_can_tell_is_read_to_its_end() {
    // As offloads make them, of more than 64 KiB: the length is 0.
    let mut frame = tcp(CLIENT, SERVER, SYN);
    frame[16..18].copy_from_slice(&[0, 0]);
    let tables = tables(World::Https);
    assert_eq!(ingress(&tables, &frame, 1), Verdict::Drop);
    assert_eq!(tables.packets(Reason::Malformed), 1);
    frame.resize(70_000, 0);
    assert_eq!(ingress(&tables, &frame, 1), Verdict::Pass);
}

#[test]
fn an_extension_header_does_not_reach_behind_its_packet() {
    // Its length goes to 16 bytes behind the end, where a frame may have padding.
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(FRIEND6, HOST6, 64)
        .write(&mut frame, 60.into(), &[47, 2, 1, 4, 0, 0, 0, 0])
        .unwrap();
    frame.extend([0; 16]);
    let tables = tables(World::All);
    assert_eq!(ingress(&tables, &frame, 1), Verdict::Drop);
    assert_eq!(tables.packets(Reason::Malformed), 1);
    frame[19] += 16;
    assert_eq!(ingress(&tables, &frame, 1), Verdict::Pass);
}

#[test]
fn other_ethertypes_pass_by_the_setting_alone() {
    let mut tables = tables(World::All);
    let mut mpls = vec![0; 60];
    mpls[12..14].copy_from_slice(&[0x88, 0x47]);
    assert_eq!(ingress(&tables, &mpls, 1), Verdict::Drop);
    assert_eq!(tables.packets(Reason::EtherType), 1);
    let slot = slot_of(tables.generation.get()) as usize;
    tables.settings[slot].as_mut().unwrap().other_ether_types = other_ether_types::PASS;
    assert_eq!(ingress(&tables, &mpls, 1), Verdict::Pass);
    assert_eq!(egress(&tables, &mpls, 1), Verdict::Pass);
    assert_eq!(tables.packets(Reason::EtherTypePassed), 2);
    // What Linux would look behind is no other EtherType.
    let mut tagged = tcp(CLIENT, SERVER, SYN);
    for _ in 0..3 {
        tagged.splice(12..12, [0x81, 0, 0, 0]);
    }
    assert_eq!(ingress(&tables, &tagged, 1), Verdict::Drop);
    assert_eq!(tables.packets(Reason::VlanTags), 1);
}

#[test]
fn an_authentication_header_is_a_protocol_of_its_own_in_both_families() {
    let mut inside = Vec::new();
    let mut tcp = TcpHeader::new(40000, 443, 1, 1024);
    tcp.syn = true;
    let ah = etherparse::IpAuthHeader::new(6.into(), 1, 1, &[0; 12]).unwrap();
    ah.write(&mut inside).unwrap();
    tcp.write(&mut inside).unwrap();
    let link = || PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut frames = [Vec::new(), Vec::new()];
    link()
        .ipv4(FRIEND, HOST, 64)
        .write(&mut frames[0], 51.into(), &inside)
        .unwrap();
    link()
        .ipv6(FRIEND6, HOST6, 64)
        .write(&mut frames[1], 51.into(), &inside)
        .unwrap();
    for frame in &frames {
        // What it holds is allowed, and decides nothing.
        let mut tables = tables(World::Https);
        assert_eq!(ingress(&tables, frame, 1), Verdict::Drop);
        assert_eq!(tables.packets(Reason::Policy), 1);
        allow_in(&mut tables, 5, 51);
        assert_eq!(ingress(&tables, frame, 2), Verdict::Pass);
    }
}

/// Lets a key of a protocol slot in, from the friends, in the live generation.
fn allow_in(tables: &mut MemoryTables, slot: u32, key: u16) {
    let generation = tables.generation.get();
    let index = page_index(generation, Direction::Ingress, slot, key);
    let page = tables.port_pages.get_mut(&index).unwrap();
    page.0[usize::from(key) % PAGE_KEYS] = HTTPS;
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

#[test]
fn an_icmp_error_goes_to_the_end_that_sent_what_it_quotes_and_to_no_other() {
    let tables = tables(World::Https);
    // The friend's connection to this host; the host complains, and tells a stranger.
    let received = tcp(CLIENT, SERVER, SYN);
    assert_eq!(ingress(&tables, &received, 1), Verdict::Pass);
    assert_eq!(
        egress(&tables, &tcp(SERVER, CLIENT, SYN | ACK), 1),
        Verdict::Pass
    );
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

/// An ICMP message to the host from a friend, of either family.
fn icmp(family: u8, kind: u8, code: u8, rest: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let rest = rest.to_be_bytes();
    if family == 4 {
        let icmp = link.ipv4(FRIEND, HOST, 64).icmpv4_raw(kind, code, rest);
        icmp.write(&mut frame, &[0; 32]).unwrap();
    } else {
        let icmp = link.ipv6(FRIEND6, HOST6, 64).icmpv6_raw(kind, code, rest);
        icmp.write(&mut frame, &[0; 32]).unwrap();
    }
    frame
}

/// The other way round.
fn turned(frame: &[u8]) -> Vec<u8> {
    let mut turned = frame.to_vec();
    if frame[12] == 0x08 {
        turned[26..30].copy_from_slice(&frame[30..34]);
        turned[30..34].copy_from_slice(&frame[26..30]);
    } else {
        turned[22..38].copy_from_slice(&frame[38..54]);
        turned[38..54].copy_from_slice(&frame[22..38]);
    }
    turned
}

/// Slot, echo request and echo reply of a family.
const fn echo_of(family: u8) -> (u32, u8, u8) {
    if family == 4 {
        (3, 8, 0)
    } else {
        (4, 128, 129)
    }
}

#[test]
fn who_may_ping_may_send_no_other_icmp_whatever_the_identifier() {
    for family in [4, 6] {
        let (slot, request, reply) = echo_of(family);
        let mut tables = tables(World::HttpsOnly);
        allow_in(&mut tables, slot, u16::from(request) << 8);
        for identifier in 0..=u16::MAX {
            let [kind, code] = identifier.to_be_bytes();
            tables.ipv4.flows.borrow_mut().clear();
            tables.ipv6.flows.borrow_mut().clear();
            let ping = icmp(family, request, 0, u32::from(identifier) << 16);
            assert_eq!(ingress(&tables, &ping, 1), Verdict::Pass);
            let answer = turned(&icmp(family, reply, 0, u32::from(identifier) << 16));
            assert_eq!(egress(&tables, &answer, 1), Verdict::Pass);
            if [kind, code] == [request, 0] {
                continue;
            }
            let other = icmp(family, kind, code, u32::from(identifier) << 16);
            assert_eq!(ingress(&tables, &other, 2), Verdict::Drop, "{kind}/{code}");
            if kind != reply || code != 0 {
                let other = turned(&other);
                assert_eq!(egress(&tables, &other, 2), Verdict::Drop, "{kind}/{code}");
            }
        }
    }
}

#[test]
fn a_reply_that_nobody_asked_for_lets_no_request_out() {
    for family in [4, 6] {
        let (slot, request, reply) = echo_of(family);
        let mut tables = tables(World::HttpsOnly);
        allow_in(&mut tables, slot, u16::from(reply) << 8);
        assert_eq!(
            ingress(&tables, &icmp(family, reply, 0, 7 << 16), 1),
            Verdict::Pass
        );
        let request = turned(&icmp(family, request, 0, 7 << 16));
        assert_eq!(egress(&tables, &request, 2), Verdict::Drop);
    }
}

proptest! {
    #[test]
    fn an_icmp_message_lets_no_other_type_or_code_in(allowed: [u8; 2], other: [u8; 2], rest: u32, family in prop::sample::select(vec![4u8, 6])) {
        prop_assume!(allowed != other);
        let (slot, request, reply) = echo_of(family);
        let mut tables = tables(World::HttpsOnly);
        allow_in(&mut tables, slot, u16::from_be_bytes(allowed));
        let [kind, code] = allowed;
        let message = icmp(family, kind, code, rest);
        prop_assert_eq!(ingress(&tables, &message, 1), Verdict::Pass);
        let [kind, code] = other;
        let second = icmp(family, kind, code, rest);
        prop_assert_eq!(ingress(&tables, &second, 2), Verdict::Drop);
        if !(allowed == [request, 0] && other == [reply, 0]) {
            prop_assert_eq!(egress(&tables, &turned(&second), 2), Verdict::Drop);
        }
    }

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
