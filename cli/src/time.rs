//! Points in time, as the wire has them and as people read them.

use anyhow::{Context, Result};
use jiff::Timestamp;

/// Seconds since the Unix epoch; 0 is never.
pub fn from_unix(seconds: u64) -> Result<Option<Timestamp>> {
    if seconds == 0 {
        return Ok(None);
    }
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    Ok(Some(time.context("reading a time from the controller")?))
}

/// Nanoseconds since the Unix epoch.
pub fn from_unix_ns(nanoseconds: u64) -> Timestamp {
    // 64 bits of nanoseconds end in the year 2554, long before timestamps do.
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::MAX)
}

/// Nanoseconds since the Unix epoch; 0 for what is earlier.
pub fn to_unix_ns(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or(0)
}

/// This moment, as policy counts time.
pub fn now() -> policy::Timestamp {
    // A clock before 1970 is wrong; nothing has expired by it.
    policy::Timestamp(u64::try_from(Timestamp::now().as_second()).unwrap_or(0))
}

/// How long ago, in its largest unit: `40s`, `5m`, `3h`, `12d`.
pub fn since(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn ages_are_shown_in_their_largest_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ages = [0, 59, 60, 7_200, 200_000]
            .map(|age| since(Timestamp::from_second(1_000_000 - age).unwrap(), now));
        assert_eq!(ages, ["0s", "59s", "1m", "2h", "2d"]);
    }

    #[test]
    fn every_time_on_the_wire_has_a_meaning() {
        assert_eq!(from_unix(0).unwrap(), None);
        assert!(from_unix(u64::MAX).is_err());
        assert_eq!(to_unix_ns(from_unix_ns(u64::MAX)), u64::MAX);
    }
}
