//! The verdict of one packet.
//!
//! A packet is judged by the one generation that is live when it arrives. A flow that this
//! generation has judged already passes by one lookup; all else asks the tables: peer of the
//! address, class of the peer, class of the port, cell of the matrix. The only path that returns
//! [`Verdict::Pass`] is the one that decided "allow".

use crate::{
    headers::{self, Headers, Link, Network, protocol, slot_of_protocol, tcp_flag},
    layout::{
        Address, DeniedFlow, Direction, Event, Flow, FlowKey, Ipv4, Ipv6, MatrixCell, Ruling,
        Shared, WORLD, event_kind, flow_state,
    },
    packet::Packet,
    reason::Reason,
    tables::{FamilyTables, Tables},
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

/// How long a flow lives without a packet that passes, in nanoseconds.
const fn timeout(protocol: u8, state: u8) -> u64 {
    match (protocol, state) {
        (protocol::TCP, flow_state::NEW) => 60 * SECOND,
        (protocol::TCP, flow_state::ESTABLISHED) => 6 * 3600 * SECOND,
        (protocol::TCP, flow_state::CLOSING) => 120 * SECOND,
        // Longer than a sender keeps trying: Linux gives up after 924 s (tcp_retries2).
        (protocol::TCP, _) => 1800 * SECOND,
        (_, flow_state::NEW) => 30 * SECOND,
        (_, _) => 180 * SECOND,
    }
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
        bytes: packet.len(),
    };
    let outcome = match headers::link(packet) {
        Ok(Link::Ipv4(at)) => judge.network::<Ipv4, P>(packet, at),
        Ok(Link::Ipv6(at)) => judge.network::<Ipv6, P>(packet, at),
        Ok(Link::Arp) => Ok(Reason::Neighbour),
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

/// Why a packet passes, or why it is dropped.
type Outcome = Result<Reason, Reason>;

struct Judge<'a, T> {
    tables: &'a T,
    direction: Direction,
    now: u64,
    bytes: u32,
}

impl<T: Tables> Judge<'_, T> {
    /// A packet with an IP header at an offset.
    #[inline(always)]
    fn network<A: Network, P: Packet + ?Sized>(&self, packet: &P, at: u32) -> Outcome
    where
        T: FamilyTables<A>,
    {
        let headers = A::headers(packet, at, false)?;
        if headers.neighbour {
            return Ok(Reason::Neighbour);
        }
        let generation = self.tables.generation().ok_or(Reason::Tables)?;
        let key = headers.flow_key(self.direction);
        if let Some(flow) = self.tables.flow(&key)
            && !self.expired(&flow, headers.protocol)
            && !self.reopens(&flow, &headers)
        {
            return self.known(generation, &headers, &key, &flow);
        }
        if let Some(inner) = headers.inner
            && let Ok(inner) = A::headers(packet, inner, true)
            && self.related(generation, &inner)
        {
            return Ok(Reason::Related);
        }
        self.unknown(generation, &headers, &key)
    }

    /// A packet of a flow in the table.
    #[inline(always)]
    fn known<A: Address>(
        &self,
        generation: u32,
        headers: &Headers<A>,
        key: &FlowKey<A>,
        flow: &Flow,
    ) -> Outcome
    where
        T: FamilyTables<A>,
    {
        let revoked = flow.state.get() == flow_state::REVOKED;
        if flow.generation.get() != generation || revoked {
            let opened = Direction::from_number(flow.opened);
            let cell = self
                .ruling(generation, opened, &key.remote, key.protocol, flow.service)
                .ok_or(Reason::Tables)?;
            if !cell.enforced.allows() {
                // The entry stays, or the next packet would be taken for one of a connection that
                // was there before the agent. A sender that keeps trying keeps it alive.
                flow.state.set(flow_state::REVOKED);
                flow.generation.set(generation);
                if key.protocol == protocol::TCP {
                    flow.last_seen.set(self.now);
                }
                return self.deny(generation, key, cell.enforced, Reason::Revoked);
            }
            flow.generation.set(generation);
            if revoked {
                flow.state.set(flow_state::ESTABLISHED);
            }
            self.report_allowed(generation, key, cell, false);
        }
        if headers.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0 {
            flow.state.set(flow_state::CLOSING);
        } else if flow.state.get() == flow_state::NEW && flow.opened != self.direction.number() {
            flow.state.set(flow_state::ESTABLISHED);
        }
        // Once a second is fine enough for timeouts, and spares the cache line.
        if self.now.saturating_sub(flow.last_seen.get()) > SECOND {
            flow.last_seen.set(self.now);
        }
        Ok(Reason::Allowed)
    }

    /// A packet that no flow in the table claims.
    #[inline(always)]
    fn unknown<A: Address>(
        &self,
        generation: u32,
        headers: &Headers<A>,
        key: &FlowKey<A>,
    ) -> Outcome
    where
        T: FamilyTables<A>,
    {
        let cell = self
            .ruling(
                generation,
                self.direction,
                &key.remote,
                key.protocol,
                headers.service,
            )
            .ok_or(Reason::Tables)?;
        if cell.enforced.allows() {
            self.report_allowed(generation, key, cell, true);
            return Ok(self.keep(generation, key, self.direction, headers.service));
        }
        // In mid-stream: the agent came after the connection, or its entry made room for others.
        // Who opened it is not known, so either orientation will do; a SYN has no such grace.
        if headers.protocol == protocol::TCP && !headers.has_tcp_flags(tcp_flag::SYN) {
            let opened = self.direction.opposite();
            let service = headers.source_port;
            let reverse = self
                .ruling(generation, opened, &key.remote, key.protocol, service)
                .ok_or(Reason::Tables)?;
            if reverse.enforced.allows() {
                return Ok(self.keep(generation, key, opened, service));
            }
        }
        self.deny(generation, key, cell.enforced, Reason::Policy)
    }

    /// Whether an ICMP error is about a flow that this generation allows.
    #[inline(always)]
    fn related<A: Address>(&self, generation: u32, inner: &Headers<A>) -> bool
    where
        T: FamilyTables<A>,
    {
        let key = inner.flow_key(self.direction.opposite());
        let Some(flow) = self.tables.flow(&key) else {
            return false;
        };
        if self.expired(&flow, key.protocol) || flow.state.get() == flow_state::REVOKED {
            return false;
        }
        let opened = Direction::from_number(flow.opened);
        flow.generation.get() == generation
            || self
                .ruling(generation, opened, &key.remote, key.protocol, flow.service)
                .is_some_and(|cell| cell.enforced.allows())
    }

    /// The cell of a flow: two class reads and one of the matrix, however many rules there are.
    #[inline(always)]
    fn ruling<A: Address>(
        &self,
        generation: u32,
        opened: Direction,
        remote: &A,
        protocol: u8,
        service: u16,
    ) -> Option<MatrixCell>
    where
        T: FamilyTables<A>,
    {
        let peer = match self.tables.exact_peer(remote) {
            Some(peer) => peer,
            None => self.tables.subnet_peer(remote).unwrap_or(WORLD),
        };
        let peer_class = self.tables.peer_class(generation, peer)?;
        let slot = slot_of_protocol(protocol);
        let port_class = self.tables.port_class(generation, opened, slot, service)?;
        let stride = self.tables.settings(generation)?.port_classes;
        let offset = peer_class
            .wrapping_mul(stride)
            .wrapping_add(u32::from(port_class));
        self.tables.cell(generation, offset)
    }

    /// Makes the flow entry of an allowed flow.
    #[inline(always)]
    fn keep<A: Address>(
        &self,
        generation: u32,
        key: &FlowKey<A>,
        opened: Direction,
        service: u16,
    ) -> Reason
    where
        T: FamilyTables<A>,
    {
        let state = if opened == self.direction {
            flow_state::NEW
        } else {
            flow_state::ESTABLISHED
        };
        let flow = Flow {
            last_seen: Shared::new(self.now),
            generation: Shared::new(generation),
            state: Shared::new(state),
            opened: opened.number(),
            service,
        };
        if self.tables.insert_flow(key, &flow) {
            Reason::Allowed
        } else {
            Reason::FlowNotKept
        }
    }

    /// Counts a denied packet under its rule and reports its flow, at most once an interval.
    #[inline(always)]
    fn deny<A: Address>(
        &self,
        generation: u32,
        key: &FlowKey<A>,
        ruling: Ruling,
        reason: Reason,
    ) -> Outcome
    where
        T: FamilyTables<A>,
    {
        self.tables
            .count_rule(generation, ruling.rule(), self.bytes);
        let interval = self
            .tables
            .settings(generation)
            .map_or(SECOND, |s| s.report_interval);
        let packets = match self.tables.denied(key) {
            Some(denied) => {
                let packets = denied.packets.get() + 1;
                if self.now.saturating_sub(denied.reported.get()) < interval {
                    denied.packets.set(packets);
                    return Err(reason);
                }
                denied.reported.set(self.now);
                denied.packets.set(0);
                packets
            }
            None => {
                let denied = DeniedFlow {
                    reported: Shared::new(self.now),
                    packets: Shared::new(0),
                };
                self.tables.insert_denied(key, &denied);
                1
            }
        };
        self.report(generation, key, ruling, reason, event_kind::DENIED, packets);
        Err(reason)
    }

    /// Reports a flow that passes where its staged verdict differs, or its rule asks for it.
    #[inline(always)]
    fn report_allowed<A: Address>(
        &self,
        generation: u32,
        key: &FlowKey<A>,
        cell: MatrixCell,
        opens: bool,
    ) {
        if !cell.staged.allows() {
            self.report(
                generation,
                key,
                cell.staged,
                Reason::Policy,
                event_kind::STAGED,
                1,
            );
        } else if opens && cell.enforced.logs() {
            self.report(
                generation,
                key,
                cell.enforced,
                Reason::Allowed,
                event_kind::LOGGED,
                1,
            );
        }
    }

    #[inline(always)]
    fn report<A: Address>(
        &self,
        generation: u32,
        key: &FlowKey<A>,
        ruling: Ruling,
        reason: Reason,
        kind: u8,
        packets: u64,
    ) {
        let event = Event {
            time: self.now,
            packets,
            generation,
            ruling,
            remote: key.remote.widen(),
            local: key.local.widen(),
            remote_port: key.remote_port,
            local_port: key.local_port,
            protocol: key.protocol,
            family: A::FAMILY,
            direction: self.direction.number(),
            reason: reason as u8,
            kind,
            padding: [0; 7],
        };
        if !self.tables.report(&event) {
            self.tables.count_reason(Reason::EventLost, self.bytes);
        }
    }

    #[inline(always)]
    fn expired(&self, flow: &Flow, protocol: u8) -> bool {
        let idle = self.now.saturating_sub(flow.last_seen.get());
        idle > timeout(protocol, flow.state.get())
    }

    /// A SYN that is not part of the flow it would fall into: from the other end, or after its end.
    #[inline(always)]
    fn reopens<A: Copy>(&self, flow: &Flow, headers: &Headers<A>) -> bool {
        headers.has_tcp_flags(tcp_flag::SYN)
            && !headers.has_tcp_flags(tcp_flag::ACK)
            && (flow.opened != self.direction.number()
                || matches!(flow.state.get(), flow_state::CLOSING | flow_state::REVOKED))
    }
}

#[cfg(test)]
mod tests;
