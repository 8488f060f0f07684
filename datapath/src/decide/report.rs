//! What user space hears of a decision: counters by rule, and events, of a denied flow one an interval.

use crate::{
    decide::{
        Judge, SECOND,
        decision::{Decision, Note},
    },
    headers::protocol,
    layout::{Address, DeniedFlow, Event, FlowKey, Shared, event_kind},
    reason::Reason,
    tables::{FamilyTables, Tables},
};

impl<T: Tables> Judge<'_, T> {
    /// Counts what was denied under its rule, and reports what is to be heard of; whether it did. A
    /// function of the kernel's must return a number: one that returns nothing leaves behind whatever
    /// the register held, and the verifier refuses a pointer.
    #[inline(never)]
    pub(super) fn conclude<A: Address>(&self, key: &FlowKey<A>, decision: &Decision) -> bool
    where
        T: FamilyTables<A>,
    {
        let Decision {
            outcome,
            note,
            found: _,
            ruling,
        } = decision;
        let generation = self.generation;
        let (kind, packets) = match note {
            Note::Nothing => return false,
            Note::Staged => (event_kind::STAGED, 1),
            Note::Logged => (event_kind::LOGGED, 1),
            Note::Denied => {
                self.tables
                    .count_rule(generation, ruling.rule(), self.bytes);
                match self.repeats(key) {
                    Some(packets) => (event_kind::DENIED, packets),
                    None => return false,
                }
            }
        };
        // ICMP keeps other things where others keep ports.
        let (remote_port, local_port) = match key.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => (key.remote_port, key.local_port),
            _ => (0, 0),
        };
        let (Ok(reason) | Err(reason)) = outcome;
        let event = Event {
            time: self.now,
            packets,
            generation,
            ruling: *ruling,
            remote: key.remote.widen(),
            local: key.local.widen(),
            remote_port,
            local_port,
            protocol: key.protocol,
            family: A::FAMILY,
            direction: self.direction.number(),
            reason: *reason as u8,
            kind,
            padding: [0; 7],
        };
        let told = self.tables.report(&event);
        if !told {
            self.tables.count_reason(Reason::EventLost, self.bytes);
        }
        told
    }

    /// The packets that a report of a denied flow stands for; `None` while the last one is fresh.
    #[inline(always)]
    fn repeats<A: Address>(&self, key: &FlowKey<A>) -> Option<u64>
    where
        T: FamilyTables<A>,
    {
        let Some(denied) = self.tables.denied(key) else {
            let denied = DeniedFlow {
                reported: Shared::new(self.now),
                packets: Shared::new(0),
            };
            self.tables.insert_denied(key, &denied);
            return Some(1);
        };
        let interval = self
            .tables
            .settings(self.generation)
            .map_or(SECOND, |s| s.report_interval);
        let packets = denied.packets.get() + 1;
        if self.now.saturating_sub(denied.reported.get()) < interval {
            denied.packets.set(packets);
            return None;
        }
        denied.reported.set(self.now);
        denied.packets.set(0);
        Some(packets)
    }
}
