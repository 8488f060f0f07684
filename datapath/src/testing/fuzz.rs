//! What the fuzz target runs, for any bytes. Here, so that an ordinary test runs the corpus too.

use std::{fs, io, net::IpAddr, path::Path};

use super::{Asked, Expected, Model, frames_of};
use crate::{
    decide::{Verdict, decide},
    headers::{Headers, UNTAGGED, Usual, slot_of_protocol},
    layout::{
        Direction, EventLimits, Ipv4, Ipv6, MatrixCell, PAGE_KEYS, PAGES_PER_SLOT, PortPage,
        Ruling, SLOTS, Settings, Timeouts, WORLD, cell_index, other_ether_types, page_index,
        peer_index,
    },
    memory::MemoryTables,
};

const GENERATION: u32 = 1;
/// The peer that is allowed something: 10.0.0.0/8 and fd00::/8.
const FRIENDS: u32 = 1;

/// Every input of the committed corpus.
///
/// # Errors
/// When it cannot be read.
pub fn corpus() -> io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/decide");
    let inputs: io::Result<Vec<_>> = fs::read_dir(folder)?
        .map(|entry| fs::read(entry?.path()))
        .collect();
    let mut inputs = inputs?;
    inputs.sort();
    Ok(inputs)
}

/// Takes bytes for frames, and judges each both by the verdict and by the model.
///
/// # Panics
/// When they differ.
pub fn frames(bytes: &[u8]) {
    thread_local! {
        static TABLES: MemoryTables = tables();
    }
    let mut model = Model::default();
    TABLES.with(|tables| {
        for (direction, frame) in frames_of(bytes) {
            let Expected { afresh, outcome } = model.expect(direction, frame, allows);
            if afresh {
                forget(tables);
            }
            tables.reason_counters.borrow_mut().clear();
            is_what_is_read::<Ipv4>(frame);
            is_what_is_read::<Ipv6>(frame);
            let verdict = decide(frame, direction, tables, 1);
            let expected = match outcome {
                Ok(_) => Verdict::Pass,
                Err(_) => Verdict::Drop,
            };
            assert_eq!(verdict, expected, "{outcome:?} {direction:?} {frame:02x?}");
            let counted: Vec<_> = tables.reason_counters.borrow().keys().copied().collect();
            let (Ok(reason) | Err(reason)) = outcome;
            let silent = outcome == Ok(crate::Reason::Allowed);
            assert!(
                if silent {
                    counted.is_empty()
                } else {
                    counted == [reason]
                },
                "{counted:?}, not {outcome:?}: {direction:?} {frame:02x?}"
            );
        }
        forget(tables);
    });
}

/// What is usual of a frame, if it is, has to be what is read of it. Whether it is.
fn is_what_is_read<A: Usual + PartialEq + std::fmt::Debug>(frame: &[u8]) -> bool {
    let Some(usual) = A::usual(frame) else {
        return false;
    };
    let mut read = Headers::<A>::UNREAD;
    let outcome = A::read(frame, UNTAGGED, false, &mut read);
    assert_eq!((outcome, &read), (Ok(()), &usual), "{frame:02x?}");
    true
}

/// Empties the tables of flows and fragments.
fn forget(tables: &MemoryTables) {
    tables.ipv4.flows.borrow_mut().clear();
    tables.ipv6.flows.borrow_mut().clear();
    tables.ipv4.fragments.borrow_mut().clear();
    tables.ipv6.fragments.borrow_mut().clear();
    tables.ipv4.denied.borrow_mut().clear();
    tables.ipv6.denied.borrow_mut().clear();
    tables.unparsed.borrow_mut().clear();
    tables.events.borrow_mut().clear();
}

/// Friends may ask for every other service, so that a verdict tells one from its neighbours.
fn allows(asked: Asked) -> bool {
    let friend = match asked.remote {
        IpAddr::V4(address) => address.octets()[0] == 10,
        IpAddr::V6(address) => address.octets()[0] == 0xfd,
    };
    friend
        && class(
            asked.direction,
            slot_of_protocol(asked.protocol),
            asked.service,
        ) == 1
}

fn class(direction: Direction, slot: u32, service: u16) -> u16 {
    let [high, low] = service.to_be_bytes();
    let odd = high ^ low ^ direction.number() ^ (slot == 1) as u8;
    u16::from(odd & 1 == 0)
}

fn tables() -> MemoryTables {
    let mut tables = MemoryTables::default();
    tables.settings[GENERATION as usize] = Some(Settings {
        revision: 1,
        report_interval: 1,
        local: 0,
        generation: GENERATION,
        port_classes: 2,
        other_ether_types: other_ether_types::DROP,
        timeouts: Timeouts::DEFAULT,
        // Its counters would come on top of those that are compared.
        limits: EventLimits::NONE,
        flags: 0,
        digest: [0; 32],
    });
    for direction in [Direction::Ingress, Direction::Egress] {
        for slot in 0..SLOTS {
            for page in 0..PAGES_PER_SLOT as u16 {
                let first = page << 8;
                let keys: [u16; PAGE_KEYS] =
                    std::array::from_fn(|key| class(direction, slot, first | key as u16));
                let index = page_index(GENERATION, direction, slot, first);
                tables.port_pages.insert(index, PortPage(keys));
            }
        }
    }
    for peer in [WORLD, FRIENDS] {
        tables
            .peer_classes
            .insert(peer_index(GENERATION, peer), peer);
        for class in [0, 1] {
            let ruling = Ruling::new(0, peer == FRIENDS && class == 1);
            let cell = MatrixCell {
                enforced: ruling,
                staged: ruling,
            };
            tables
                .matrix
                .insert(cell_index(GENERATION, peer * 2 + class), cell);
        }
    }
    tables.ipv4.subnets = vec![(8, Ipv4([10, 0, 0, 0]), FRIENDS)];
    let mut network = [0; 16];
    network[0] = 0xfd;
    tables.ipv6.subnets = vec![(8, Ipv6(network), FRIENDS)];
    tables.generation.set(GENERATION);
    tables
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test that cannot be set up shall fail"
    )]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn on_every_frame_of_the_corpus_the_verdict_and_the_model_agree() {
        let inputs = corpus().unwrap();
        assert!(inputs.len() > 20, "{} inputs", inputs.len());
        for input in &inputs {
            frames(input);
        }
        let all: Vec<_> = inputs.iter().flat_map(|input| frames_of(input)).collect();
        let v4 = all
            .iter()
            .filter(|(_, frame)| is_what_is_read::<Ipv4>(frame));
        let v6 = all
            .iter()
            .filter(|(_, frame)| is_what_is_read::<Ipv6>(frame));
        let (v4, v6) = (v4.count(), v6.count());
        assert!(v4 > 5 && v6 > 5, "{v4} and {v6} usual frames");
    }

    proptest! {
        #[test]
        fn and_so_they_do_when_bytes_of_it_are_others(which: prop::sample::Index, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let inputs = corpus().unwrap();
            let mut input = inputs[which.index(inputs.len())].clone();
            for (at, value) in changes {
                let at = at.index(input.len());
                input[at] = value;
            }
            frames(&input);
        }
    }
}
