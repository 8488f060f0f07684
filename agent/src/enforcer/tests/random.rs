//! Random tests that can be repeated, and run for long: `BULKHEAD_SEED` repeats a run, `BULKHEAD_CASES` says
//! how many cases there are to be instead of how long.

use std::{
    env,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// What a seed leads to.
pub struct Random(StdRng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(..bound)
    }
}

/// The seed of a run; said, so that it can be repeated.
pub fn seed() -> u64 {
    let seed = number("BULKHEAD_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("BULKHEAD_SEED={seed}");
    seed
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .expect("BULKHEAD_SEED and BULKHEAD_CASES are numbers"),
    )
}

/// How long a run is.
pub struct Length {
    cases: Option<u64>,
    time: Duration,
    started: Instant,
}

impl Length {
    /// This long, where the number of cases is not given. It starts now.
    pub fn of(time: Duration) -> Self {
        Self {
            cases: number("BULKHEAD_CASES"),
            time,
            started: Instant::now(),
        }
    }

    /// Whether there is more to do than so many cases.
    pub fn goes_on(&self, done: u64) -> bool {
        self.cases
            .map_or(self.elapsed() < self.time, |cases| done < cases)
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
