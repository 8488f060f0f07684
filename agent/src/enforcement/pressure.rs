//! Whether the flow tables have room for the connections that live on the host.
//!
//! A full table gives the room of the flow that was silent longest to a new one. As long as idle flows are
//! among them that costs nobody anything; where all are live, a silent connection is taken up in mid-stream
//! when it speaks again, and what was known of it (who opened it, how much passed) is gone.

use std::time::Duration;

use crate::kernel::Census;

/// How often the flows are counted: each count reads the tables.
pub(super) const COUNT_AGAIN: Duration = Duration::from_secs(60);
/// From here on it is said, in percent.
const TIGHT: u32 = 90;
/// Below this it is taken back.
const ROOMY: u32 = 75;

/// What was said of the tables last.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    is_tight: bool,
}

impl Pressure {
    /// Says when the fuller table becomes tight and when it has room again; how full that one is, in percent.
    pub fn note(&mut self, census: [Census; 2]) -> u32 {
        let [v4, v6] = census;
        let (family, fuller) = if v6.percent() > v4.percent() {
            ("IPv6", v6)
        } else {
            ("IPv4", v4)
        };
        let percent = fuller.percent();
        let Census { live, slots } = fuller;
        if percent >= TIGHT && !self.is_tight {
            self.is_tight = true;
            tracing::warn!(
                family,
                live,
                slots,
                percent,
                "the flow table is nearly full of live connections: those that are silent longest are forgotten first; give it more room with `maps.flows` in the agent's configuration (`bulkhead-agent detach` and a start make new tables)"
            );
        } else if percent < ROOMY && self.is_tight {
            self.is_tight = false;
            tracing::info!(
                family,
                live,
                slots,
                percent,
                "the flow table has room again"
            );
        }
        percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(live: u32) -> [Census; 2] {
        let roomy = Census {
            live: 1,
            slots: 1000,
        };
        [roomy, Census { live, slots: 1000 }]
    }

    #[test]
    fn pressure_is_said_of_the_fuller_table_and_taken_back_well_below() {
        let mut pressure = Pressure::default();
        for (live, percent, is_tight) in [
            (0, 0, false),
            (899, 89, false),
            (900, 90, true),
            (800, 80, true),
            (749, 74, false),
            (899, 89, false),
            (5000, 100, true),
        ] {
            assert_eq!(pressure.note(census(live)), percent);
            assert_eq!(pressure.is_tight, is_tight, "{live} live flows");
        }
    }
}
