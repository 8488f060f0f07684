//! Denial events, as the kernel programs report them.

use std::{os::fd::AsFd as _, path::Path};

use aya::maps::{MapData, RingBuf};
use datapath::layout::Event;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::kernel::{KernelError, maps};

/// The reading end of the ring buffer.
pub struct Events(RingBuf<MapData>);

impl Events {
    /// Opens the pinned ring; what was reported while no agent ran is still in it.
    ///
    /// # Errors
    /// [`KernelError::Bpf`].
    pub fn open(pin_dir: &Path) -> Result<Self, KernelError> {
        maps::open_map(pin_dir, "EVENTS").map(Self)
    }

    /// Waits until there is an event, or for `timeout_ms` milliseconds.
    ///
    /// # Errors
    /// [`KernelError::Io`].
    pub fn wait(&self, timeout_ms: u32) -> Result<(), KernelError> {
        let timeout = Timespec {
            tv_sec: i64::from(timeout_ms / 1000),
            tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000,
        };
        let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(KernelError::io("waiting for denial events", error.into())),
        }
    }

    /// Takes all that is in the ring, of whatever layout: how many events there were.
    pub fn count(&mut self) -> u64 {
        let mut events = 0;
        while self.0.next().is_some() {
            events += 1;
        }
        events
    }

    /// Takes the oldest event; one of another size is of another version, and is left out.
    pub fn take(&mut self) -> Option<Event> {
        loop {
            let item = self.0.next()?;
            if item.len() == size_of::<Event>() {
                return Some(maps::read_layout(&item));
            }
        }
    }
}
