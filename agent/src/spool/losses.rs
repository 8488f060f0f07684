//! The count of events that never reach the controller, across restarts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::state::replace_file;

/// The counts, written through to disk.
#[derive(Debug)]
pub struct Losses {
    path: PathBuf,
    counts: Counts,
    /// What the file holds.
    written: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    /// Since the agent was installed.
    total: u64,
    /// Of them, those that no batch has told the controller of.
    unreported: u64,
    /// The kernel's own count when it was last looked at.
    kernel: u64,
}

impl Losses {
    /// Reads the counts; they begin at 0.
    pub fn load(directory: &Path) -> Self {
        let path = directory.join("losses.json");
        let counts = fs::read(&path)
            .ok()
            .and_then(|content| serde_json::from_slice(&content).ok())
            .unwrap_or_default();
        Self {
            path,
            counts,
            written: counts,
        }
    }

    pub fn total(&self) -> u64 {
        self.counts.total
    }

    pub fn unreported(&self) -> u64 {
        self.counts.unreported
    }

    /// These events are lost.
    pub fn add(&mut self, events: u64) {
        self.counts.total += events;
        self.counts.unreported += events;
        self.write();
    }

    /// A batch tells the controller of these.
    pub fn report(&mut self, events: u64) {
        self.counts.unreported = self.counts.unreported.saturating_sub(events);
        self.write();
    }

    /// Batches with these events are lost, and so is what they told of earlier losses.
    pub fn drop_batches(&mut self, events: u64, untold: u64) {
        self.counts.unreported += untold;
        self.add(events);
    }

    /// The kernel's count, which begins again from 0 when its maps are made anew.
    pub fn observe_kernel(&mut self, events: u64, restarted: bool) {
        if restarted || events < self.counts.kernel {
            self.counts.kernel = 0;
        }
        let new = events - self.counts.kernel;
        self.counts.kernel = events;
        self.add(new);
    }

    /// A disk that is full now gets the counts with the next change.
    fn write(&mut self) {
        if self.counts == self.written {
            return;
        }
        let content = serde_json::to_vec(&self.counts).unwrap_or_default();
        match replace_file(&self.path, &content) {
            Ok(()) => self.written = self.counts,
            Err(error) => {
                warn!(%error, path = %self.path.display(), "lost events are counted in memory only")
            }
        }
    }
}
