//! Exceptions that do not do what they are for.

use super::{
    Kind, Warning,
    cover::{Cover, as_peers, ports_are_disjoint, ports_cover},
    place,
    rules::{Written, WrittenRule},
};
use crate::{
    set::{Exception, Peers, PolicySet, SegmentId},
    words::{Action, Direction, Mode, Tier, Timestamp},
};

/// How long before its end an exception is spoken of, in seconds.
const SOON: u64 = 7 * DAY;

const DAY: u64 = 86_400;

/// Exceptions that have ended, and those that end soon.
pub(super) fn ending(set: &PolicySet, now: Timestamp) -> Vec<Warning> {
    let ending = |exception: &Exception| {
        let (Timestamp(ends), Timestamp(now)) = (exception.expires, now);
        let name = &exception.name;
        let (kind, message, help) = if ends <= now {
            let message = format!("exception `{name}` expired {} ago", period(now - ends));
            let help = format!(
                "remove it, or ask {} for how long it is needed",
                exception.owner
            );
            (Kind::Expired, message, help)
        } else if ends - now <= SOON {
            let message = format!("exception `{name}` expires in {}", period(ends - now));
            let help = format!("ask {} if it is needed any longer", exception.owner);
            (Kind::ExpiresSoon, message, help)
        } else {
            return None;
        };
        Some(Warning {
            origin: exception.origin.clone(),
            kind,
            message,
            help,
        })
    };
    set.exceptions.iter().filter_map(ending).collect()
}

/// Exceptions that another covers, which ends no earlier.
pub(super) fn covered(set: &PolicySet, now: Timestamp, cover: &mut Cover<'_>) -> Vec<Warning> {
    let mut found = Vec::new();
    for (at, inner) in alive(set, now) {
        if cover.is_spent() {
            return found;
        }
        let mut others = alive(set, now);
        let by = others.find(|(outer_at, outer)| {
            *outer_at != at
                && covers(outer, inner, cover)
                && (*outer_at < at || !covers(inner, outer, cover))
        });
        if let Some((_, by)) = by {
            found.push(Warning {
                origin: inner.origin.clone(),
                kind: Kind::Covered,
                message: format!(
                    "exception `{}` changes nothing: {} allows all that it allows, for as long",
                    inner.name,
                    place(&by.origin)
                ),
                help: "remove it, or make the other one narrower".to_owned(),
            });
        }
    }
    found
}

fn alive(set: &PolicySet, now: Timestamp) -> impl Iterator<Item = (usize, &Exception)> {
    let exceptions = set.exceptions.iter().enumerate();
    exceptions.filter(move |(_, exception)| now < exception.expires)
}

fn covers(outer: &Exception, inner: &Exception, cover: &mut Cover<'_>) -> bool {
    cover.spend(1)
        && inner.expires <= outer.expires
        && ports_cover(&outer.ports, &inner.ports)
        && cover.segments(&outer.from, &inner.from)
        && cover.segments(&outer.to, &inner.to)
}

/// Exceptions to which guardrails leave nothing.
///
/// They decide both sides of all that it speaks of, or they deny it on one. There that has to be a
/// side where every end is a host's: nobody judges for an address that no host holds.
pub(super) fn pointless(
    set: &PolicySet,
    written: &[Written<'_>],
    now: Timestamp,
    cover: &mut Cover<'_>,
) -> Vec<Warning> {
    let has_subnets = |id: &SegmentId| !set.segment(*id).subnets.is_empty();
    let mut found = Vec::new();
    for (_, exception) in alive(set, now) {
        if cover.is_spent() {
            return found;
        }
        let mut side = |direction| guard(exception, direction, written, cover);
        let (ingress, egress) = (side(Direction::Ingress), side(Direction::Egress));
        let is_denial = |rule: &&WrittenRule<'_>| rule.action == Action::Deny;
        let by =
            match (ingress, egress) {
                (Some(one), Some(other)) => Some(one).filter(is_denial).or(Some(other)),
                (Some(rule), None) => Some(rule)
                    .filter(|rule| is_denial(rule) && !exception.to.iter().any(has_subnets)),
                (None, Some(rule)) => Some(rule)
                    .filter(|rule| is_denial(rule) && !exception.from.iter().any(has_subnets)),
                (None, None) => None,
            };
        let Some(by) = by else { continue };
        let does = if is_denial(&by) { "denies" } else { "allows" };
        found.push(Warning {
            origin: exception.origin.clone(),
            kind: Kind::Pointless,
            message: format!(
                "exception `{}` changes nothing: the guardrail {} {does} all that it speaks of",
                exception.name,
                place(by.origin)
            ),
            help: "remove it, or let the guardrail `pass` what it speaks of".to_owned(),
        });
    }
    found
}

/// The guardrail that decides one side of all that an exception speaks of, if one does.
fn guard<'r, 'a>(
    exception: &Exception,
    direction: Direction,
    written: &'r [Written<'a>],
    cover: &mut Cover<'_>,
) -> Option<&'r WrittenRule<'a>> {
    let (own, others) = match direction {
        Direction::Ingress => (&exception.to, &exception.from),
        Direction::Egress => (&exception.from, &exception.to),
    };
    let peers = Peers::Of(as_peers(others));
    let guardrails = written
        .iter()
        .filter(|policy| policy.tier == Tier::Guardrail && policy.direction == direction);
    for guardrail in guardrails {
        for rule in &guardrail.rules {
            if !cover.spend(1) {
                return None;
            }
            if rule.action == Action::Pass {
                // What passes here may come to the exception.
                if !ports_are_disjoint(rule.ports, &exception.ports)
                    && !cover.are_disjoint(guardrail.applies_to, own)
                {
                    return None;
                }
            } else if guardrail.mode == Mode::Enforce
                && ports_cover(rule.ports, &exception.ports)
                && cover.segments(guardrail.applies_to, own)
                && cover.peers(rule.peers, &peers)
            {
                return Some(rule);
            }
        }
    }
    None
}

/// A number of seconds in its largest unit.
fn period(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..DAY => (seconds / 3_600, "hour"),
        _ => (seconds / DAY, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}
