//! The task that brings denials from the kernel to the spool.

use std::{mem, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    denial::Denial, denial_reader::DenialReader, enforcement::Facts, error::AgentError,
    spool::shared::SharedSpool,
};

/// How long a denial may wait for others before they are spooled together: people watch them come.
const FLUSH: Duration = Duration::from_millis(200);
/// Most denials in a batch.
const BATCH: usize = 500;

/// Runs until cancelled, and then until all that was taken from the kernel is spooled.
///
/// # Errors
/// When the kernel's events cannot be read any more.
pub async fn run(
    mut reader: DenialReader,
    spool: SharedSpool,
    mut facts: watch::Receiver<Facts>,
    cancel: CancellationToken,
) -> Result<(), AgentError> {
    let mut waiting: Vec<Denial> = Vec::new();
    let mut flush = interval(FLUSH);
    flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outcome = loop {
        tokio::select! {
            () = cancel.cancelled() => break Ok(()),
            denials = reader.next() => match denials {
                Some(denials) => waiting.extend(denials),
                None => break Err(AgentError::TaskEnded("events")),
            },
            _ = flush.tick(), if !waiting.is_empty() => append(&spool, mem::take(&mut waiting)),
            Ok(()) = facts.changed() => {
                let events = facts.borrow_and_update().events_lost;
                spool.with(|spool| {
                    spool.count_kernel_losses(events, false);
                    // Losses alone make a batch too: the controller hears of them.
                    spool.append(Vec::new());
                });
            }
        }
        // The reader may bring a lot at once; it waits while this is written.
        if waiting.len() >= BATCH {
            append(&spool, mem::take(&mut waiting));
        }
    };
    // What the reader has taken from the kernel is nowhere else; the rest waits there.
    reader.stop();
    while let Some(denials) = reader.next().await {
        waiting.extend(denials);
        if waiting.len() >= BATCH {
            append(&spool, mem::take(&mut waiting));
        }
    }
    append(&spool, waiting);
    outcome
}

fn append(spool: &SharedSpool, mut denials: Vec<Denial>) {
    spool.with(|spool| {
        while denials.len() > BATCH {
            let rest = denials.split_off(BATCH);
            spool.append(mem::replace(&mut denials, rest));
        }
        spool.append(denials);
    });
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use tokio::{sync::mpsc, time::timeout};

    use super::*;
    use crate::{
        spool::{Spool, tests::denial},
        testing::LONG,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stop_under_load_loses_no_denial_that_was_taken_from_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), 64 << 20).unwrap();
        let spool = SharedSpool::new(spool);
        let (_facts, facts) = watch::channel(Facts::default());
        let (sender, receiver) = mpsc::channel(16);
        let stop = Arc::new(AtomicBool::new(false));
        let reader = DenialReader::of(receiver, Arc::clone(&stop));
        // As the reader of the ring: sends without a pause, and looks between batches.
        let feeder = std::thread::spawn(move || {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                sender.blocking_send(vec![denial(1); 64]).unwrap();
                sent += 64;
            }
            sent
        });
        let cancel = CancellationToken::new();
        let mut newest = spool.watch();
        let task = tokio::spawn(run(reader, spool.clone(), facts, cancel.clone()));
        timeout(LONG, newest.changed()).await.unwrap().unwrap();
        cancel.cancel();
        timeout(LONG, task).await.unwrap().unwrap().unwrap();
        let sent = feeder.join().unwrap();
        let spooled = spool.with(|spool| {
            assert_eq!(spool.lost(), 0);
            std::iter::from_fn(|| spool.take())
                .map(|batch| batch.denials.len())
                .sum::<usize>()
        });
        assert_eq!(spooled, sent);
    }
}
