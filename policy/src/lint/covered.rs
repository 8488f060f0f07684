//! Rules that other rules leave nothing to do.

use super::{
    Kind, Warning,
    cover::{Cover, ports_are_disjoint, ports_cover},
    place,
    rules::{Written, WrittenRule},
};
use crate::words::{Action, Mode, Tier};

/// Rules that another of their tier covers, by number.
///
/// In a tier whose rules are asked in order that is one before them. Policies only allow, so that
/// there it may be one behind them, too, if it reports alike.
pub(super) fn covered(written: &[Written<'_>], cover: &mut Cover<'_>) -> Vec<(usize, Warning)> {
    let mut found = Vec::new();
    for (at, inner) in written.iter().enumerate() {
        let mut open: Vec<&WrittenRule<'_>> = inner.rules.iter().collect();
        // Those before it first, so that of two equal rules the second is the one too many.
        for (outer_at, outer) in written.iter().enumerate() {
            let asked_before = outer_at <= at;
            if !cover.spend(1) {
                return found;
            }
            if open.is_empty()
                || !are_comparable(outer, inner)
                || !(asked_before || inner.tier == Tier::Policy)
            {
                continue;
            }
            if outer_at != at && !cover.peers(&outer.subjects, &inner.subjects) {
                continue;
            }
            let is_back = |cover: &mut Cover<'_>| {
                inner.mode <= outer.mode && cover.peers(&inner.subjects, &outer.subjects)
            };
            let mutual = outer_at == at || (!asked_before && is_back(cover));
            open.retain(|rule| {
                let by = outer.rules.iter().find(|other| {
                    let earlier = other.number < rule.number;
                    let may = other.number != rule.number
                        && other.origin != rule.origin
                        && (earlier || (inner.tier == Tier::Policy && other.log == rule.log));
                    may && covers(other, rule, cover)
                        && (earlier || !(mutual && covers(rule, other, cover)))
                });
                if let Some(by) = by {
                    found.push((rule.number, covered_by(rule, by, inner.tier)));
                }
                by.is_none()
            });
        }
    }
    found
}

fn covered_by(rule: &WrittenRule<'_>, by: &WrittenRule<'_>, tier: Tier) -> Warning {
    let what = if tier == Tier::Policy {
        "allows all that it allows"
    } else {
        "matches all that it matches, and is asked before it"
    };
    Warning {
        origin: rule.origin.clone(),
        kind: Kind::Covered,
        message: format!(
            "`{}` changes nothing: {} {what}",
            rule.origin.rule,
            place(by.origin)
        ),
        help: "remove it, or make the other one narrower".to_owned(),
    }
}

/// Rules below the guardrails to which a guardrail leaves nothing, by number.
pub(super) fn pointless(written: &[Written<'_>], cover: &mut Cover<'_>) -> Vec<(usize, Warning)> {
    let is_guardrail = |policy: &&Written<'_>| policy.tier == Tier::Guardrail;
    let guardrails: Vec<_> = written.iter().filter(is_guardrail).collect();
    let mut found = Vec::new();
    for below in written.iter().filter(|policy| !is_guardrail(policy)) {
        if cover.is_spent() {
            return found;
        }
        let guarding: Vec<_> = guardrails
            .iter()
            .filter(|guardrail| {
                let can = guardrail.direction == below.direction
                    && (guardrail.mode == Mode::Enforce || below.mode == Mode::Observe);
                can && cover.peers(&guardrail.subjects, &below.subjects)
            })
            .collect();
        for rule in &below.rules {
            let by = guarding
                .iter()
                .flat_map(|guardrail| &guardrail.rules)
                .find(|by| by.action != Action::Pass && covers(by, rule, cover));
            let Some(by) = by else { continue };
            if may_pass_before(&guardrails, by, below, rule, cover) {
                continue;
            }
            let does = match by.action {
                Action::Deny => "denies",
                _ => "allows",
            };
            let warning = Warning {
                origin: rule.origin.clone(),
                kind: Kind::Pointless,
                message: format!(
                    "`{}` is never asked: the guardrail {} {does} all that it speaks of",
                    rule.origin.rule,
                    place(by.origin)
                ),
                help: "remove it, or let the guardrail `pass` what it speaks of".to_owned(),
            };
            found.push((rule.number, warning));
        }
    }
    found
}

/// Whether a guardrail before `by` may let pass some of what the rule speaks of.
fn may_pass_before(
    guardrails: &[&Written<'_>],
    by: &WrittenRule<'_>,
    below: &Written<'_>,
    rule: &WrittenRule<'_>,
    cover: &mut Cover<'_>,
) -> bool {
    guardrails
        .iter()
        .filter(|guardrail| guardrail.direction == below.direction)
        .any(|guardrail| {
            let mut passing = guardrail.rules.iter().filter(|other| {
                other.action == Action::Pass
                    && other.number < by.number
                    && !ports_are_disjoint(other.ports, rule.ports)
            });
            passing.next().is_some() && !cover.are_disjoint(guardrail.applies_to, below.applies_to)
        })
}

/// Whether all that the inner rule matches at a host of both is matched by the outer one, too.
pub(super) fn covers(
    outer: &WrittenRule<'_>,
    inner: &WrittenRule<'_>,
    cover: &mut Cover<'_>,
) -> bool {
    cover.spend(1) && ports_cover(outer.ports, inner.ports) && cover.peers(outer.peers, inner.peers)
}

/// Whether the outer rules count wherever the inner ones do.
fn are_comparable(outer: &Written<'_>, inner: &Written<'_>) -> bool {
    outer.tier == inner.tier
        && outer.direction == inner.direction
        && (outer.mode == Mode::Enforce || inner.mode == Mode::Observe)
}
