//! Who can reach whom, on what: exact, over every flow that some host judges.
//!
//! Addresses that no rule tells apart are one class, so that pairs of classes are asked about and
//! not pairs of hosts. What a host sends to itself is not policed and is left out; so are flows
//! between two addresses that no host holds, which nothing judges. A host in quarantine reaches
//! nobody. Exceptions count as if none had expired: see [`PolicySet::at`].

pub(crate) mod atlas;
mod diff;
pub(crate) mod examples;
mod fold;
pub(crate) mod keys;
mod question;
mod rulebook;
mod ruling;
mod space;
mod terrain;
#[cfg(test)]
pub(crate) mod tests;

use std::{net::IpAddr, sync::Arc};

use serde::{Serialize, Serializer};

pub use diff::{Change, Difference, SegmentChange};
pub use question::{End, Question};

use crate::{
    host_policy::Origin,
    inventory::{HostName, Inventory},
    reach::{
        fold::{Folded, Pairs, fold},
        keys::{KeySets, Keys, meet},
        terrain::{Place, Terrain},
    },
    service::{PortSpan, ProtocolSlot, merge},
    set::PolicySet,
};

/// A source and a destination each.
pub type AddressPairs = Vec<(IpAddr, IpAddr)>;

/// What one host can reach on another, over some of their addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Who opens. An end that is no host is named by its address, or by what was asked for and an
    /// address that stands for all of it that policy treats alike: `10.0.0.0/8 like 10.0.0.1`.
    pub src: HostName,
    /// To whom; named as the source.
    pub dst: HostName,
    /// The pairs of addresses (source, destination) that this holds for; empty if the hosts have
    /// no addresses of one family.
    pub addresses: AddressPairs,
    /// What passes both sides, sorted; empty: nothing.
    pub allowed: Arc<[Allowed]>,
}

/// Keys that pass, and the rules that let them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allowed {
    /// The keys; in JSON as authors write them, such as `tcp/8000-8010`.
    #[serde(serialize_with = "as_text")]
    pub ports: PortSpan,
    /// The rule on the side of the source.
    pub egress: Arc<Origin>,
    /// The rule on the side of the destination.
    pub ingress: Arc<Origin>,
}

/// What the members of one segment can reach on those of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentReach {
    /// Who opens: a segment's name, `(other)` for the hosts in no segment, `world` for the
    /// addresses that neither a host holds nor a segment names.
    pub src: String,
    /// To whom; named as the source.
    pub dst: String,
    /// What passes.
    #[serde(flatten)]
    pub extent: Extent,
}

/// Keys, and for how many of some pairs of addresses they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// For all pairs of a family that the protocol runs over; sorted.
    #[serde(serialize_with = "all_as_text")]
    pub all: Vec<PortSpan>,
    /// For some pairs and not for all; sorted.
    #[serde(serialize_with = "all_as_text")]
    pub some: Vec<PortSpan>,
}

/// More than is computed, so that no input takes all memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "who reaches whom cannot be computed: {needed} {what} needed, {limit} is the most; name fewer subnets that overlap"
)]
pub struct TooMany {
    /// What there is too much of, in words.
    pub what: &'static str,
    /// How many there are, or more.
    pub needed: usize,
    /// How many there may be.
    pub limit: usize,
}

/// A question, ready to be answered by host or by segment.
pub struct Survey<'a> {
    terrain: Terrain<'a>,
}

/// For every ordered pair of different hosts of an inventory, what the first can reach on the
/// second by what is enforced: an item for each set of address pairs with the same answer. Sorted
/// as the inventory is, by source, then destination.
///
/// # Errors
/// See [`Survey::new`].
pub fn reach(set: &PolicySet, inventory: &Inventory) -> Result<Vec<Reach>, TooMany> {
    let question = Question::default();
    let mut survey = Survey::new(set, inventory, &question)?;
    Ok(survey.hosts().collect())
}

impl<'a> Survey<'a> {
    /// Takes in a set and an inventory.
    ///
    /// # Errors
    /// More overlapping subnets than are computed.
    pub fn new(
        set: &'a PolicySet,
        inventory: &'a Inventory,
        question: &'a Question,
    ) -> Result<Self, TooMany> {
        Ok(Self {
            terrain: Terrain::new(&[set], inventory, question)?,
        })
    }

    /// Host by host, as [`reach`]; and from and to the addresses of the question that no host holds.
    pub fn hosts(&mut self) -> impl Iterator<Item = Reach> {
        let places = self.terrain.places();
        places
            .pairs()
            .flat_map(move |(from, to)| self.pair(&from, &to))
    }

    /// Segment by segment: each pair between whose members there can be flows. Hosts in quarantine
    /// are left out.
    pub fn segments(&mut self) -> impl Iterator<Item = SegmentReach> {
        let [from, to] = self.terrain.groups();
        fold(self, from, to).map(
            |Folded {
                 src,
                 dst,
                 extents: [extent],
             }| SegmentReach { src, dst, extent },
        )
    }

    fn pair(&mut self, from: &Place, to: &Place) -> Vec<Reach> {
        let mut answers: Vec<(AddressPairs, Arc<[Allowed]>)> = Vec::new();
        for (a, b) in Terrain::flows(from, to) {
            let [from, to] = [a, b].map(|spot| self.terrain.kinds[spot.class as usize][0]);
            let mut allowed = self.terrain.atlases[0].allowed(from, to);
            if let Some(asked) = self.terrain.asked(0, b.class) {
                allowed = within(&allowed, self.terrain.atlases[0].keys.spans(asked));
            }
            let v4 = a.address.is_ipv4();
            let pair = (a.address, b.address);
            match answers.iter_mut().find(|(pairs, known)| {
                *known == allowed && pairs.iter().all(|(from, _)| from.is_ipv4() == v4)
            }) {
                Some((pairs, _)) => pairs.push(pair),
                None => answers.push((vec![pair], allowed)),
            }
        }
        if answers.is_empty() {
            answers.push((Vec::new(), Arc::new([])));
        }
        let reach = |(addresses, allowed)| Reach {
            src: from.name.clone(),
            dst: to.name.clone(),
            addresses,
            allowed,
        };
        answers.into_iter().map(reach).collect()
    }
}

impl Pairs<1> for Survey<'_> {
    fn terrain(&self) -> &Terrain<'_> {
        &self.terrain
    }

    fn keys(&mut self) -> &mut KeySets {
        &mut self.terrain.atlases[0].keys
    }

    fn answer(&mut self, from: u32, to: u32) -> [Keys; 1] {
        [self.terrain.passing(0, from, to)]
    }
}

impl Reach {
    /// What passes, for people: `nothing`, `any`, or a list such as `tcp/5432, icmp/8`.
    #[must_use]
    pub fn summary(&self) -> String {
        let passing = merge(self.allowed.iter().map(|allowed| allowed.ports).collect());
        let (v4, v6) = self
            .addresses
            .iter()
            .fold((false, false), |(v4, v6), (source, _)| {
                (v4 | source.is_ipv4(), v6 | source.is_ipv6())
            });
        summary(&passing, v4, v6)
    }
}

/// Keys for people: `nothing`, `any` where that is all that runs over these families, or a list.
#[must_use]
pub fn summary(passing: &[PortSpan], v4: bool, v6: bool) -> String {
    if passing.is_empty() {
        return "nothing".to_owned();
    }
    let passes_whole = |slot: ProtocolSlot| {
        let whole = PortSpan {
            slot,
            first: 0,
            last: slot.last_key(),
        };
        let runs = match slot {
            ProtocolSlot::Icmp => v4,
            ProtocolSlot::Icmpv6 => v6,
            _ => true,
        };
        !runs || passing.contains(&whole)
    };
    if ProtocolSlot::ALL.into_iter().all(passes_whole) {
        return "any".to_owned();
    }
    let spans: Vec<String> = passing.iter().map(PortSpan::to_string).collect();
    spans.join(", ")
}

impl Extent {
    /// Whether there is nothing, for no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.some.is_empty()
    }

    /// For people: `tcp/5432; some: tcp/22`.
    #[must_use]
    pub fn summary(&self) -> String {
        // A set that holds one ICMP whole and none of the other is of addresses of one family.
        let of = |spans: &[PortSpan]| {
            let runs = |slot| spans.iter().any(|span| span.slot == slot);
            let (v4, v6) = (runs(ProtocolSlot::Icmp), runs(ProtocolSlot::Icmpv6));
            summary(spans, v4 || !v6, v6)
        };
        match (self.all.is_empty(), self.some.is_empty()) {
            (true, true) => "nothing".to_owned(),
            (false, true) => of(&self.all),
            (true, false) => format!("some: {}", of(&self.some)),
            (false, false) => format!("{}; some: {}", of(&self.all), of(&self.some)),
        }
    }
}

impl TooMany {
    pub(crate) fn check(what: &'static str, needed: usize, limit: usize) -> Result<(), Self> {
        if needed > limit {
            Err(Self {
                what,
                needed,
                limit,
            })
        } else {
            Ok(())
        }
    }
}

/// What is allowed, of some keys only.
fn within(allowed: &[Allowed], keys: &[PortSpan]) -> Arc<[Allowed]> {
    let cut = |item: &Allowed| {
        let Allowed {
            ports,
            egress,
            ingress,
        } = item.clone();
        meet(&[ports], keys).into_iter().map(move |ports| Allowed {
            ports,
            egress: Arc::clone(&egress),
            ingress: Arc::clone(&ingress),
        })
    };
    allowed.iter().flat_map(cut).collect()
}

fn as_text<S: Serializer>(ports: &PortSpan, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(ports)
}

fn all_as_text<S: Serializer>(ports: &[PortSpan], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ports.iter().map(ToString::to_string))
}
