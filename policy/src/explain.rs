//! Why a flow has its verdicts: every rule that was considered, in order, and what came of it.
//!
//! The walk is written anew, beside [`mod@crate::evaluate`], because it has to look at the rules
//! that did not match too; property tests hold it to the same verdicts.

mod candidate;
mod nearest;
pub mod reason;
pub mod service;
#[cfg(test)]
pub(crate) mod tests;

use std::{net::IpAddr, sync::Arc};

use serde::Serialize;

use crate::{
    evaluate::{
        Evidence, Flow, SideVerdict,
        query::{self, Query, QueryError},
    },
    explain::{candidate::candidates, nearest::nearest, reason::Mismatch},
    host_policy::Origin,
    inventory::{Host, HostName, Inventory},
    set::PolicySet,
    words::{Action, Direction, Effect, Mode, Tier},
};

/// What becomes of one flow, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked.
    pub query: Query,
    /// The flow that the query stands for.
    pub flow: Flow,
    /// Allow if both sides allow.
    pub verdict: Effect,
    /// The side of the source.
    pub egress: SideExplanation,
    /// The side of the destination.
    pub ingress: SideExplanation,
}

/// What one side makes of the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideExplanation {
    /// Which side it is.
    pub direction: Direction,
    /// The address on this side.
    pub address: IpAddr,
    /// The host that judges; none: no host of the inventory holds the address.
    pub host: Option<HostName>,
    /// The host in quarantine, this one or the peer, that makes every other rule pointless.
    pub quarantined: Option<HostName>,
    /// What decides, as [`crate::evaluate()`] says it.
    pub verdict: SideVerdict,
    /// Every rule of this direction, in order of precedence, with what came of it.
    pub considered: Vec<Considered>,
    /// Of an enforced denial, but for quarantine: the rule that was nearest to allowing the flow.
    /// None if there is none that could.
    pub nearest: Option<Nearest>,
}

/// The rule that was nearest to allowing a flow; both numbers are places in
/// [`SideExplanation::considered`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Which rule.
    pub rule: usize,
    /// The rule that denies the flow before, also when the flow is as this one wants it.
    pub denied_by: Option<usize>,
}

/// One rule, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// The layer that it belongs to.
    pub tier: Tier,
    /// What it does with what it matches.
    pub action: Action,
    /// Whether it acts or is only observed.
    pub mode: Mode,
    /// The rule.
    pub origin: Arc<Origin>,
    /// Why it does not match; empty: it matches.
    pub mismatches: Vec<Mismatch>,
    /// What came of it in the enforced verdict.
    pub enforced: Role,
    /// What came of it in the staged verdict.
    pub staged: Role,
}

/// What came of a rule on the way to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It matches, and gives the verdict.
    Decides,
    /// It matches, and leaves the flow to the next tier.
    Passes,
    /// It was asked and does not match.
    Misses,
    /// Not asked: a rule of its tier passed before.
    Skipped,
    /// Not asked: a rule before it decided.
    NotReached,
    /// Not asked: it is only observed, and this is the enforced verdict.
    Observed,
}

/// Explains one query.
///
/// Addresses and names stand for what they stand for in [`query::answer`], whose verdicts these
/// are. Exceptions count as if none had expired: see [`PolicySet::at`].
///
/// # Errors
/// [`QueryError`] says which part of the query has no meaning.
pub fn explain(
    set: &PolicySet,
    inventory: &Inventory,
    query: &Query,
) -> Result<Explanation, QueryError> {
    let flow = query::flow(set, inventory, query)?;
    let side = |direction| side(set, inventory, direction, &flow);
    let (egress, ingress) = (side(Direction::Egress), side(Direction::Ingress));
    let passes = [&egress, &ingress]
        .iter()
        .all(|side| side.verdict.enforced.effect == Effect::Allow);
    Ok(Explanation {
        query: query.clone(),
        flow,
        verdict: if passes { Effect::Allow } else { Effect::Deny },
        egress,
        ingress,
    })
}

impl Considered {
    /// Whether it speaks of the judging host at all.
    #[must_use]
    pub fn selects(&self) -> bool {
        !matches!(self.mismatches.first(), Some(Mismatch::Host(_)))
    }
}

fn side(
    set: &PolicySet,
    inventory: &Inventory,
    direction: Direction,
    flow: &Flow,
) -> SideExplanation {
    let (own, peer) = match direction {
        Direction::Egress => (flow.source, flow.destination),
        Direction::Ingress => (flow.destination, flow.source),
    };
    let host = inventory.holder(own);
    let undecided = |rule: &str| SideExplanation {
        direction,
        address: own,
        host: host.map(|host| host.name.clone()),
        quarantined: None,
        verdict: SideVerdict::from(Evidence {
            effect: Effect::Allow,
            tier: Tier::Default,
            origin: Arc::new(Origin::unwritten(rule)),
        }),
        considered: Vec::new(),
        nearest: None,
    };
    let Some(judge) = host else {
        return undecided("unmanaged");
    };
    if judge.addresses.contains(&peer) {
        return undecided("loopback");
    }
    let other = inventory.holder(peer);
    let in_quarantine = |host: &&Host| host.quarantined;
    let quarantined = Some(judge)
        .filter(in_quarantine)
        .or(other.filter(in_quarantine));
    let asked = Asked {
        set,
        inventory,
        host: judge,
        direction,
        peer,
        other,
        flow,
    };
    let (mut considered, rules) = candidates(&asked, quarantined.is_some());
    let enforced = walk(&mut considered, false);
    let staged = walk(&mut considered, true);
    let is_mendable = enforced.effect == Effect::Deny && quarantined.is_none();
    let nearest = is_mendable
        .then(|| nearest(&asked, &rules, &considered))
        .flatten();
    SideExplanation {
        direction,
        address: own,
        host: Some(judge.name.clone()),
        quarantined: quarantined.map(|host| host.name.clone()),
        verdict: SideVerdict { enforced, staged },
        considered,
        nearest,
    }
}

/// A flow as one of its hosts sees it.
struct Asked<'a> {
    set: &'a PolicySet,
    inventory: &'a Inventory,
    /// Who judges.
    host: &'a Host,
    direction: Direction,
    /// The address of the other end.
    peer: IpAddr,
    /// Who holds it.
    other: Option<&'a Host>,
    flow: &'a Flow,
}

/// Asks the rules one after the other and notes what comes of each. The last one matches
/// everything, so there is a verdict.
fn walk(considered: &mut [Considered], staged: bool) -> Evidence {
    let mut decided: Option<Evidence> = None;
    let mut passed: Option<Tier> = None;
    for rule in considered {
        let role = if !staged && rule.mode == Mode::Observe {
            Role::Observed
        } else if decided.is_some() {
            Role::NotReached
        } else if passed == Some(rule.tier) {
            Role::Skipped
        } else if !rule.mismatches.is_empty() {
            Role::Misses
        } else if let Some(effect) = rule.action.effect() {
            decided = Some(Evidence {
                effect,
                tier: rule.tier,
                origin: Arc::clone(&rule.origin),
            });
            Role::Decides
        } else {
            passed = Some(rule.tier);
            Role::Passes
        };
        if staged {
            rule.staged = role;
        } else {
            rule.enforced = role;
        }
    }
    decided.unwrap_or_else(|| Evidence {
        effect: Effect::Deny,
        tier: Tier::Default,
        origin: Arc::new(Origin::unwritten("default")),
    })
}
