//! Deciding assertions: over every flow there can be, not sampled.
//!
//! An assertion speaks of the flows from the members of some segments to those of others: every
//! address of a host that is in one by its labels or by an address, and every address of its
//! subnets, also those that no host holds, of both families. An address that no host holds lets
//! everything pass on its side, for nobody enforces there.
//!
//! Left out are flows within one host, which are not policed, and hosts in quarantine, which are in
//! no segment until they are released: an incident does not make an `always` fail.
//! Exceptions count as if none had expired: see [`PolicySet::at`].

#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, sync::Arc};

use crate::{
    evaluate::Evidence,
    host_policy::Origin,
    inventory::{HostName, Inventory},
    problem::Problem,
    reach::{
        TooMany,
        atlas::{Atlas, Spot},
        examples::{example, examples},
        keys::Keys,
    },
    service::{PortKey, PortSpan, ProtocolSlot},
    set::{Assertion, Claim, PolicySet, SegmentId},
    source::SourceFile,
    words::Effect,
};

/// An assertion that does not hold, or of which that cannot be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub assertion: String,
    /// What it claims.
    pub claim: Claim,
    /// Where it was written.
    pub origin: Arc<Origin>,
    /// Why it fails.
    pub cause: Cause,
}

/// Why an assertion fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A flow that it does not hold for.
    Broken(Box<Witness>),
    /// It is not known to hold, which is not enough.
    Undecided(TooMany),
}

/// A flow, and what decides it on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Who opens.
    pub source: Party,
    /// To whom.
    pub destination: Party,
    /// What for.
    pub port: PortKey,
    /// What the side of the source says.
    pub egress: Evidence,
    /// What the side of the destination says.
    pub ingress: Evidence,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its address.
    pub address: IpAddr,
    /// The host that holds it, if one does.
    pub host: Option<HostName>,
}

/// What came of deciding all assertions of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// In the order of the set.
    pub failures: Vec<Failure>,
    /// Those that hold because there is no flow that they speak of; in the order of the set.
    pub vacuous: Vec<Vacuous>,
}

/// An assertion that holds because there is no flow that it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vacuous {
    /// Its name.
    pub assertion: String,
    /// Where it was written.
    pub origin: Arc<Origin>,
}

/// The assertions of a set that fail for an inventory.
#[must_use]
pub fn check(set: &PolicySet, inventory: &Inventory) -> Vec<Failure> {
    decide(set, inventory).failures
}

/// Decides the assertions of a set for an inventory.
#[must_use]
pub fn decide(set: &PolicySet, inventory: &Inventory) -> Decided {
    let mut decided = Decided::default();
    if set.assertions.is_empty() {
        return decided;
    }
    let failure = |assertion: &Assertion, cause| Failure {
        assertion: assertion.name.clone(),
        claim: assertion.claim,
        origin: Arc::clone(&assertion.origin),
        cause,
    };
    let mut judge = match Judge::new(set, inventory) {
        Ok(judge) => judge,
        Err(error) => {
            let undecided = |assertion| failure(assertion, Cause::Undecided(error));
            decided.failures = set.assertions.iter().map(undecided).collect();
            return decided;
        }
    };
    for assertion in &set.assertions {
        match judge.ask(assertion) {
            Found::Holds => {}
            Found::NoFlows => decided.vacuous.push(Vacuous {
                assertion: assertion.name.clone(),
                origin: Arc::clone(&assertion.origin),
            }),
            Found::Broken(witness) => {
                let cause = Cause::Broken(Box::new(witness));
                decided.failures.push(failure(assertion, cause));
            }
        }
    }
    decided
}

enum Found {
    Holds,
    NoFlows,
    Broken(Witness),
}

struct Judge<'a> {
    atlas: Atlas<'a>,
    inventory: &'a Inventory,
    /// By class.
    examples: Vec<Vec<Spot>>,
}

impl<'a> Judge<'a> {
    fn new(set: &'a PolicySet, inventory: &'a Inventory) -> Result<Self, TooMany> {
        let atlas = Atlas::new(set, inventory, &[], &[])?;
        Ok(Self {
            examples: examples(atlas.spots(), atlas.classes()),
            atlas,
            inventory,
        })
    }

    /// Asks each pair of classes. Of those that break an assertion, one with hosts at both ends says
    /// the most, then one with a host at either.
    fn ask(&mut self, assertion: &Assertion) -> Found {
        let [from, to] = [&assertion.from, &assertion.to].map(|segments| self.members(segments));
        let asked: Vec<Keys> = to
            .iter()
            .map(|class| self.atlas.keys_of(&assertion.ports, *class))
            .collect();
        let mut has_flows = false;
        let mut broken: Option<(usize, Witness)> = None;
        for a in &from {
            for (b, asked) in to.iter().zip(&asked) {
                let [sources, destinations] = [a, b].map(|class| &self.examples[*class as usize]);
                let Some((source, destination)) = example(sources, destinations) else {
                    continue;
                };
                let (source, destination) = (*source, *destination);
                let hosts =
                    usize::from(source.host.is_some()) + usize::from(destination.host.is_some());
                if *asked == Keys::NONE {
                    continue;
                }
                has_flows = true;
                if broken.as_ref().is_some_and(|(known, _)| *known >= hosts) {
                    continue;
                }
                let passing = self.atlas.passing(*a, *b);
                let against = match assertion.claim {
                    Claim::Never => self.atlas.keys.meet(*asked, passing),
                    Claim::Always => self.atlas.keys.minus(*asked, passing),
                };
                let Some(port) = telling(self.atlas.keys.spans(against)) else {
                    continue;
                };
                let Some([egress, ingress]) = self.atlas.evidence(*a, *b, port) else {
                    continue;
                };
                let witness = Witness {
                    source: self.party(source),
                    destination: self.party(destination),
                    port,
                    egress,
                    ingress,
                };
                if hosts == 2 {
                    return Found::Broken(witness);
                }
                broken = Some((hosts, witness));
            }
        }
        match broken {
            Some((_, witness)) => Found::Broken(witness),
            None if has_flows => Found::Holds,
            None => Found::NoFlows,
        }
    }

    /// The classes of the members of any of some segments.
    fn members(&self, segments: &[SegmentId]) -> Vec<u32> {
        self.atlas.members(segments).collect()
    }

    fn party(&self, spot: Spot) -> Party {
        Party {
            address: spot.address,
            host: spot
                .host
                .map(|host| self.inventory.hosts[host as usize].name.clone()),
        }
    }
}

/// One key of some. No connection goes to port 0, so it is shown only where there is no other.
fn telling(spans: &[PortSpan]) -> Option<PortKey> {
    let real = spans
        .iter()
        .find(|span| !has_ports(span.slot) || span.last > 0);
    real.or(spans.first()).map(|span| PortKey {
        slot: span.slot,
        key: if has_ports(span.slot) {
            span.first.max(1).min(span.last)
        } else {
            span.first
        },
    })
}

fn has_ports(slot: ProtocolSlot) -> bool {
    matches!(
        slot,
        ProtocolSlot::Tcp | ProtocolSlot::Udp | ProtocolSlot::Sctp
    )
}

impl Failure {
    /// The failure as a problem is shown, with the assertion's line of the files marked.
    #[must_use]
    pub fn as_problem(&self, files: &[SourceFile]) -> Problem {
        Problem::of_line(&self.origin, files, self.to_string(), None)
    }
}

impl fmt::Display for Failure {
    /// In one line, without the place: what is claimed, and the flow that breaks it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            assertion,
            claim,
            origin: _,
            cause,
        } = self;
        match (cause, claim) {
            (Cause::Undecided(error), _) => {
                write!(f, "assertion `{assertion}` is undecided: {error}")
            }
            (Cause::Broken(witness), Claim::Never) => {
                write!(
                    f,
                    "assertion `{assertion}` fails: {witness}, which it says never happens"
                )
            }
            (Cause::Broken(witness), Claim::Always) => {
                write!(
                    f,
                    "assertion `{assertion}` fails: {witness}, which it says always passes"
                )
            }
        }
    }
}

impl fmt::Display for Witness {
    /// `web-1 (10.0.0.1) may reach db-1 (10.0.0.2) on tcp/5432: egress by a/egress[0] (p.yaml:4),
    /// ingress by ...`, or `... cannot reach ...` with the sides that deny.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = [("egress", &self.egress), ("ingress", &self.ingress)];
        let is_denied = |evidence: &Evidence| evidence.effect == Effect::Deny;
        let is_open = !sides.iter().any(|(_, evidence)| is_denied(evidence));
        let (source, destination) = (&self.source, &self.destination);
        let port = PortSpan {
            slot: self.port.slot,
            first: self.port.key,
            last: self.port.key,
        };
        let verb = if is_open { "may reach" } else { "cannot reach" };
        write!(f, "{source} {verb} {destination} on {port}: ")?;
        let telling = sides
            .into_iter()
            .filter(|(_, evidence)| is_open || is_denied(evidence));
        let mut separator = "";
        for (side, evidence) in telling {
            let effect = if is_open { "allowed" } else { "denied" };
            let origin = &evidence.origin;
            write!(f, "{separator}{side} {effect} by {}", origin.rule)?;
            if !origin.file.is_empty() {
                write!(f, " ({}:{})", origin.file, origin.line)?;
            }
            separator = ", ";
        }
        Ok(())
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{host} ({})", self.address),
            None => write!(f, "{} (held by no host)", self.address),
        }
    }
}
