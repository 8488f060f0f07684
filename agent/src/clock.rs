//! The time of day, for what ends at a moment.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use policy::Timestamp;
use tracing::warn;

/// Steps back that are not worth a word: what NTP corrects all the time.
const UNREMARKABLE: Duration = Duration::from_secs(1);

/// The wall clock, but it never goes back: what has ended once stays ended for as long as the
/// process runs, whoever sets the clock.
pub struct Clock {
    read: Box<dyn FnMut() -> Duration + Send>,
    latest: Duration,
    /// The wall clock is behind, and that was said.
    behind: bool,
}

impl Clock {
    /// The clock of this host.
    #[must_use]
    pub fn of_host() -> Self {
        Self::new(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        })
    }

    /// A clock that is read by this: the time since the Unix epoch.
    #[must_use]
    pub fn new(read: impl FnMut() -> Duration + Send + 'static) -> Self {
        Self {
            read: Box::new(read),
            latest: Duration::ZERO,
            behind: false,
        }
    }

    /// The time since the Unix epoch: now, or the latest that was ever read.
    pub fn now(&mut self) -> Duration {
        let read = (self.read)();
        let behind = read + UNREMARKABLE < self.latest;
        if behind && !self.behind {
            warn!(
                seconds = (self.latest - read).as_secs(),
                "the clock went back: exceptions are judged by the latest time that it has shown; if that was wrong, correct the clock and restart the agent"
            );
        }
        self.behind = behind;
        self.latest = self.latest.max(read);
        self.latest
    }

    /// The same, in whole seconds.
    pub fn timestamp(&mut self) -> Timestamp {
        Timestamp(self.now().as_secs())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock")
            .field("latest", &self.latest)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_and_never_back() {
        let read = [1_000, 1_500, 900, 1_499, 1_501].map(Duration::from_millis);
        let mut readings = read.into_iter().cycle();
        let mut clock = Clock::new(move || readings.next().unwrap_or_default());
        let shown: Vec<u128> = (0..5).map(|_| clock.now().as_millis()).collect();
        assert_eq!(shown, [1_000, 1_500, 1_500, 1_500, 1_501]);
        assert_eq!(clock.timestamp(), Timestamp(1));
    }
}
