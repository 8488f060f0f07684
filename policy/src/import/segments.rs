//! The segments that an import needs: one for each distinct selector.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    host_policy::Origin,
    selector::{Requirement, Selector, Test},
    set::{Segment, SegmentId},
};

/// Segments in the order in which they were first needed.
#[derive(Default)]
pub(super) struct Segments {
    segments: Vec<Segment>,
    ids: BTreeMap<Selector, SegmentId>,
}

impl Segments {
    /// The segment of a selector. `origin` is where it is needed; the first place stays.
    pub fn id(&mut self, selector: &Selector, name: &str, origin: &Arc<Origin>) -> SegmentId {
        if let Some(id) = self.ids.get(selector) {
            return *id;
        }
        let id = SegmentId(u32::try_from(self.segments.len()).unwrap_or(u32::MAX));
        self.ids.insert(selector.clone(), id);
        self.segments.push(Segment {
            name: name.to_owned(),
            selector: selector.clone(),
            subnets: Vec::new(),
            origin: Arc::clone(origin),
        });
        id
    }

    pub fn into_vec(self) -> Vec<Segment> {
        self.segments
    }
}

/// A readable name for the workloads of a selector: `env-prod-role-not-db`.
pub(super) fn name_of(selector: &Selector) -> String {
    let words = selector
        .requirements
        .iter()
        .map(|Requirement { key, test }| {
            // The prefix of a key says who defined it: long, and the same for many.
            let key = key.rsplit('/').next().unwrap_or(key);
            let list = |values: &std::collections::BTreeSet<String>| {
                values.iter().cloned().collect::<Vec<_>>().join("-")
            };
            match test {
                Test::In(values) => format!("{key}-{}", list(values)),
                Test::NotIn(values) => format!("{key}-not-{}", list(values)),
                Test::Exists => format!("has-{key}"),
                Test::DoesNotExist => format!("no-{key}"),
            }
        });
    words.collect::<Vec<_>>().join("-")
}
