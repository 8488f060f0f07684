//! What one side says about every key: the first rule that matches, tier by tier.

use std::sync::Arc;

use crate::{
    evaluate::Evidence,
    host_policy::Origin,
    reach::{
        keys::{Keys, every, join, meet, minus},
        rulebook::Line,
    },
    service::{PortKey, PortSpan, merge},
    words::{Action, Effect, Tier},
};

/// The answer of one side for one class of peers, key by key.
#[derive(Clone, Debug)]
pub(super) struct Ruling {
    /// Covers every key of every protocol once; sorted.
    pub pieces: Vec<Piece>,
    /// Those that pass.
    pub passing: Keys,
}

/// Keys that one rule decides.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub ports: PortSpan,
    pub effect: Effect,
    pub tier: Tier,
    pub origin: Arc<Origin>,
}

impl Piece {
    pub fn evidence(&self) -> Evidence {
        Evidence {
            effect: self.effect,
            tier: self.tier,
            origin: Arc::clone(&self.origin),
        }
    }
}

impl Ruling {
    /// The piece that holds a key.
    pub fn piece(&self, key: PortKey) -> Option<&Piece> {
        let after = self
            .pieces
            .partition_point(|piece| (piece.ports.slot, piece.ports.first) <= (key.slot, key.key));
        let piece = self.pieces[..after].last();
        piece.filter(|piece| piece.ports.contains(key))
    }
}

/// One rule's answer for every key.
pub(super) fn unwritten(effect: Effect, tier: Tier, rule: &str) -> Vec<Piece> {
    let origin = Arc::new(Origin::unwritten(rule));
    pieces(every(), effect, tier, &origin).collect()
}

/// Asks rules in order of precedence, each with the keys that it speaks of (none: every key).
/// What no rule decides is allowed, by the default.
pub(super) fn decide<'a>(
    rules: impl Iterator<Item = (Line<'a>, Option<Arc<[PortSpan]>>)>,
    default: &Arc<Origin>,
) -> Vec<Piece> {
    // Keys that the current tier still asks about, and those that it leaves to the next.
    let (mut open, mut passed) = (every(), Vec::new());
    let mut tier = Tier::Lifeline;
    let mut decided = Vec::new();
    for (rule, ports) in rules {
        if rule.tier != tier {
            tier = rule.tier;
            open = join(&open, &std::mem::take(&mut passed));
        }
        let matched = match &ports {
            Some(ports) => meet(&open, ports),
            None => open.clone(),
        };
        if matched.is_empty() {
            continue;
        }
        open = minus(&open, &matched);
        let effect = match rule.action {
            Action::Allow => Effect::Allow,
            Action::Deny => Effect::Deny,
            Action::Pass => {
                passed = join(&passed, &matched);
                continue;
            }
        };
        decided.extend(pieces(matched, effect, tier, rule.origin));
        if open.is_empty() && passed.is_empty() {
            break;
        }
    }
    let left = join(&open, &passed);
    decided.extend(pieces(left, Effect::Allow, Tier::Default, default));
    decided.sort_unstable_by_key(|piece| piece.ports);
    decided
}

/// What passes, of the pieces of a ruling.
pub(super) fn passing(pieces: &[Piece]) -> Vec<PortSpan> {
    let passing = pieces.iter().filter(|piece| piece.effect == Effect::Allow);
    merge(passing.map(|piece| piece.ports).collect())
}

fn pieces(
    keys: Vec<PortSpan>,
    effect: Effect,
    tier: Tier,
    origin: &Arc<Origin>,
) -> impl Iterator<Item = Piece> {
    keys.into_iter().map(move |ports| Piece {
        ports,
        effect,
        tier,
        origin: Arc::clone(origin),
    })
}
