//! Between two policy sets: what becomes possible, and what stops.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    inventory::{HostName, Inventory},
    reach::{
        AddressPairs, Extent, Question, TooMany, all_as_text,
        fold::{Folded, Pairs, fold},
        keys::{KeySets, Keys},
        terrain::{Place, Terrain},
    },
    service::PortSpan,
    set::PolicySet,
};

/// What changes between two hosts, over some of their addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Who opens; named as in [`crate::reach::Reach`].
    pub src: HostName,
    /// To whom.
    pub dst: HostName,
    /// The pairs of addresses (source, destination) that this holds for.
    pub addresses: AddressPairs,
    /// What becomes possible; sorted.
    #[serde(serialize_with = "all_as_text")]
    pub opens: Vec<PortSpan>,
    /// What stops; sorted.
    #[serde(serialize_with = "all_as_text")]
    pub closes: Vec<PortSpan>,
}

/// What changes between the members of two segments. A member is who either set makes one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentChange {
    /// Who opens; named as in [`crate::reach::SegmentReach`].
    pub src: String,
    /// To whom.
    pub dst: String,
    /// What becomes possible.
    pub opens: Extent,
    /// What stops.
    pub closes: Extent,
}

/// Two policy sets over one inventory.
pub struct Difference<'a> {
    /// The first atlas is that of the set before, and has the numbers of all keys.
    terrain: Terrain<'a>,
    /// Keys of the set after, in the numbers of the set before.
    translated: HashMap<Keys, Keys>,
}

impl<'a> Difference<'a> {
    /// Takes in both sets. Of named ports in the question, the numbers are those of the inventory.
    ///
    /// # Errors
    /// As [`crate::reach::Survey::new`].
    pub fn new(
        before: &'a PolicySet,
        after: &'a PolicySet,
        inventory: &'a Inventory,
        question: &'a Question,
    ) -> Result<Self, TooMany> {
        Ok(Self {
            terrain: Terrain::new(&[before, after], inventory, question)?,
            translated: HashMap::new(),
        })
    }

    /// Host by host: every change, in the order of [`crate::reach::Survey::hosts`].
    pub fn hosts(&mut self) -> impl Iterator<Item = Change> {
        let places = self.terrain.places();
        places
            .pairs()
            .flat_map(move |(from, to)| self.pair(&from, &to))
    }

    /// Segment by segment: every change, in the order of [`crate::reach::Survey::segments`].
    pub fn segments(&mut self) -> impl Iterator<Item = SegmentChange> {
        let [from, to] = self.terrain.groups();
        fold(self, from, to).filter_map(|Folded { src, dst, extents }| {
            let [opens, closes] = extents;
            let is_change = !(opens.is_empty() && closes.is_empty());
            is_change.then_some(SegmentChange {
                src,
                dst,
                opens,
                closes,
            })
        })
    }

    fn pair(&mut self, from: &Place, to: &Place) -> Vec<Change> {
        let mut changes: Vec<([Keys; 2], AddressPairs)> = Vec::new();
        for (a, b) in Terrain::flows(from, to) {
            let change = self.answer(a.class, b.class);
            if change == [Keys::NONE; 2] {
                continue;
            }
            let pair = (a.address, b.address);
            match changes.iter_mut().find(|(known, _)| *known == change) {
                Some((_, pairs)) => pairs.push(pair),
                None => changes.push((change, vec![pair])),
            }
        }
        let keys = self.keys();
        let change = |([opens, closes], addresses): ([Keys; 2], _)| Change {
            src: from.name.clone(),
            dst: to.name.clone(),
            addresses,
            opens: keys.spans(opens).to_vec(),
            closes: keys.spans(closes).to_vec(),
        };
        changes.into_iter().map(change).collect()
    }
}

/// What opens, and what closes.
impl Pairs<2> for Difference<'_> {
    fn terrain(&self) -> &Terrain<'_> {
        &self.terrain
    }

    fn keys(&mut self) -> &mut KeySets {
        &mut self.terrain.atlases[0].keys
    }

    fn answer(&mut self, from: u32, to: u32) -> [Keys; 2] {
        let before = self.terrain.passing(0, from, to);
        let after = self.terrain.passing(1, from, to);
        let after = match self.translated.get(&after) {
            Some(known) => *known,
            None => {
                let spans = self.terrain.atlases[1].keys.spans(after).to_vec();
                let translated = self.keys().number(spans);
                self.translated.insert(after, translated);
                translated
            }
        };
        [
            self.keys().minus(after, before),
            self.keys().minus(before, after),
        ]
    }
}
