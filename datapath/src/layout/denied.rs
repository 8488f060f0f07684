//! What is kept of flows that are denied.

use crate::layout::{Direction, Ruling, Shared};

/// What one flow was denied, so that its repeats are summed, and judged without asking the tables again.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct DeniedFlow {
    /// When it was last reported, nanoseconds of the monotonic clock.
    pub reported: Shared<u64>,
    /// Packets denied since.
    pub packets: Shared<u64>,
    /// By what.
    pub record: Shared<DeniedRecord>,
}

/// By what a packet that would have opened a flow was denied, in one word: generation, direction, whether the
/// staged verdict would have let it pass, ruling.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedRecord(u64);

impl DeniedRecord {
    /// Of no generation: the packet did not open a flow, and the next one may be judged otherwise.
    pub const NONE: Self = Self(0);

    const EGRESS: u64 = 1 << 31;
    const STAGED_ALLOWS: u64 = 1 << 30;

    /// A deny of this generation.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        generation: u32,
        direction: Direction,
        staged_allows: bool,
        ruling: Ruling,
    ) -> Self {
        let direction = match direction {
            Direction::Ingress => 0,
            Direction::Egress => Self::EGRESS,
        };
        let staged = if staged_allows {
            Self::STAGED_ALLOWS
        } else {
            0
        };
        Self((generation as u64) << 32 | direction | staged | ruling.of_deny() as u64)
    }

    /// The deny, and whether the staged verdict would have let the packet pass; if it is of this generation and
    /// for packets of this direction.
    #[inline(always)]
    #[must_use]
    pub const fn ruling(self, generation: u32, direction: Direction) -> Option<(Ruling, bool)> {
        let goes_out = self.0 & Self::EGRESS != 0;
        if (self.0 >> 32) as u32 != generation || goes_out != matches!(direction, Direction::Egress)
        {
            return None;
        }
        let ruling = Ruling(Ruling(self.0 as u32).of_deny());
        Some((ruling, self.0 & Self::STAGED_ALLOWS != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deny_is_read_back_by_its_generation_and_direction_alone() {
        let directions = [Direction::Ingress, Direction::Egress];
        for (direction, other) in directions.into_iter().zip(directions.into_iter().rev()) {
            for staged_allows in [false, true] {
                for ruling in [
                    Ruling::new(0, false),
                    Ruling::new(77, false).strict(),
                    Ruling::NO_ANSWER,
                ] {
                    let record = DeniedRecord::new(9, direction, staged_allows, ruling);
                    let read = record.ruling(9, direction);
                    assert_eq!(read, Some((ruling, staged_allows)));
                    assert_eq!(record.ruling(9, other), None);
                    assert_eq!(record.ruling(8, direction), None);
                }
            }
        }
        assert_eq!(DeniedRecord::NONE.ruling(1, Direction::Ingress), None);
    }
}
