//! What was decided about a packet, small enough for one register.

use crate::{
    layout::{MatrixCell, Ruling},
    reason::Reason,
};

/// Why a packet passes, or why it is dropped.
pub(super) type Outcome = Result<Reason, Reason>;

/// What was decided about a packet of some flow, and by which rule.
///
/// Eight bytes, all of them set: what a function returns in one register. The verifier refuses a return
/// by pointer, and the copy of an enum's payload that is not there.
pub(super) struct Decision {
    pub outcome: Outcome,
    pub note: Note,
    /// Zero.
    #[expect(dead_code, reason = "all bytes of what stands in a register are set")]
    pub padding: u8,
    pub ruling: Ruling,
}

const _: () = assert!(size_of::<Decision>() == 8);

/// What user space is to hear of a decision.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    Nothing,
    /// Counted by rule, and reported once an interval.
    Denied,
    /// The same, and the staged verdict would have let it pass.
    DeniedAlone,
    /// It passes, and the staged verdict would have dropped it.
    Staged,
    /// It passes by a rule with `log: true`.
    Logged,
}

impl Decision {
    /// It passes, and nobody needs to hear of it. Where the flow table does not have its flow, this is none yet.
    #[inline(always)]
    pub const fn quiet() -> Self {
        Self {
            outcome: Ok(Reason::Allowed),
            note: Note::Nothing,
            padding: 0,
            ruling: Ruling::new(0, true),
        }
    }

    /// It is dropped, by a rule or because the tables have no answer.
    #[inline(always)]
    pub fn denied(cell: MatrixCell, reason: Reason) -> Self {
        Self::denied_as(cell.enforced, cell.staged.allows(), reason)
    }

    /// As [`denied`](Self::denied), of a ruling.
    #[inline(always)]
    pub fn denied_as(ruling: Ruling, staged_allows: bool, reason: Reason) -> Self {
        let (reason, note) = match ruling {
            Ruling::NO_ANSWER => (Reason::Tables, Note::Nothing),
            _ if staged_allows => (reason, Note::DeniedAlone),
            _ => (reason, Note::Denied),
        };
        Self {
            outcome: Err(reason),
            note,
            padding: 0,
            ruling,
        }
    }

    /// It is dropped, by no rule.
    #[inline(always)]
    pub const fn dropped(reason: Reason) -> Self {
        Self {
            outcome: Err(reason),
            note: Note::Nothing,
            padding: 0,
            ruling: Ruling::NO_ANSWER,
        }
    }

    /// It passes; `opens` when it is the first packet of its flow.
    #[inline(always)]
    pub const fn allowed(cell: MatrixCell, opens: bool, reason: Reason) -> Self {
        let (ruling, note) = if !cell.staged.allows() {
            (cell.staged, Note::Staged)
        } else if opens && cell.enforced.logs() {
            (cell.enforced, Note::Logged)
        } else {
            (cell.enforced, Note::Nothing)
        };
        Self {
            outcome: Ok(reason),
            note,
            padding: 0,
            ruling,
        }
    }
}

/// What the flow table knows of a packet.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its flow, and so the decision.
    Flow,
    /// Nothing.
    Nothing,
    /// A connection on its ports that goes on, and which it is not of.
    Another,
    /// A connection on its ports that the same end has opened, and that is over.
    Over,
    /// Its flow, entered while the host learned what it has: it is seen as if for the first time.
    Learned,
}
