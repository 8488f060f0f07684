//! Keys that every rule treats alike: as for peers, but on a line, by a sweep over the places
//! where a span of some rule begins or ends.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    classify::index::Index,
    host_policy::HostPolicy,
    service::{PortSpan, ProtocolSlot},
    words::Direction,
};

/// Which lists of ports hold which keys.
pub(super) struct Ports {
    /// The list of each rule, as a number; none is every key.
    pub list_of_rule: Vec<Option<u32>>,
    /// A direction, and the lists of its rules by number, sorted.
    pub signatures: Vec<(Direction, Vec<u32>)>,
    /// Covers every key of every slot in both directions, sorted; each with its signature.
    pub spans: Vec<(Direction, PortSpan, u32)>,
}

impl Ports {
    pub fn new(policy: &HostPolicy) -> Self {
        let mut lists: Index<&[PortSpan]> = Index::default();
        let list_of_rule: Vec<Option<u32>> = policy
            .rules
            .iter()
            .map(|rule| (!rule.ports.is_empty()).then(|| lists.number(&rule.ports)))
            .collect();
        let mut signatures = Index::default();
        let mut spans = Vec::new();
        for direction in Direction::ALL {
            let used: BTreeSet<u32> = policy
                .rules
                .iter()
                .zip(&list_of_rule)
                .filter(|(rule, _)| rule.direction == direction)
                .filter_map(|(_, list)| *list)
                .collect();
            for slot in ProtocolSlot::ALL {
                let used = used
                    .iter()
                    .map(|list| (*list, lists.items()[*list as usize]));
                for (span, held_by) in sweep(slot, used) {
                    spans.push((direction, span, signatures.number((direction, held_by))));
                }
            }
        }
        Self {
            list_of_rule,
            signatures: signatures.into_items(),
            spans,
        }
    }
}

/// Cuts a slot where the lists that hold its keys change.
fn sweep<'a>(
    slot: ProtocolSlot,
    lists: impl Iterator<Item = (u32, &'a [PortSpan])>,
) -> Vec<(PortSpan, Vec<u32>)> {
    let last_key = slot.last_table_key();
    // What begins and what has ended at each key; behind the last key nothing matters.
    let mut edges: BTreeMap<u16, Vec<(u32, i32)>> = BTreeMap::new();
    edges.entry(0).or_default();
    for (list, spans) in lists {
        for span in spans
            .iter()
            .filter(|span| span.slot == slot && span.first <= last_key)
        {
            edges.entry(span.first).or_default().push((list, 1));
            if span.last < last_key {
                edges.entry(span.last + 1).or_default().push((list, -1));
            }
        }
    }
    let mut open: BTreeMap<u32, i32> = BTreeMap::new();
    let mut pieces = Vec::with_capacity(edges.len());
    let mut steps = edges.into_iter().peekable();
    while let Some((first, changes)) = steps.next() {
        for (list, change) in changes {
            *open.entry(list).or_default() += change;
        }
        open.retain(|_, count| *count > 0);
        let last = steps.peek().map_or(last_key, |(next, _)| next - 1);
        pieces.push((
            PortSpan { slot, first, last },
            open.keys().copied().collect(),
        ));
    }
    pieces
}
