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
