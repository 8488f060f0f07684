//! Which denials are reported when there are many, and what becomes of the others.

use super::*;
use crate::layout::event_kind;

/// A new flow of a stranger.
fn knock(tables: &MemoryTables, peer: u8, port: u16, now: u64) {
    let source = ([10, 0, 1, peer], port);
    assert_eq!(
        ingress(tables, &tcp(source, SERVER, SYN), now),
        Verdict::Drop
    );
}

fn reported(tables: &MemoryTables, peer: u8) -> usize {
    let events = tables.events.borrow();
    let of_peer = |event: &&crate::layout::Event| event.remote[..4] == [10, 0, 1, peer];
    events.iter().filter(of_peer).count()
}

#[test]
fn a_noisy_peer_does_not_silence_the_others() {
    let tables = tables(World::Nothing);
    // Ten peers scan all ports, and an eleventh knocks once in between.
    for port in 0..2_000 {
        for peer in 0..10 {
            knock(&tables, peer, port, u64::from(port));
        }
        if port % 200 == 199 {
            knock(&tables, 200 + (port / 200) as u8, 1, u64::from(port));
        }
    }
    for peer in 200..210 {
        assert_eq!(reported(&tables, peer), 1, "{peer}");
    }
    let all = tables.events.borrow().len();
    let denied = 20_000 + 10;
    assert!((1_000..=5_001).contains(&all), "{all}");
    let limited = tables.packets(Reason::EventLimited) as usize;
    assert_eq!(all + limited, denied);
    assert_eq!(tables.rule_packets(1, DENY), denied as u64);
}

#[test]
fn a_rate_comes_back_with_time() {
    let tables = tables(World::Nothing);
    for port in 0..2_000 {
        knock(&tables, 1, port, 1);
    }
    // A second's worth and one, at 500 a second.
    assert_eq!(reported(&tables, 1), 501);
    for port in 2_000..4_000 {
        knock(&tables, 1, port, 1 + SECOND / 10);
    }
    assert_eq!(reported(&tables, 1), 551);
}

#[test]
fn what_was_not_reported_is_told_by_the_next_event_of_its_flow() {
    let tables = tables(World::Nothing);
    for port in 0..501 {
        knock(&tables, 1, port, 1);
    }
    for _ in 0..7 {
        knock(&tables, 1, 9_999, 2);
    }
    assert_eq!(reported(&tables, 1), 501);
    knock(&tables, 1, 9_999, 3 * SECOND);
    let events = tables.events.borrow();
    let last = events.last().unwrap();
    assert_eq!((last.remote_port, last.packets, last.lost), (9_999, 8, 1));
}

#[test]
fn an_event_says_how_many_were_lost_before_it() {
    let mut tables = tables(World::Nothing);
    tables.event_room = Some(1);
    for port in 0..4 {
        knock(&tables, 1, port, 1);
    }
    tables.event_room = None;
    knock(&tables, 1, 4, 1);
    knock(&tables, 1, 5, 1);
    let lost: Vec<u32> = tables.events.borrow().iter().map(|it| it.lost).collect();
    assert_eq!(lost, [0, 3, 0]);
    assert_eq!(tables.packets(Reason::EventLost), 3);
}

#[test]
fn a_denial_that_the_staged_verdict_would_not_make_says_so() {
    let mut tables = tables(World::Nothing);
    for cell in tables.matrix.values_mut() {
        cell.staged = Ruling::new(ALLOW_HTTPS, true);
    }
    knock(&tables, 1, 1, 1);
    let events = tables.events.borrow();
    assert_eq!(
        (events[0].kind, events[0].staged_allows),
        (event_kind::DENIED, 1)
    );
}
