//! What is reported of packets that no rule can judge.

use super::*;
use crate::layout::{UnparsedKey, event_kind};

fn frame(source: [u8; 6], ether_type: u16) -> Vec<u8> {
    let mut frame = vec![4; 6];
    frame.extend(source);
    frame.extend(ether_type.to_be_bytes());
    frame.extend([0; 46]);
    frame
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[test]
fn frames_of_one_kind_are_one_event_a_second_with_what_was_seen() {
    let tables = tables(World::Https);
    for _ in 0..5 {
        assert_eq!(ingress(&tables, &frame(MAC, 0x8847), 1), Verdict::Drop);
    }
    assert_eq!(egress(&tables, &frame(MAC, 0x8847), 1), Verdict::Drop);
    ingress(&tables, &frame(MAC, 0x8847), 2 * SECOND);
    let events = tables.events.borrow();
    let seen = events.iter().map(|event| {
        assert_eq!((event.kind, event.family), (event_kind::UNPARSED, 0));
        assert_eq!(event.reason, Reason::EtherType as u8);
        assert_eq!(event.ether_type, 0x8847);
        (event.direction, event.mac, event.packets)
    });
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [(0, MAC, 1), (1, [4; 6], 1), (0, MAC, 5)]
    );
}

#[test]
fn what_can_be_read_of_a_malformed_packet_is_told() {
    let tables = tables(World::Https);
    let mut frame = udp(CLIENT, SERVER);
    // Its length field says that it is longer.
    frame[16..18].copy_from_slice(&9_000_u16.to_be_bytes());
    assert_eq!(ingress(&tables, &frame, 1), Verdict::Drop);
    let events = tables.events.borrow();
    let event = &events[0];
    assert_eq!(event.reason, Reason::Malformed as u8);
    assert_eq!((event.family, event.protocol), (4, 17));
    assert_eq!(
        (&event.remote[..4], &event.local[..4]),
        (&FRIEND[..], &HOST[..])
    );
}

#[test]
fn a_flood_has_rates_of_its_own() {
    let tables = tables(World::Nothing);
    for number in 0..10_000_u16 {
        let [a, b] = number.to_be_bytes();
        ingress(&tables, &frame([2, 0, 0, 0, a, b], 0x3000), 1);
    }
    let told = tables.events.borrow().len();
    // A fiftieth of all events, and one.
    assert!((50..=101).contains(&told), "{told}");
    assert_eq!(tables.packets(Reason::EtherType), 10_000);
    assert_eq!(tables.packets(Reason::EventLimited), 10_000 - told as u64);
    // A malformed packet and a denied flow are told all the same.
    let mut malformed = udp(CLIENT, SERVER);
    malformed[16..18].copy_from_slice(&9_000_u16.to_be_bytes());
    ingress(&tables, &malformed, 1);
    ingress(&tables, &udp(CLIENT, SERVER), 1);
    assert_eq!(tables.events.borrow().len(), told + 2);
    let key = UnparsedKey {
        mac: MAC,
        ether_type: 0x8847,
        interface: 0,
        reason: Reason::EtherType as u8,
        direction: 0,
        protocol: 0,
        zero: 0,
    };
    assert!(!tables.unparsed.borrow().contains_key(&key));
}
