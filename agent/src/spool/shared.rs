//! One spool for the task that fills it and the one that empties it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{sync::watch, task::block_in_place};

use super::Spool;

/// A spool between tasks. Clones are the same spool.
#[derive(Clone, Debug)]
pub struct SharedSpool {
    spool: Arc<Mutex<Spool>>,
    newest: watch::Sender<u64>,
}

impl SharedSpool {
    /// Shares a spool.
    #[must_use]
    pub fn new(spool: Spool) -> Self {
        let newest = watch::Sender::new(spool.newest());
        Self {
            spool: Arc::new(Mutex::new(spool)),
            newest,
        }
    }

    /// Works on the spool. The thread may wait for the disk meanwhile: the other tasks of its
    /// worker are handed over, which needs the runtime with several threads.
    pub fn with<T>(&self, work: impl FnOnce(&mut Spool) -> T) -> T {
        let (result, newest) = block_in_place(|| {
            let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
            let result = work(&mut spool);
            (result, spool.newest())
        });
        self.newest.send_if_modified(|known| {
            let modified = *known != newest;
            *known = newest;
            modified
        });
        result
    }

    /// Changes whenever a batch is appended.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}
