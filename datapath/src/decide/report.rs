//! What user space hears of a decision: counters by rule, and events, of a denied flow one an interval.
//!
//! Events have rates: of all, of one peer, of one rule. A rate is kept as the time until which what
//! was reported has used it up (the generic cell rate algorithm, ITU-T I.371). Two CPUs that take
//! from one bucket at once may take as one; what is not reported is counted exactly.

use crate::{
    decide::{
        Judge, SECOND,
        decision::{Decision, Note},
        dhcp,
    },
    headers::protocol,
    layout::{Address, DeniedFlow, DeniedRecord, Event, FlowKey, Shared, budget, event_kind},
    reason::Reason,
    tables::{FamilyTables, Tables},
};

/// How far ahead of its rate anything may be: a second's worth at once.
pub(super) const BURST: u64 = SECOND;
/// The part of all events, and of a rule's, that is left to peers which have not reported for a while.
pub(super) const RESERVE: u64 = BURST / 4;

impl<T: Tables> Judge<'_, T> {
    /// Counts what was denied under its rule, and reports what is to be heard of; whether it did. `opens` when the
    /// packet would open a flow with ports: then all of its kind are denied by this generation. A
    /// function of the kernel's must return a number: one that returns nothing leaves behind whatever
    /// the register held, and the verifier refuses a pointer.
    #[inline(never)]
    pub(super) fn conclude<A: Address>(
        &self,
        key: &FlowKey<A>,
        decision: &Decision,
        opens: bool,
    ) -> bool
    where
        T: FamilyTables<A>,
    {
        let Decision {
            outcome,
            note,
            padding: _,
            ruling,
        } = decision;
        let generation = self.generation;
        let rule = ruling.rule();
        let (kind, packets) = match note {
            Note::Nothing => return false,
            Note::Staged => (event_kind::STAGED, self.one(key, rule)),
            Note::Logged => (event_kind::LOGGED, self.one(key, rule)),
            Note::Denied | Note::DeniedAlone => {
                self.tables.count_rule(generation, rule, self.bytes);
                // What comes to a port of DHCP is judged by what this host has asked meanwhile.
                let record = if opens
                    && !dhcp::has_port(key.protocol, key.remote_port)
                    && !dhcp::has_port(key.protocol, key.local_port)
                {
                    let staged_allows = *note == Note::DeniedAlone;
                    DeniedRecord::new(generation, self.direction, staged_allows, *ruling)
                } else {
                    DeniedRecord::NONE
                };
                (event_kind::DENIED, self.repeats(key, rule, record))
            }
        };
        let Some(packets) = packets else {
            return false;
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
            staged_allows: u8::from(matches!(note, Note::DeniedAlone)),
            ether_type: 0,
            lost: self.lost(),
            interface: 0,
            mac: [0; 6],
            padding: [0; 2],
            zero: 0,
        };
        self.hand_over(&event)
    }

    /// The events that could not be handed over since the last one that could.
    #[inline(always)]
    pub(super) fn lost(&self) -> u32 {
        self.tables.losses().map_or(0, |losses| losses.get() as u32)
    }

    /// Hands an event over; whether it could.
    #[inline(always)]
    pub(super) fn hand_over(&self, event: &Event) -> bool {
        let told = self.tables.report(event);
        if told {
            if let Some(losses) = self.tables.losses() {
                losses.set(0);
            }
        } else {
            self.lose(Reason::EventLost);
        }
        told
    }

    /// An event is not handed over.
    #[inline(always)]
    pub(super) fn lose(&self, reason: Reason) {
        self.tables.count_reason(reason, self.bytes);
        if let Some(losses) = self.tables.losses() {
            losses.set(losses.get() + 1);
        }
    }

    /// Whether a packet that would open a flow is like one that this generation has denied, and is not to be
    /// reported yet: then it is counted and summed.
    #[inline(always)]
    pub(super) fn denies_still<A: Address>(&self, key: &FlowKey<A>) -> bool
    where
        T: FamilyTables<A>,
    {
        let Some(denied) = self.tables.denied(key) else {
            return false;
        };
        let record = denied.record.get();
        let Some((ruling, _)) = record.ruling(self.generation, self.direction) else {
            return false;
        };
        let sums = self.sums(&denied);
        if sums {
            let rule = ruling.rule();
            self.tables.count_rule(self.generation, rule, self.bytes);
        }
        sums
    }

    /// Adds a packet to the sum of its flow, unless it is time to report that.
    #[inline(always)]
    fn sums(&self, denied: &DeniedFlow) -> bool {
        let settings = self.tables.settings(self.generation);
        let interval = settings.map_or(SECOND, |settings| settings.report_interval);
        let is_fresh = self.now.saturating_sub(denied.reported.get()) < interval;
        if is_fresh {
            denied.packets.set(denied.packets.get() + 1);
        }
        is_fresh
    }

    /// One packet, if it may be reported.
    #[inline(always)]
    fn one<A: Address>(&self, key: &FlowKey<A>, rule: u32) -> Option<u64> {
        self.may_report(key, rule).then_some(1)
    }

    /// The packets that a report of a denied flow stands for; `None` while the last one is fresh, and
    /// where the rates are used up. What is not reported now is summed for later.
    #[inline(always)]
    fn repeats<A: Address>(&self, key: &FlowKey<A>, rule: u32, record: DeniedRecord) -> Option<u64>
    where
        T: FamilyTables<A>,
    {
        let Some(denied) = self.tables.denied(key) else {
            let may = self.may_report(key, rule);
            let denied = DeniedFlow {
                reported: Shared::new(self.now),
                packets: Shared::new(u64::from(!may)),
                record: Shared::new(record),
            };
            self.tables.insert_denied(key, &denied);
            return may.then_some(1);
        };
        denied.record.set(record);
        if self.sums(&denied) {
            return None;
        }
        // Once an interval, whether it may or not: what is lost is one event.
        denied.reported.set(self.now);
        let may = self.may_report(key, rule);
        let packets = denied.packets.get() + 1;
        denied.packets.set(if may { 0 } else { packets });
        may.then_some(packets)
    }

    /// Takes an event from the rates of its peer, its rule and all; counted where one of them is used
    /// up. A peer that has not reported for a while finds a part left for it, so that those who are noisy
    /// do not silence it.
    #[inline(never)]
    fn may_report<A: Address>(&self, key: &FlowKey<A>, rule: u32) -> bool {
        let buckets = (
            self.tables.budget(budget::TOTAL),
            self.tables.budget(budget::of_peer(&key.remote)),
            self.tables.budget(budget::of_rule(rule)),
            self.tables.settings(self.generation),
        );
        let (Some(total), Some(peer), Some(rule), Some(settings)) = buckets else {
            self.lose(Reason::EventLimited);
            return false;
        };
        let now = self.now;
        let is_quiet = peer.get() <= now;
        let most = if is_quiet { BURST } else { BURST - RESERVE };
        let used = |bucket: &Shared<u64>| bucket.get().saturating_sub(now);
        if used(total) > most || used(rule) > most || used(peer) > BURST {
            self.lose(Reason::EventLimited);
            return false;
        }
        let take = |bucket: &Shared<u64>, interval: u32| {
            bucket.set(bucket.get().max(now) + u64::from(interval));
        };
        take(total, settings.limits.total);
        take(peer, settings.limits.peer);
        take(rule, settings.limits.rule);
        true
    }
}
