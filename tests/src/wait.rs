//! Waiting for a condition, never for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A bound that only something broken exceeds, on a noisy machine too.
pub const LONG: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is `Some`, and gives it.
///
/// # Errors
/// When the bound passes first, naming what was waited for; or the first error of `ask`.
pub fn wait_for<T>(
    what: &str,
    bound: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(answer) = ask().with_context(|| format!("while waiting for {what}"))? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", bound.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

/// Asks until the answer is yes.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(
    what: &str,
    bound: Duration,
    mut ask: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_for(what, bound, || Ok(ask()?.then_some(())))
}
