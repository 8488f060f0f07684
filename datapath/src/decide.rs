//! The verdict of one packet.
//!
//! A packet is judged by the one generation that is live when it arrives. A flow that this
//! generation has judged already passes by one lookup; all else asks the tables: peer of the
//! address, class of the peer, class of the port, cell of the matrix. The only path that returns
//! [`Verdict::Pass`] is the one that decided "allow".

mod decision;
mod dhcp;
mod fragments;
mod glance;
mod report;
mod rulings;

use crate::{
    decide::{
        decision::{Decision, Found, Note, Outcome},
        glance::Glance,
    },
    headers::{self, Dhcp, Headers, Link, Network, Part, protocol, tcp_flag},
    layout::{
        Address, Direction, Flow, FlowKey, FlowRecord, Ipv4, Ipv6, Opener, Shared, Traffic,
        flow_state, other_ether_types,
    },
    packet::Packet,
    reason::Reason,
    tables::{FamilyTables, Tables, Whose},
};

/// What happens to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next program, or to the stack.
    Pass,
    /// Gone.
    Drop,
}

const SECOND: u64 = 1_000_000_000;

/// Flags with which a TCP connection ends.
const ENDS: u8 = tcp_flag::FIN | tcp_flag::RST;

/// Whether a flow of this protocol has ports, and so two ends that tell which of them opened it.
#[inline(always)]
const fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// Whether a packet would open a flow with ports, so that its key and direction tell all that it asks for.
#[inline(always)]
fn opens<A: Copy>(headers: &Headers<A>) -> bool {
    has_ports(headers.protocol) && (headers.protocol != protocol::TCP || headers.is_opening_syn())
}

/// Judges one packet, counts it, keeps its flow and reports what is denied.
///
/// `now` is in nanoseconds of the monotonic clock.
#[inline(always)]
pub fn decide<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    direction: Direction,
    tables: &T,
    now: u64,
) -> Verdict {
    let judge = Judge {
        tables,
        direction,
        now,
        generation: tables.generation().unwrap_or_default(),
        bytes: packet.len(),
    };
    let outcome = match headers::link(packet) {
        Ok(Link::Ipv4(at)) => judge.ip::<Ipv4, P>(packet, at),
        Ok(Link::Ipv6(at)) => judge.ip::<Ipv6, P>(packet, at),
        Ok(Link::Arp) => Ok(Reason::Neighbour),
        Ok(Link::Control) => Ok(Reason::LinkControl),
        Ok(Link::Other) => judge.other_ether_type(),
        Err(reason) => Err(reason),
    };
    let bytes = judge.bytes;
    match outcome {
        Ok(reason) => {
            if !matches!(reason, Reason::Allowed) {
                tables.count_reason(reason, bytes);
            }
            Verdict::Pass
        }
        Err(reason) => {
            tables.count_reason(reason, bytes);
            Verdict::Drop
        }
    }
}

/// What does not change while a packet is judged.
///
/// Its larger methods are functions of their own in the kernel too, each with its own stack frame: a
/// program has 512 bytes for all that are active at once, and a call takes five arguments.
struct Judge<'a, T> {
    tables: &'a T,
    direction: Direction,
    now: u64,
    /// The generation that judges it; 0 before the first.
    generation: u32,
    bytes: u32,
}

impl<T: Tables> Judge<'_, T> {
    /// A packet whose headers are read.
    #[inline(never)]
    fn network<A: Network, P: Packet + ?Sized>(
        &self,
        packet: &P,
        headers: &mut Headers<A>,
        glance: Glance,
    ) -> Outcome
    where
        T: FamilyTables<A>,
    {
        if headers.neighbour {
            return Ok(Reason::Neighbour);
        }
        if self.generation == 0 {
            return Err(Reason::Tables);
        }
        if headers.part == Part::Later {
            self.follow_first(headers)?;
        }
        let key = headers.flow_key(self.direction);
        let mut decision = if glance == Glance::NoFlow {
            Decision::open(Found::Nothing)
        } else {
            self.known(headers, &key)
        };
        if decision.found != Found::Flow {
            if headers.part == Part::Later {
                return Err(Reason::FragmentOrphan);
            }
            if headers.inner != 0 && self.related(packet, headers) {
                return Ok(Reason::Related);
            }
            self.look_for_dhcp(packet, headers, &key);
            decision = self.unknown(headers, &key, decision.found);
        }
        if headers.part == Part::First {
            self.keep_first(headers, decision.outcome.is_ok());
        }
        if decision.note != Note::Nothing {
            self.conclude(&key, &decision, opens(headers));
        }
        decision.outcome
    }

    /// A packet that is neither IP nor ARP: as the setting says, and dropped before there is one.
    #[inline(always)]
    fn other_ether_type(&self) -> Outcome {
        match self.tables.settings(self.generation) {
            Some(settings)
                if self.generation != 0
                    && settings.other_ether_types == other_ether_types::PASS =>
            {
                Ok(Reason::EtherTypePassed)
            }
            _ => Err(Reason::EtherType),
        }
    }

    /// A packet of a flow in the table.
    #[inline(never)]
    fn known<A: Address>(&self, headers: &Headers<A>, key: &FlowKey<A>) -> Decision
    where
        T: FamilyTables<A>,
    {
        let Some(flow) = self.tables.flow(key) else {
            return Decision::open(Found::Nothing);
        };
        let flow = &*flow;
        if self.forgets(flow, headers) {
            return Decision::open(if self.goes_on(flow) {
                Found::Another
            } else {
                Found::Nothing
            });
        }
        let mut decision = Decision::quiet();
        let generation = self.generation;
        let found = flow.record.get();
        let mut record = found;
        if record.generation() != generation
            || record.state() == flow_state::REVOKED
            || self.expired(flow)
        {
            let cell = self.opened_by(key, record.opener(), record.service());
            if !cell.enforced.allows() {
                // The entry stays, or the next packet would be taken for one of a connection that
                // was there before the agent. One that the opener keeps trying stays fresh.
                flow.record
                    .set(record.with(generation, flow_state::REVOKED));
                if record.opener() == Opener::sender(self.direction) {
                    flow.last_seen.set(self.now);
                    let end = self.end_of(key.protocol, flow_state::REVOKED);
                    flow.expires.set(end);
                }
                return Decision::denied(cell, Reason::Revoked);
            }
            let state = match record.state() {
                flow_state::REVOKED => flow_state::ESTABLISHED,
                state => state,
            };
            record = record.with(generation, state);
            decision = Decision::allowed(cell, false, Reason::Allowed);
        }
        if headers.has_any_tcp_flag(ENDS) {
            record = record.with(generation, flow_state::CLOSING);
        } else if record.state() == flow_state::NEW
            && record.opener() != Opener::sender(self.direction)
        {
            record = record.with(generation, flow_state::ESTABLISHED);
        }
        if record != found || self.is_stale(flow) {
            flow.record.set(record);
            flow.last_seen.set(self.now);
            flow.expires.set(self.end_of(key.protocol, record.state()));
        }
        flow.traffic(self.direction).add(self.bytes);
        decision
    }

    /// A packet that no flow in the table claims.
    #[inline(never)]
    fn unknown<A: Address>(&self, headers: &Headers<A>, key: &FlowKey<A>, found: Found) -> Decision
    where
        T: FamilyTables<A>,
    {
        let sender = Opener::sender(self.direction);
        let service = headers.service;
        match headers.dhcp {
            Dhcp::Nothing => {}
            Dhcp::Request(transaction) => return self.dhcp_request(key, transaction),
            Dhcp::Answer => return self.dhcp_answer(key),
        }
        if found == Found::Nothing
            && opens(headers)
            && let Some(decision) = self.denied_again(key)
        {
            return decision;
        }
        let cell = self.opened_by(key, sender, service);
        if headers.protocol != protocol::TCP || headers.is_opening_syn() {
            return if !cell.enforced.allows() {
                Decision::denied(cell, Reason::Policy)
            } else if found == Found::Another {
                // It passes by itself, and does not make its sender the opener of what goes on.
                Decision::allowed(cell, true, Reason::Allowed)
            } else if has_ports(headers.protocol)
                && headers.protocol != protocol::TCP
                && self.learns()
            {
                // Its first packet may have passed before the agent came.
                let opener = self.opener_before_the_agent(headers, key);
                let reason = self.keep(key, opener, flow_state::ESTABLISHED, service);
                Decision::allowed(cell, false, reason)
            } else {
                let rule = cell.enforced.rule();
                self.tables.count_rule(self.generation, rule, self.bytes);
                let reason = self.keep(key, sender, flow_state::NEW, service);
                Decision::allowed(cell, true, reason)
            };
        }
        // In mid-stream: the agent came after the connection, or its entry made room for others.
        let opener = self.opener_before_the_agent(headers, key);
        let before = self.opened_by(key, opener, service);
        let excepted = cell.enforced.allows() || !cell.enforced.is_strict();
        if before.enforced.allows() && excepted {
            // One that only ends is not remembered as long as one that goes on.
            let state = if headers.has_any_tcp_flag(ENDS) {
                flow_state::CLOSING
            } else {
                flow_state::ESTABLISHED
            };
            let reason = self.keep(key, opener, state, service);
            Decision::allowed(before, false, reason)
        } else {
            Decision::denied(cell, Reason::Policy)
        }
    }

    /// Whether an ICMP error is about a flow that this generation allows, and goes to the end that sent
    /// what it quotes.
    #[inline(always)]
    fn related<A: Network, P: Packet + ?Sized>(&self, packet: &P, error: &Headers<A>) -> bool
    where
        T: FamilyTables<A>,
    {
        let Some(mut room) = FamilyTables::<A>::headers(self.tables, Whose::Quoted) else {
            return false;
        };
        let quoted = &mut *room;
        *quoted = Headers::UNREAD;
        A::read(packet, error.inner, true, quoted).is_ok()
            && quoted.source == error.destination
            && self.is_allowed(quoted)
    }

    /// Whether the flow of a packet that went the other way is in the table, and this generation allows
    /// it.
    #[inline(never)]
    fn is_allowed<A: Address>(&self, quoted: &Headers<A>) -> bool
    where
        T: FamilyTables<A>,
    {
        let key = quoted.flow_key(self.direction.opposite());
        let Some(flow) = self.tables.flow(&key) else {
            return false;
        };
        let record = flow.record.get();
        if self.expired(&flow) || record.state() == flow_state::REVOKED {
            return false;
        }
        record.generation() == self.generation
            || self
                .opened_by(&key, record.opener(), record.service())
                .enforced
                .allows()
    }

    /// The decision about a packet like one that this generation has denied.
    #[inline(always)]
    fn denied_again<A: Address>(&self, key: &FlowKey<A>) -> Option<Decision>
    where
        T: FamilyTables<A>,
    {
        let record = self.tables.denied(key)?.record.get();
        let (ruling, staged_allows) = record.ruling(self.generation, self.direction)?;
        Some(Decision::denied_as(ruling, staged_allows, Reason::Policy))
    }

    /// Makes the flow entry of an allowed flow.
    #[inline(always)]
    fn keep<A: Address>(&self, key: &FlowKey<A>, opener: Opener, state: u8, service: u16) -> Reason
    where
        T: FamilyTables<A>,
    {
        let flow = Flow {
            last_seen: Shared::new(self.now),
            expires: Shared::new(self.end_of(key.protocol, state)),
            record: Shared::new(FlowRecord::new(self.generation, state, opener, service)),
            ingress: Traffic::none(),
            egress: Traffic::none(),
        };
        flow.traffic(self.direction).add(self.bytes);
        if self.tables.insert_flow(key, &flow) {
            Reason::Allowed
        } else {
            Reason::FlowNotKept
        }
    }

    /// Whether it is time to note when a flow was seen: once a second is fine enough for timeouts, and
    /// spares looking them up.
    #[inline(always)]
    fn is_stale(&self, flow: &Flow) -> bool {
        self.now.saturating_sub(flow.last_seen.get()) > SECOND
    }

    #[inline(always)]
    fn expired(&self, flow: &Flow) -> bool {
        self.now > flow.expires.get()
    }

    /// When a flow that has a packet now expires.
    #[inline(always)]
    fn end_of(&self, protocol: u8, state: u8) -> u64 {
        let timeout = match self.tables.settings(self.generation) {
            Some(settings) => settings.timeouts.of(protocol, state),
            None => 0,
        };
        self.now.saturating_add(timeout)
    }

    /// Whether the host may have flows from before the agent.
    #[inline(always)]
    fn learns(&self) -> bool {
        self.tables
            .settings(self.generation)
            .is_some_and(|settings| settings.learns())
    }

    /// Whether a packet that meets a flow in the table is not of it. A TCP connection is over when
    /// another is opened on its ports, however long it was silent: who opened it stays known.
    #[inline(always)]
    fn forgets<A: Copy>(&self, flow: &Flow, headers: &Headers<A>) -> bool {
        if headers.protocol != protocol::TCP {
            return self.expired(flow);
        }
        headers.is_opening_syn()
            && (flow.record.get().opener() != Opener::sender(self.direction) || !self.goes_on(flow))
    }

    /// Whether a flow is of a connection that goes on. A SYN from its other end may pass by itself,
    /// and does not make that end the opener.
    #[inline(always)]
    fn goes_on(&self, flow: &Flow) -> bool {
        let state = flow.record.get().state();
        matches!(state, flow_state::NEW | flow_state::ESTABLISHED) && !self.expired(flow)
    }
}

#[cfg(test)]
mod tests;
