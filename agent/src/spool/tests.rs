#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{net::Ipv4Addr, sync::Arc};

use policy::{Direction, Origin, Revision, Tier};

use super::*;
use crate::denial::DecidedBy;

const LIMIT: u64 = 64 << 10;

pub fn denial(number: u16) -> Denial {
    Denial {
        time_ns: 1_700_000_000_000_000_000 + u64::from(number),
        direction: Direction::Ingress,
        reason: "policy".into(),
        rule: Some(DecidedBy {
            tier: Tier::Policy,
            origin: Arc::new(Origin {
                rule: "db-ingress/ingress".into(),
                file: "policies/db.yaml".into(),
                line: 7,
            }),
        }),
        revision: Revision(3),
        generation: 5,
        protocol: 6,
        local_address: Some(Ipv4Addr::new(10, 1, 30, 3).into()),
        peer_address: Some(Ipv4Addr::new(10, 1, 10, 3).into()),
        local_port: 5432,
        peer_port: number,
        packets: 1,
        staged: false,
        staged_allows: false,
        lost_before: 0,
        frame: None,
    }
}

fn numbers(batch: &Batch) -> Vec<u16> {
    batch
        .denials
        .iter()
        .map(|denial| denial.peer_port)
        .collect()
}

fn drain(spool: &mut Spool) -> Vec<Batch> {
    std::iter::from_fn(|| spool.take()).collect()
}

fn last_segment(spool: &Spool) -> PathBuf {
    spool.path(*spool.segments.back().unwrap())
}

#[test]
fn batches_come_out_in_order_and_again_until_they_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    assert_eq!(spool.take(), None);
    spool.append(vec![denial(1), denial(2)]);
    spool.append(vec![denial(3)]);
    spool.append(Vec::new());
    let first = spool.take().unwrap();
    assert_eq!(numbers(&first), [1, 2]);
    let second = spool.take().unwrap();
    assert_eq!(
        (numbers(&second), second.sequence),
        (vec![3], first.sequence + 1)
    );
    assert_eq!(spool.take(), None);

    spool.rewind();
    assert_eq!(drain(&mut spool), [first.clone(), second.clone()]);
    spool.keep(first.sequence);
    spool.rewind();
    assert_eq!(drain(&mut spool), std::slice::from_ref(&second));
    spool.append(vec![denial(4)]);
    assert_eq!(
        drain(&mut spool).len(),
        1,
        "a batch that comes later is taken too"
    );
    assert_eq!(spool.lost(), 0);
}

#[test]
fn a_restart_loses_nothing_and_uses_no_sequence_number_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    spool.append(vec![denial(1)]);
    spool.append(vec![denial(2)]);
    let before = drain(&mut spool);
    drop(spool);

    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    assert_eq!(drain(&mut spool), before);
    let newest = spool.newest();
    assert_eq!(newest, before[1].sequence);
    spool.keep(newest);
    spool.settle();
    assert_eq!(spool.bytes(), 0);
    drop(spool);

    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    assert_eq!(drain(&mut spool), []);
    spool.append(vec![denial(3)]);
    assert_eq!(spool.take().unwrap().sequence, newest + 1);
}

#[test]
fn kept_batches_leave_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), 64 << 20).unwrap();
    for number in 0..2_000 {
        spool.append(vec![denial(number); 4]);
        if number % 10 == 9 {
            let newest = spool.newest();
            spool.keep(newest);
        }
    }
    assert!(
        spool.bytes() <= WORN_BYTES + 20_000,
        "{} bytes are left",
        spool.bytes()
    );
    assert_eq!(size(directory.path()).unwrap(), spool.bytes());
    assert_eq!(spool.lost(), 0);
}

#[test]
fn what_does_not_fit_is_dropped_oldest_first_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    let total = 2_000;
    for number in 0..total {
        spool.append(vec![denial(number)]);
        assert!(spool.bytes() <= LIMIT);
    }
    let batches = drain(&mut spool);
    let left: Vec<u16> = batches.iter().flat_map(numbers).collect();
    let dropped = total - u16::try_from(left.len()).unwrap();
    assert!(dropped > 0 && !left.is_empty());
    assert_eq!(left, (dropped..total).collect::<Vec<_>>());
    assert_eq!(spool.lost(), u64::from(dropped));

    // Every loss is also told in some batch that is left, or will be in the next one.
    let told: u64 = batches.iter().map(|batch| batch.lost).sum();
    assert_eq!(told + spool.losses.unreported(), u64::from(dropped));
    drop(spool);
    assert_eq!(
        Spool::open(directory.path(), LIMIT).unwrap().lost(),
        u64::from(dropped)
    );
}

#[test]
fn a_batch_dropped_while_it_is_sent_does_not_stop_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    spool.append(vec![denial(0)]);
    assert_eq!(numbers(&spool.take().unwrap()), [0]);
    for number in 1..2_000 {
        spool.append(vec![denial(number)]);
    }
    let left: Vec<u16> = drain(&mut spool).iter().flat_map(numbers).collect();
    assert_eq!(*left.last().unwrap(), 1_999);
    assert!(left.is_sorted());
}

#[test]
fn a_torn_last_record_is_cut_off_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    spool.append(vec![denial(1)]);
    let whole = spool.bytes();
    spool.append(vec![denial(2), denial(3)]);
    let path = last_segment(&spool);
    let content = fs::read(&path).unwrap();
    drop(spool);
    let losses = fs::read(directory.path().join("losses.json")).ok();

    for length in whole as usize..content.len() - 1 {
        fs::write(&path, &content[..length]).unwrap();
        match &losses {
            Some(losses) => fs::write(directory.path().join("losses.json"), losses).unwrap(),
            None => drop(fs::remove_file(directory.path().join("losses.json"))),
        }
        let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
        let begun = denials_begun(&content[whole as usize..length]);
        assert_eq!(spool.lost(), begun, "cut to {length}");
        spool.append(vec![denial(4)]);
        let batches = drain(&mut spool);
        let left: Vec<u16> = batches.iter().flat_map(numbers).collect();
        assert_eq!(left, [1, 4], "cut to {length}");
        assert_eq!(batches[1].lost, begun);
        assert_eq!(batches[1].sequence, batches[0].sequence + 1);
    }
}

#[test]
fn a_disk_that_takes_no_more_costs_only_the_denials_which_are_counted() {
    // A device that answers every write with ENOSPC stands in for the segment.
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    spool.append(vec![denial(1)]);
    let healthy = spool.writer.take();
    spool.writer = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
    spool.append(vec![denial(2), denial(3)]);
    assert_eq!(spool.lost(), 2);
    spool.writer = healthy;
    spool.append(vec![denial(4)]);
    let batches = drain(&mut spool);
    let left: Vec<u16> = batches.iter().flat_map(numbers).collect();
    assert_eq!(left, [1, 4]);
    assert_eq!(batches[1].lost, 2);
    assert_eq!(batches[1].sequence, batches[0].sequence + 1);
}

#[test]
fn events_that_the_kernel_lost_are_told_once_also_across_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    spool.count_kernel_losses(5, true);
    spool.count_kernel_losses(7, false);
    spool.append(Vec::new());
    assert_eq!(spool.take().unwrap().lost, 7);
    drop(spool);

    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    spool.count_kernel_losses(7, false);
    assert_eq!(spool.lost(), 7, "the maps outlived the agent");
    spool.count_kernel_losses(9, true);
    assert_eq!(spool.lost(), 16, "the maps were made anew");
}

#[test]
fn a_confirmation_of_what_was_never_sent_removes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), LIMIT).unwrap();
    spool.append(vec![denial(1)]);
    spool.keep(u64::MAX);
    assert_eq!(drain(&mut spool).len(), 1);
}
