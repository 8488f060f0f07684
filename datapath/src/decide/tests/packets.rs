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
fn the_upper_layer_is_found_behind_an_authentication_header() {
    let tables = tables(World::Https);
    let mut frame = Vec::new();
    let mut tcp = TcpHeader::new(40000, 443, 1, 1024);
    tcp.syn = true;
    let ah = etherparse::IpAuthHeader::new(6.into(), 1, 1, &[0; 12]).unwrap();
    ah.write(&mut frame).unwrap();
    tcp.write(&mut frame).unwrap();
    let mut whole = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(FRIEND6, HOST6, 64)
        .write(&mut whole, 51.into(), &frame)
        .unwrap();
    assert_eq!(ingress(&tables, &whole, 1), Verdict::Pass);
    let mut other_port = whole;
    let port = other_port.len() - 17;
    other_port[port] = 0;
    assert_eq!(ingress(&tables, &other_port, 1), Verdict::Drop);
    assert_eq!(tables.packets(Reason::Policy), 1);
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
