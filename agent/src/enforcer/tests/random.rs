//! Random tests that can be repeated, and run for long: `BULKHEAD_SEED` repeats a run, `BULKHEAD_CASES` says
//! how many cases there are to be instead of how long.

use std::{
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Xorshift (Marsaglia, 2003).
pub struct Random(u64);

impl Random {
    /// From a seed that is not 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

/// The seed of a run; said, so that it can be repeated.
pub fn seed() -> u64 {
    let seed = number("BULKHEAD_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) + 1
    });
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
