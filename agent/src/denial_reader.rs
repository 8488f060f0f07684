//! From the kernel's ring of events to denials in batches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    denial::Denial,
    kernel::{Events, KernelError},
    rule_book::RuleBook,
};

/// Batches between the reader of events and who takes them; a full one fills the ring, which counts.
const BATCHES: usize = 16;
const BATCH: usize = 512;
/// How long an event may lie in the ring, which wakes nobody before it is half full; and how long the
/// reader may take to notice that it shall stop.
const WAKE_MS: u32 = 50;
/// Between two looks while events come. The ring is read in bulk, away from those who write it.
const PAUSE: Duration = Duration::from_millis(10);

/// Denials as they come, and what tells their reader to stop.
#[derive(Debug)]
pub struct DenialReader {
    batches: mpsc::Receiver<Vec<Denial>>,
    stop: Arc<AtomicBool>,
}

impl DenialReader {
    /// Starts to read a ring, on a thread of its own.
    ///
    /// # Errors
    /// [`KernelError::Io`] when there is no thread to be had.
    pub fn start(mut events: Events, rule_book: RuleBook) -> Result<Self, KernelError> {
        let (sender, batches) = mpsc::channel(BATCHES);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || read_events(&mut events, &rule_book, &sender, &stopped))
            .map_err(|error| KernelError::io("starting the reader of denial events", error))?;
        Ok(Self { batches, stop })
    }

    /// Waits for at least one denial; `None` when the reader has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Denial>> {
        self.batches.recv().await
    }

    /// Takes no more from the kernel. What was taken still comes from [`Self::next`], then `None`.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The next batch, for a test without a runtime.
    #[cfg(test)]
    pub fn blocking_next(&mut self) -> Option<Vec<Denial>> {
        self.batches.blocking_recv()
    }

    /// One that a test feeds, which hears of the stop as the reader of the ring does.
    #[cfg(test)]
    pub fn of(batches: mpsc::Receiver<Vec<Denial>>, stop: Arc<AtomicBool>) -> Self {
        Self { batches, stop }
    }
}

/// Reads until it is told to stop, or nobody listens any more. What it has taken from the ring by then
/// is sent; the rest stays in the ring for the next agent.
fn read_events(
    events: &mut Events,
    rule_book: &RuleBook,
    sender: &mpsc::Sender<Vec<Denial>>,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) && !sender.is_closed() {
        if let Err(error) = events.wait(WAKE_MS) {
            tracing::error!(%error, "denials are not read any more");
            return;
        }
        while !stop.load(Ordering::Relaxed) {
            let batch: Vec<Denial> = std::iter::from_fn(|| events.take())
                .take(BATCH)
                .filter_map(|event| rule_book.resolve(&event))
                .collect();
            if batch.is_empty() {
                break;
            }
            if sender.blocking_send(batch).is_err() {
                return;
            }
        }
        std::thread::sleep(PAUSE);
    }
}
