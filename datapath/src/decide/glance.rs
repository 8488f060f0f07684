//! The first look at a packet, which is all that most of them need.

use crate::{
    decide::{Judge, decision::Outcome, opens},
    headers::{Headers, UNTAGGED, Usual, tcp_flag},
    layout::flow_state,
    packet::Packet,
    reason::Reason,
    tables::{FamilyTables, Tables, Whose},
};

/// What the first look at a packet tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Glance {
    /// It is of an established flow, of which nothing changes: it passes.
    GoesOn,
    /// It is like one that was denied and reported a moment ago: it is dropped, and counted.
    DeniedStill,
    /// Its headers are read. Its flow is in the table, and something about it changes.
    Flow,
    /// Its headers are read. Its flow is not in the table.
    NoFlow,
    /// Nothing: its headers are not read.
    Nothing,
}

impl<T: Tables> Judge<'_, T> {
    /// A packet with an IP header at an offset.
    #[inline(always)]
    pub(super) fn ip<A: Usual, P: Packet + ?Sized>(&self, packet: &P, at: u32) -> Outcome
    where
        T: FamilyTables<A>,
    {
        let glance = if at == UNTAGGED {
            self.glance::<A, P>(packet)
        } else {
            Glance::Nothing
        };
        match glance {
            Glance::GoesOn => return Ok(Reason::Allowed),
            Glance::DeniedStill => return Err(Reason::Policy),
            Glance::Nothing | Glance::Flow | Glance::NoFlow => {}
        }
        let room = FamilyTables::<A>::headers(self.tables, Whose::Own);
        let mut room = room.ok_or(Reason::Tables)?;
        let headers = &mut *room;
        if glance == Glance::Nothing {
            *headers = Headers::UNREAD;
            A::read(packet, at, false, headers)?;
        }
        self.network(packet, headers, glance)
    }

    /// Most packets are of a flow that this generation has judged, and change nothing about it: what
    /// [`known`](Self::known) would find of them is found here with less. So are those of a peer that
    /// keeps trying what it may not.
    #[inline(never)]
    fn glance<A: Usual, P: Packet + ?Sized>(&self, packet: &P) -> Glance
    where
        T: FamilyTables<A>,
    {
        const TURNS: u8 = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
        if self.generation == 0 {
            return Glance::Nothing;
        }
        let Some(headers) = A::usual(packet) else {
            return Glance::Nothing;
        };
        let key = headers.flow_key(self.direction);
        let Some(flow) = self.tables.flow(&key) else {
            if opens(&headers) && self.denies_still(&key) {
                return Glance::DeniedStill;
            }
            return self.read_already(headers, Glance::NoFlow);
        };
        let flow = &*flow;
        let record = flow.record.get();
        if record.generation() != self.generation
            || record.state() != flow_state::ESTABLISHED
            || headers.has_any_tcp_flag(TURNS)
            || self.is_stale(flow)
            || self.expired(flow)
        {
            return self.read_already(headers, Glance::Flow);
        }
        flow.traffic(self.direction).add(self.bytes);
        Glance::GoesOn
    }

    /// Leaves the headers where the rest of the way finds them. Few packets come to this: asking for the room
    /// costs a call.
    #[inline(always)]
    fn read_already<A: Usual>(&self, headers: Headers<A>, glance: Glance) -> Glance
    where
        T: FamilyTables<A>,
    {
        match FamilyTables::<A>::headers(self.tables, Whose::Own) {
            Some(mut room) => {
                *room = headers;
                glance
            }
            None => Glance::Nothing,
        }
    }
}
