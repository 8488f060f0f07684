//! Denials that wait for a controller: batches in segment files, bounded, oldest dropped first.
//!
//! A segment is a file of JSON lines, one batch each, named for the sequence number of its first
//! batch. The last one is written to; one whose batches the controller has all kept is removed, the
//! last one only in exchange for an empty one, so that the numbers go on after a restart.
//!
//! Writes are not forced to disk: they survive the end of the process, not a power failure. What
//! that tears off is found and counted on the next start.

mod losses;
mod segment;
pub mod shared;

#[cfg(test)]
pub mod tests;

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

pub use self::segment::size;
use self::{
    losses::Losses,
    segment::{Segment, denials_begun, list, read_line},
};
use crate::{
    denial::Denial,
    state::{StateError, make_private_dir},
};

/// A last segment whose batches are all kept is exchanged for an empty one from this size on: a
/// restart sends no more than this again.
const WORN_BYTES: u64 = 64 << 10;
/// The largest segment, in bytes; a sixteenth of the whole spool if that is less.
const SEGMENT_BYTES: u64 = 4 << 20;

/// What goes to the controller in one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Grows by one with each batch of this host, also across restarts.
    pub sequence: u64,
    /// Events lost since the batch before.
    pub lost: u64,
    /// In the order in which they happened.
    pub denials: Vec<Denial>,
}

/// The spool in its directory. Every call may wait for the disk.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    /// In bytes.
    limit: u64,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// Writes to the last segment; none until the first batch, and after a write that failed.
    writer: Option<File>,
    /// What is sent next.
    cursor: Cursor,
    next_sequence: u64,
    /// The controller has confirmed this one and all before it.
    kept: u64,
    losses: Losses,
    /// The last append failed; the log said so.
    failing: bool,
}

/// A place in a segment; places of segments that are gone mean the next segment's begin.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    segment: u64,
    offset: u64,
}

impl Spool {
    /// Takes up what an earlier process left in the directory.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: &Path, limit: u64) -> Result<Self, StateError> {
        make_private_dir(directory)?;
        let segments = list(directory).map_err(|source| StateError::Io {
            action: "read the directory",
            path: directory.to_owned(),
            source,
        })?;
        let mut spool = Self {
            directory: directory.to_owned(),
            limit,
            segments,
            writer: None,
            cursor: Cursor::default(),
            // A host that has lost its state must not use a number again that the controller has
            // seen. Microseconds outrun batches by far.
            next_sequence: unix_micros(),
            kept: 0,
            losses: Losses::load(directory),
            failing: false,
        };
        spool.mend();
        Ok(spool)
    }

    /// Puts denials at the end, with what was lost before them. Never fails: what cannot be
    /// written is counted as lost. Without denials and losses it does nothing.
    pub fn append(&mut self, denials: Vec<Denial>) {
        let lost = self.losses.unreported();
        if denials.is_empty() && lost == 0 {
            return;
        }
        let count = denials.len() as u64;
        let batch = Batch {
            sequence: self.next_sequence,
            lost,
            denials,
        };
        match self.write(&batch) {
            Ok(()) => {
                self.next_sequence += 1;
                self.losses.report(lost);
                if self.failing {
                    warn!("denials can be spooled again");
                }
                self.failing = false;
            }
            Err(error) => {
                self.losses.add(count);
                if !self.failing {
                    error!(%error, directory = %self.directory.display(), "denials cannot be spooled and are lost until they can; free space on the disk");
                }
                self.failing = true;
            }
        }
    }

    /// The next batch that was not taken since the last [`Spool::rewind`].
    pub fn take(&mut self) -> Option<Batch> {
        loop {
            let index = self
                .segments
                .partition_point(|segment| segment.first < self.cursor.segment);
            let segment = *self.segments.get(index)?;
            if segment.first != self.cursor.segment {
                self.cursor = Cursor {
                    segment: segment.first,
                    offset: 0,
                };
            }
            if self.cursor.offset >= segment.bytes {
                // The last one may still grow.
                if index + 1 == self.segments.len() {
                    return None;
                }
                self.cursor = Cursor {
                    segment: segment.first + 1,
                    offset: 0,
                };
                continue;
            }
            let line = match read_line(&self.path(segment), self.cursor.offset, segment.bytes) {
                Ok(line) => line,
                Err(error) => {
                    error!(%error, path = %self.path(segment).display(), "spooled denials cannot be read");
                    self.cursor.offset = segment.bytes;
                    continue;
                }
            };
            self.cursor.offset += line.len() as u64;
            match serde_json::from_slice::<Batch>(&line) {
                Ok(batch) if batch.sequence > self.kept => return Some(batch),
                Ok(_) => {}
                Err(_) => self.losses.add(denials_begun(&line)),
            }
        }
    }

    /// Sends everything again that the controller has not confirmed.
    pub fn rewind(&mut self) {
        self.cursor = Cursor::default();
    }

    /// The controller has kept the batch with this sequence number and all before it.
    pub fn keep(&mut self, sequence: u64) {
        // A number that was never given out confirms nothing.
        if sequence >= self.next_sequence {
            warn!(
                sequence,
                "the controller confirmed denials that were not sent"
            );
            return;
        }
        self.kept = self.kept.max(sequence);
        while self
            .segments
            .get(1)
            .is_some_and(|next| next.first <= self.kept + 1)
        {
            self.remove_oldest();
        }
        if self
            .segments
            .front()
            .is_some_and(|last| last.bytes >= WORN_BYTES)
        {
            self.settle();
        }
    }

    /// Removes what is kept, so that the next start does not send it again.
    pub fn settle(&mut self) {
        let all_kept = self.kept + 1 == self.next_sequence;
        if all_kept
            && self.segments.len() == 1
            && self.segments.front().is_some_and(|last| last.bytes > 0)
            && self.begin_segment().is_ok()
        {
            self.remove_oldest();
        }
    }

    /// The kernel's count of events that it lost; `restarted` when it began again from 0.
    pub fn count_kernel_losses(&mut self, events: u64, restarted: bool) {
        self.losses.observe_kernel(events, restarted);
    }

    /// Events lost since the agent was installed.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.losses.total()
    }

    /// Bytes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The sequence number of the newest batch; one less than the first one's before there is any.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.next_sequence - 1
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut line = serde_json::to_vec(batch)?;
        line.push(b'\n');
        let length = line.len() as u64;
        while self.bytes() + length > self.limit && self.bytes() > 0 {
            if self.segments.len() == 1 {
                self.begin_segment()?;
            }
            self.drop_oldest();
        }
        let segment_limit = SEGMENT_BYTES.min(self.limit / 16);
        let full = |last: &Segment| last.bytes > 0 && last.bytes + length > segment_limit;
        if self.writer.is_none() || self.segments.back().is_some_and(full) {
            self.begin_segment()?;
        }
        let (Some(writer), Some(last)) = (self.writer.as_mut(), self.segments.back_mut()) else {
            return Err(io::Error::other("the spool has no segment"));
        };
        match writer.write_all(&line) {
            Ok(()) => {
                last.bytes += length;
                Ok(())
            }
            Err(error) => {
                // Half a line must not be followed by another one.
                if writer.set_len(last.bytes).is_err() {
                    self.writer = None;
                }
                Err(error)
            }
        }
    }

    /// Opens the segment that the next batch is the first of.
    fn begin_segment(&mut self) -> io::Result<()> {
        let segment = Segment {
            first: self.next_sequence,
            bytes: 0,
        };
        let path = self.path(segment);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        file.set_len(0)?;
        // After a write that failed, an empty segment may have this very name.
        if self
            .segments
            .back()
            .is_none_or(|last| last.first != segment.first)
        {
            self.segments.push_back(segment);
        }
        self.writer = Some(file);
        Ok(())
    }

    /// Makes room: what the controller has not confirmed is lost.
    fn drop_oldest(&mut self) {
        let Some(&oldest) = self.segments.front() else {
            return;
        };
        match fs::read(self.path(oldest)) {
            Ok(content) => {
                let (mut dropped, mut untold) = (0, 0);
                for line in content.split_inclusive(|&byte| byte == b'\n') {
                    match serde_json::from_slice::<Batch>(line) {
                        Ok(batch) if batch.sequence > self.kept => {
                            dropped += batch.denials.len() as u64;
                            untold += batch.lost;
                        }
                        Ok(_) => {}
                        Err(_) => dropped += denials_begun(line),
                    }
                }
                self.losses.drop_batches(dropped, untold);
            }
            Err(error) => {
                error!(%error, path = %self.path(oldest).display(), "dropped denials cannot be counted");
            }
        }
        self.remove_oldest();
    }

    fn remove_oldest(&mut self) {
        let Some(oldest) = self.segments.pop_front() else {
            return;
        };
        let path = self.path(oldest);
        if let Err(error) = fs::remove_file(&path) {
            warn!(%error, path = %path.display(), "a spool segment cannot be removed");
        }
    }

    /// Cuts a torn line off the last segment, and finds the next sequence number in it.
    fn mend(&mut self) {
        let Some(last) = self.segments.back().copied() else {
            return;
        };
        let path = self.path(last);
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) => {
                warn!(%error, path = %path.display(), "a spool segment cannot be read");
                return;
            }
        };
        let mut whole = 0;
        self.next_sequence = last.first;
        for line in content.split_inclusive(|&byte| byte == b'\n') {
            let Ok(batch) = serde_json::from_slice::<Batch>(line) else {
                break;
            };
            self.next_sequence = batch.sequence + 1;
            whole += line.len();
        }
        self.losses.add(denials_begun(&content[whole..]));
        let open = OpenOptions::new().append(true).open(&path);
        match open.and_then(|file| file.set_len(whole as u64).map(|()| file)) {
            Ok(file) => {
                self.writer = Some(file);
                if let Some(last) = self.segments.back_mut() {
                    last.bytes = whole as u64;
                }
            }
            Err(error) => {
                warn!(%error, path = %path.display(), "a spool segment cannot be mended");
            }
        }
    }

    fn path(&self, segment: Segment) -> PathBuf {
        segment.path(&self.directory)
    }
}

fn unix_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros())
        .unwrap_or(u64::MAX / 2)
        .max(1)
}
