//! Sets of protocols and ports: sorted, merged spans, with a number for each distinct set, so that
//! what was joined or cut once is looked up the next time.

use std::{collections::HashMap, sync::Arc};

use crate::service::{PortSpan, ProtocolSlot, merge};

/// The number of a set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Keys(u32);

impl Keys {
    /// No key.
    pub const NONE: Self = Self(0);
    /// Every key of every protocol.
    pub const EVERY: Self = Self(1);
    /// Those that exist over IPv4.
    const V4: Self = Self(2);
    /// Those that exist over IPv6.
    const V6: Self = Self(3);

    /// Every key of the protocols that exist in a family.
    pub const fn of_family(v4: bool) -> Self {
        if v4 { Self::V4 } else { Self::V6 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Meet,
    Join,
    Minus,
}

/// All sets that were met so far.
pub(crate) struct KeySets {
    numbers: HashMap<Arc<[PortSpan]>, Keys>,
    sets: Vec<Arc<[PortSpan]>>,
    known: HashMap<(Operation, Keys, Keys), Keys>,
}

impl KeySets {
    pub fn new() -> Self {
        let mut new = Self {
            numbers: HashMap::new(),
            sets: Vec::new(),
            known: HashMap::new(),
        };
        let family = |foreign| {
            let mut spans = every();
            spans.retain(|span| span.slot != foreign);
            spans
        };
        // In the order of the constants.
        new.number(Vec::new());
        new.number(every());
        new.number(family(ProtocolSlot::Icmpv6));
        new.number(family(ProtocolSlot::Icmp));
        new
    }

    /// The number of a sorted and merged list.
    pub fn number(&mut self, spans: Vec<PortSpan>) -> Keys {
        if let Some(known) = self.numbers.get(&spans[..]) {
            return *known;
        }
        let number = Keys(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        let spans: Arc<[PortSpan]> = spans.into();
        self.sets.push(Arc::clone(&spans));
        self.numbers.insert(spans, number);
        number
    }

    /// The keys of a set, sorted and merged.
    pub fn spans(&self, keys: Keys) -> &Arc<[PortSpan]> {
        &self.sets[keys.0 as usize]
    }

    /// What is in both.
    pub fn meet(&mut self, a: Keys, b: Keys) -> Keys {
        if a == b || b == Keys::EVERY {
            return a;
        }
        if a == Keys::NONE || b == Keys::NONE {
            return Keys::NONE;
        }
        self.combine(Operation::Meet, a.min(b), a.max(b))
    }

    /// What is in either.
    pub fn join(&mut self, a: Keys, b: Keys) -> Keys {
        if a == b || b == Keys::NONE {
            return a;
        }
        if a == Keys::NONE {
            return b;
        }
        self.combine(Operation::Join, a.min(b), a.max(b))
    }

    /// What is in the first only.
    pub fn minus(&mut self, a: Keys, b: Keys) -> Keys {
        if a == b {
            return Keys::NONE;
        }
        self.combine(Operation::Minus, a, b)
    }

    fn combine(&mut self, operation: Operation, a: Keys, b: Keys) -> Keys {
        if let Some(known) = self.known.get(&(operation, a, b)) {
            return *known;
        }
        let (left, right) = (self.spans(a), self.spans(b));
        let spans = match operation {
            Operation::Meet => meet(left, right),
            Operation::Join => join(left, right),
            Operation::Minus => minus(left, right),
        };
        let number = self.number(spans);
        self.known.insert((operation, a, b), number);
        number
    }
}

/// Every key of every protocol.
pub(crate) fn every() -> Vec<PortSpan> {
    ProtocolSlot::ALL
        .into_iter()
        .map(|slot| PortSpan {
            slot,
            first: 0,
            last: slot.last_key(),
        })
        .collect()
}

/// What is in both of two sorted lists without overlaps.
pub(crate) fn meet(a: &[PortSpan], b: &[PortSpan]) -> Vec<PortSpan> {
    let mut both = Vec::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(left), Some(right)) = (a.get(i), b.get(j)) {
        let (first, last) = (left.first.max(right.first), left.last.min(right.last));
        if left.slot == right.slot && first <= last {
            both.push(PortSpan {
                slot: left.slot,
                first,
                last,
            });
        }
        if (left.slot, left.last) <= (right.slot, right.last) {
            i += 1;
        } else {
            j += 1;
        }
    }
    both
}

/// What is in either of two lists.
pub(crate) fn join(a: &[PortSpan], b: &[PortSpan]) -> Vec<PortSpan> {
    merge([a, b].concat())
}

/// What is in the first of two sorted lists without overlaps only.
pub(crate) fn minus(a: &[PortSpan], b: &[PortSpan]) -> Vec<PortSpan> {
    let mut left = Vec::new();
    let mut j = 0;
    for span in a {
        while b
            .get(j)
            .is_some_and(|cut| (cut.slot, cut.last) < (span.slot, span.first))
        {
            j += 1;
        }
        let mut first = Some(span.first);
        let cuts = b[j..]
            .iter()
            .take_while(|cut| (cut.slot, cut.first) <= (span.slot, span.last));
        for cut in cuts {
            let Some(from) = first else { break };
            if from < cut.first {
                left.push(PortSpan {
                    slot: span.slot,
                    first: from,
                    last: cut.first - 1,
                });
            }
            first = cut.last.checked_add(1);
        }
        if let Some(first) = first.filter(|first| *first <= span.last) {
            left.push(PortSpan {
                slot: span.slot,
                first,
                last: span.last,
            });
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::service::PortKey;

    /// Spans among the first 16 keys of two protocols, and the last ones.
    fn spans() -> impl Strategy<Value = Vec<PortSpan>> {
        let span = (any::<bool>(), any::<bool>(), 0u16..16, 0u16..16).prop_map(
            |(tcp, high, first, last)| {
                let slot = if tcp {
                    ProtocolSlot::Tcp
                } else {
                    ProtocolSlot::Udp
                };
                let shift = if high { u16::MAX - 15 } else { 0 };
                PortSpan {
                    slot,
                    first: first.min(last) + shift,
                    last: first.max(last) + shift,
                }
            },
        );
        proptest::collection::vec(span, 0..6).prop_map(merge)
    }

    fn holds(spans: &[PortSpan], key: PortKey) -> bool {
        spans.iter().any(|span| span.contains(key))
    }

    proptest! {
        #[test]
        fn sets_are_combined_key_by_key(a in spans(), b in spans()) {
            let mut sets = KeySets::new();
            let (left, right) = (sets.number(a.clone()), sets.number(b.clone()));
            let found = [
                sets.meet(left, right),
                sets.join(left, right),
                sets.minus(left, right),
            ]
            .map(|keys| sets.spans(keys).to_vec());
            for slot in [ProtocolSlot::Tcp, ProtocolSlot::Udp] {
                for key in (0..=16).chain(u16::MAX - 16..=u16::MAX) {
                    let key = PortKey { slot, key };
                    let (in_a, in_b) = (holds(&a, key), holds(&b, key));
                    let expected = [in_a && in_b, in_a || in_b, in_a && !in_b];
                    for (spans, expected) in found.iter().zip(expected) {
                        prop_assert_eq!(holds(spans, key), expected, "{} {:?}", key, spans);
                    }
                }
            }
            for spans in &found {
                prop_assert_eq!(&merge(spans.clone()), spans);
            }
        }
    }
}
