//! What a host does with packets, on the in-memory tables.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up shall fail"
)]

mod attacker;
mod dhcp;
mod flows;
mod fragments;
mod limits;
mod packets;
mod revocation;
mod unparsed;

use etherparse::{PacketBuilder, TcpHeader};

use super::*;
use crate::{
    headers::tcp_flag::{ACK, FIN, RST, SYN},
    layout::{
        EventLimits, Ipv4, Ipv6, MatrixCell, PAGE_KEYS, PortPage, Ruling, Settings, Timeouts,
        cell_index, page_index, peer_index, slot_of,
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

#[derive(Clone, Copy, Debug, PartialEq)]
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
        timeouts: Timeouts::DEFAULT,
        limits: EventLimits::DEFAULT,
        flags: 0,
        other_ether_types: 0,
    });
    // Both slots have the same pages in every world.
    let first = page_index(generation, Direction::Ingress, 0, 0);
    let is_filled = tables.port_pages.contains_key(&first);
    for direction in [Direction::Ingress, Direction::Egress] {
        for slot in 0..if is_filled { 0 } else { crate::layout::SLOTS } {
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
