//! The time in which a host that was just installed learns its flows.
//!
//! Until its first policy a host enforces that everything is allowed, and its flow tables fill with
//! the connections that live on it. A policy that comes in that time waits for the end of it, so that
//! it finds them there: those that it allows go on, those that it denies are cut. A quarantine does
//! not wait.

use std::time::{Duration, Instant};

use policy::Identity;

use super::handle::Command;

/// What is learned for how long, and what waits for it.
#[derive(Debug)]
pub(super) struct WarmStart {
    until: Instant,
    waiting: Vec<Command>,
}

impl WarmStart {
    /// Begins now; none where nothing is to be learned.
    pub fn begin(duration: Duration) -> Option<Self> {
        (!duration.is_zero()).then(|| Self {
            until: Instant::now() + duration,
            waiting: Vec::new(),
        })
    }

    /// How long it still takes.
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Keeps a command that has to wait; gives the others back.
    pub fn hold(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::Apply { policy, answer }
                if policy.policy().identity != Identity::QUARANTINED =>
            {
                tracing::info!(
                    revision = %policy.policy().revision,
                    seconds = self.left().as_secs_f32(),
                    "the host learns its flows first"
                );
                self.waiting.push(Command::Apply { policy, answer });
                None
            }
            command => Some(command),
        }
    }

    /// What has waited, in the order in which it came.
    pub fn end(self) -> Vec<Command> {
        self.waiting
    }
}
