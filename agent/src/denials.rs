//! The task that brings denials from the kernel to the spool.

use std::{mem, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    denial::Denial, enforcement::Facts, enforcer::DenialReader, error::AgentError,
    spool::shared::SharedSpool,
};

/// How long a denial may wait for others before they are spooled together: people watch them come.
const FLUSH: Duration = Duration::from_millis(200);
/// Most denials in a batch.
const BATCH: usize = 500;

/// Runs until cancelled.
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
