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
mod unparsed;

pub(crate) use self::decision::Found;

use crate::{
    decide::{
        decision::{Decision, Note, Outcome},
        glance::Glance,
    },
    headers::{self, Dhcp, Headers, Link, Network, Part, protocol, tcp_flag},
    layout::{
        Address, Direction, Flow, FlowKey, FlowRecord, Grounds, Ipv4, Ipv6, MatrixCell, Opener,
        Shared, Traffic, flow_state, other_ether_types,
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

/// Whether flows of this protocol are connections, which have a packet of their own to open them.
#[inline(always)]
const fn is_connection(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::SCTP)
}

/// Whether a packet would open a flow with ports, so that its key and direction tell all that it asks for.
#[inline(always)]
fn opens<A: Copy>(headers: &Headers<A>) -> bool {
    headers.protocol == protocol::UDP || headers.is_opening_syn()
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
            // What a rule has denied is reported with its flow.
            if !matches!(reason, Reason::Policy | Reason::Revoked) {
                judge.tell_unparsed(packet, reason);
            }
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
        headers.found = Found::Nothing;
        let mut decision = if glance == Glance::NoFlow {
            Decision::quiet()
        } else {
            self.known(headers, &key)
        };
        if headers.found != Found::Flow {
            if headers.part == Part::Later {
                return Err(Reason::FragmentOrphan);
            }
            if headers.inner != 0 && self.related(packet, headers) {
                return Ok(Reason::Related);
            }
            self.look_for_dhcp(packet, headers, &key);
            decision = self.unknown(headers, &key);
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

    /// A packet of a flow in the table. Where there is none that it is of, `found` says so.
    #[inline(never)]
    fn known<A: Address>(&self, headers: &mut Headers<A>, key: &FlowKey<A>) -> Decision
    where
        T: FamilyTables<A>,
    {
        let Some(flow) = self.tables.flow(key) else {
            return Decision::quiet();
        };
        let flow = &*flow;
        if self.forgets(flow, headers) {
            return Decision::quiet();
        }
        if self.direction == Direction::Egress && headers.is_accepting() {
            self.accept(flow);
        }
        let mut decision = Decision::quiet();
        let generation = self.generation;
        let found = flow.record.get();
        let mut record = found;
        let is_judged = record.generation() == generation && record.state() != flow_state::REVOKED;
        if !is_judged {
            let cell = self.again(key, record);
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
        record = self.moves_on(flow, record, headers);
        if record != found || self.is_stale(flow) {
            flow.record.set(record);
            flow.last_seen.set(self.now);
            flow.expires.set(self.end_of(key.protocol, record.state()));
        }
        flow.traffic(self.direction).add(self.bytes);
        decision
    }

    /// Changes what is known of a flow when the host's stack accepts a connection: it takes none from the other
    /// end while it has one on these ports. Where it has sent a SYN itself and not gone on from there, both
    /// ends open it (RFC 9293, simultaneous open). Then, and where it was not the other end that this generation
    /// has let open it, the flow is to be judged again. A function of the kernel's must return a number.
    #[inline(never)]
    fn accept(&self, flow: &Flow) -> bool {
        let record = flow.record.get();
        let is_new = record.state() == flow_state::NEW;
        let is_revoked = record.state() == flow_state::REVOKED;
        let opens = record.grounds() == Grounds::Seen && record.opener() != Opener::Remote;
        let (opener, state) = if opens && is_new && !self.expired(flow) {
            (Opener::Both, flow_state::NEW)
        } else if is_revoked {
            (Opener::Remote, flow_state::REVOKED)
        } else {
            (Opener::Remote, flow_state::ESTABLISHED)
        };
        let is_asked_for =
            record.opener() == Opener::Remote && (record.grounds() == Grounds::Seen || is_new);
        let generation = if is_asked_for { record.generation() } else { 0 };
        let accepted = record
            .with(generation, state)
            .opened_by(opener, Grounds::Seen);
        flow.record.set(accepted);
        // Its timeout is another now.
        flow.last_seen.set(0);
        is_asked_for
    }

    /// The state of a flow after a packet of it. A handshake is over when the host goes on from it: what comes in may be
    /// forged, and the stack ignores it then. So may be a FIN or a RST: when both ends go on after a while
    /// of silence, the connection does.
    #[inline(never)]
    fn moves_on<A: Copy>(
        &self,
        flow: &Flow,
        record: FlowRecord,
        headers: &Headers<A>,
    ) -> FlowRecord {
        const BOTH: u8 = 3;
        let generation = self.generation;
        let is_new = record.state() == flow_state::NEW;
        let ends = headers.has_any_tcp_flag(ENDS);
        if is_new {
            let is_over = if is_connection(headers.protocol) {
                self.direction == Direction::Egress
                    && headers.is_mid_stream()
                    && !headers.has_any_tcp_flag(tcp_flag::RST)
            } else {
                record.opener() != Opener::sender(self.direction)
            };
            if !is_over {
                return record;
            }
        }
        if ends {
            record.with(generation, flow_state::CLOSING)
        } else if is_new {
            record.with(generation, flow_state::ESTABLISHED)
        } else if record.state() == flow_state::CLOSING
            && (record.resumed() != 0 || self.is_stale(flow))
        {
            let resumed = record.resumed() | 1 << self.direction.number();
            if resumed == BOTH {
                record.with(generation, flow_state::ESTABLISHED)
            } else {
                record.with_resumed(resumed)
            }
        } else {
            record
        }
    }

    /// A packet that no flow in the table claims.
    #[inline(never)]
    fn unknown<A: Address>(&self, headers: &Headers<A>, key: &FlowKey<A>) -> Decision
    where
        T: FamilyTables<A>,
    {
        let found = headers.found;
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
        let cell = self.opened_from(key, self.direction, service);
        let learns = self.learns();
        let is_connection = is_connection(headers.protocol);
        let is_first = if is_connection {
            headers.is_opening_syn()
        } else {
            found != Found::Learned
        };
        if is_first {
            if !cell.enforced.allows() {
                return Decision::denied(cell, Reason::Policy);
            }
            if found == Found::Another {
                // It passes by itself, and does not make its sender the opener of what goes on.
                return Decision::allowed(cell, true, Reason::Allowed);
            }
            if !learns || is_connection || !has_ports(headers.protocol) {
                let rule = cell.enforced.rule();
                self.tables.count_rule(self.generation, rule, self.bytes);
                // A datagram opens a flow by itself. A connection is only asked for from outside, until the
                // host accepts it.
                let is_seen = !is_connection || sender == Opener::Local || found == Found::Over;
                let grounds = if is_seen {
                    Grounds::Seen
                } else {
                    Grounds::Guessed
                };
                let reason = self.keep(key, flow_state::NEW, sender, grounds, service);
                return Decision::allowed(cell, true, reason);
            }
        }
        let is_tcp = headers.protocol == protocol::TCP;
        // The host has accepted what the other end opened.
        let accepts = sender == Opener::Local && headers.is_accepting();
        let is_graced = accepts || headers.is_mid_stream() || learns && headers.is_accepting();
        if is_tcp && !is_graced {
            return self.out_of_turn(headers, key, cell);
        }
        // In mid-stream: the agent came after the connection, or its entry made room for others.
        let (opener, grounds) = if accepts {
            (Opener::Remote, Grounds::Seen)
        } else if learns {
            (self.opener_by_ports(key), Grounds::Learned)
        } else {
            (self.opener_by_ports(key), Grounds::Guessed)
        };
        let before = if is_tcp || accepts || found == Found::Learned {
            self.mid_stream_cell(key, opener, service)
        } else {
            cell
        };
        let excepted = cell.enforced.allows() || !cell.enforced.is_strict();
        if before.enforced.allows() && excepted {
            // One that only ends is not remembered as long as one that goes on.
            let state = if headers.has_any_tcp_flag(ENDS) {
                flow_state::CLOSING
            } else {
                flow_state::ESTABLISHED
            };
            let reason = self.keep(key, state, opener, grounds, service);
            Decision::allowed(before, false, reason)
        } else if cell.enforced.allows() {
            Decision::denied(before, Reason::Policy)
        } else {
            Decision::denied(cell, Reason::Policy)
        }
    }

    /// A TCP segment without a flow that neither opens one nor is of the middle of one. None that is sent after
    /// a handshake lacks ACK, but a RST that tells of no connection; and an answer to a SYN that nobody has sent
    /// is none. Whoever scans hears nothing.
    #[inline(always)]
    fn out_of_turn<A: Address>(
        &self,
        headers: &Headers<A>,
        key: &FlowKey<A>,
        cell: MatrixCell,
    ) -> Decision
    where
        T: FamilyTables<A>,
    {
        if !cell.enforced.allows() {
            Decision::denied(cell, Reason::Policy)
        } else if headers.is_bare_reset() {
            let sender = Opener::sender(self.direction);
            let (state, grounds) = (flow_state::CLOSING, Grounds::Guessed);
            let reason = self.keep(key, state, sender, grounds, headers.service);
            Decision::allowed(cell, false, reason)
        } else {
            Decision::dropped(Reason::TcpFlags)
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
        record.generation() == self.generation || self.again(&key, record).enforced.allows()
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
    fn keep<A: Address>(
        &self,
        key: &FlowKey<A>,
        state: u8,
        opener: Opener,
        grounds: Grounds,
        service: u16,
    ) -> Reason
    where
        T: FamilyTables<A>,
    {
        let record = FlowRecord::new(self.generation, state, opener, grounds, service);
        self.keep_as(key, record)
    }

    #[inline(never)]
    fn keep_as<A: Address>(&self, key: &FlowKey<A>, record: FlowRecord) -> Reason
    where
        T: FamilyTables<A>,
    {
        let flow = Flow {
            last_seen: Shared::new(self.now),
            expires: Shared::new(self.end_of(key.protocol, record.state())),
            record: Shared::new(record),
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

    /// Whether a packet that meets a flow in the table is not of it.
    #[inline(never)]
    fn forgets<A: Copy>(&self, flow: &Flow, headers: &mut Headers<A>) -> bool {
        headers.found = self.find(flow, headers).unwrap_or(Found::Flow);
        headers.found != Found::Flow
    }

    /// What is found where a packet that meets a flow in the table is not of it. A connection is over when
    /// another is opened on its ports, however long it was silent: who opened it stays known.
    #[inline(always)]
    fn find<A: Copy>(&self, flow: &Flow, headers: &Headers<A>) -> Option<Found> {
        let record = flow.record.get();
        let is_of_now = record.generation() == self.generation;
        if !is_connection(headers.protocol) {
            return match record.grounds() {
                _ if self.expired(flow) => Some(Found::Nothing),
                // The other end has sent a reply that nobody had asked for.
                _ if headers.is_echo_request()
                    && record.opener() != Opener::sender(self.direction) =>
                {
                    Some(Found::Nothing)
                }
                Grounds::Learned if !is_of_now => Some(Found::Learned),
                // Nobody knows who opened it: whoever sends opens it now.
                Grounds::Guessed if !is_of_now => Some(Found::Nothing),
                _ => None,
            };
        }
        let is_seen = record.grounds() == Grounds::Seen;
        if headers.is_opening_syn() {
            let is_its_own = record.opener() == Opener::sender(self.direction);
            let goes_on = self.goes_on(flow);
            return match self.direction {
                // The host opens another, whatever there was, unless it only tries again.
                Direction::Egress => {
                    let tries_again =
                        is_its_own && is_seen && goes_on && record.state() == flow_state::NEW;
                    (!tries_again).then_some(Found::Nothing)
                }
                Direction::Ingress if is_its_own && goes_on && (is_seen || is_of_now) => None,
                Direction::Ingress if is_its_own && is_seen => Some(Found::Over),
                // Whether it opens anything, the host's answer tells.
                Direction::Ingress => Some(Found::Another),
            };
        }
        if record.grounds() == Grounds::Learned && !is_of_now {
            return Some(Found::Learned);
        }
        None
    }

    /// Whether a flow is of a connection that goes on.
    #[inline(always)]
    fn goes_on(&self, flow: &Flow) -> bool {
        let state = flow.record.get().state();
        matches!(state, flow_state::NEW | flow_state::ESTABLISHED) && !self.expired(flow)
    }
}

#[cfg(test)]
mod tests;
