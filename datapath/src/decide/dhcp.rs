//! DHCP of this host's own client (RFC 2131, RFC 8415).
//!
//! A request that leaves opens an exchange under its transaction id. An answer is a packet from the
//! servers' port to the clients' port with the id of an open exchange, whoever sends it and to whatever
//! address: servers answer from addresses that the client does not know, and to addresses that it does not
//! have yet. Every other packet between these ports is judged as any other.
//!
//! Exchanges, and the servers that have answered one, are entries of the flow table. Its keys of packets have
//! [`flow_kind::PACKETS`], so that no packet reaches them. No packet of an exchange makes a flow: the next one
//! needs an open exchange again.

use crate::{
    decide::{Judge, SECOND, decision::Decision},
    headers::{Dhcp, Headers, Part, protocol},
    layout::{
        Address, Direction, Flow, FlowKey, FlowRecord, Grounds, Ipv4, MatrixCell, Opener, Shared,
        Traffic, flow_kind, flow_state, local_service,
    },
    packet::Packet,
    reason::Reason,
    tables::{FamilyTables, Tables},
};

/// How long an answer may follow the last request of its exchange: the longest time after which a client of
/// IPv4 sends again (RFC 2131, section 4.1). Every request opens its exchange anew.
const EXCHANGE: u64 = 64 * SECOND;
/// How long a server that has answered may be asked by unicast. Leases are renewed at half their time, and
/// every answer counts anew; a client whose server is forgotten asks by broadcast.
const SERVER: u64 = 30 * 24 * 3600 * SECOND;

/// The ports of IPv4.
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Those of IPv6, to which messages are sent. From which is not laid down, and implementations differ.
const SERVER_PORT_V6: u16 = 547;
const CLIENT_PORT_V6: u16 = 546;

/// What clients of IPv6 send, a bit for each type of message: solicit, request, confirm, renew, rebind, release,
/// decline and information-request.
const REQUESTS_V6: u16 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 11;
/// What they are answered: advertise and reply. A server that asks to be asked (reconfigure) answers nothing.
const ANSWERS_V6: u16 = 1 << 2 | 1 << 7;

/// Where the first options of IPv4 stand, behind the fixed part and its magic cookie.
const OPTIONS: u32 = 240;

/// Whether a packet goes to a port of DHCP. What is denied of these is not remembered as denied: an answer to an
/// exchange that opens later has the same addresses and ports.
#[inline(always)]
pub(super) const fn has_port(number: u8, to: u16) -> bool {
    number == protocol::UDP && (to.wrapping_sub(SERVER_PORT) < 2 || to / 2 == CLIENT_PORT_V6 / 2)
}

const _: () = {
    assert!(CLIENT_PORT == SERVER_PORT + 1 && SERVER_PORT_V6 == CLIENT_PORT_V6 + 1);
    assert!(CLIENT_PORT_V6.is_multiple_of(2));
};

impl<T: Tables> Judge<'_, T> {
    /// Notes in the headers of a packet that no flow claims what it is to this host's DHCP client, and remembers who
    /// answers. It returns the same number whatever it finds: what comes after it, the kernel's verifier then
    /// follows once.
    #[inline(never)]
    pub(super) fn look_for_dhcp<A: Address, P: Packet + ?Sized>(
        &self,
        packet: &P,
        headers: &mut Headers<A>,
        key: &FlowKey<A>,
    ) -> u32
    where
        T: FamilyTables<A>,
    {
        if has_port(headers.protocol, headers.destination_port)
            && headers.payload != 0
            && matches!(headers.part, Part::Whole | Part::Atomic)
            && let Some((is_request, transaction)) = self.message(packet, headers)
        {
            if is_request {
                headers.dhcp = Dhcp::Request(transaction);
            } else if self.remembers(&exchange::<A>(transaction)) {
                headers.dhcp = Dhcp::Answer;
                self.remember_servers(packet, headers, key);
            }
        }
        0
    }

    /// Whether it is a request of a client that goes out, or the answer of a server that comes in, and its
    /// transaction. `None` for all else.
    #[inline(always)]
    fn message<A: Address, P: Packet + ?Sized>(
        &self,
        packet: &P,
        headers: &Headers<A>,
    ) -> Option<(bool, u32)> {
        let goes_out = matches!(self.direction, Direction::Egress);
        let to = headers.destination_port;
        if A::FAMILY == Ipv4::FAMILY {
            let [operation, _, _, _, a, b, c, d] = packet.load_far(headers.payload)?;
            let expected = if goes_out {
                (1, CLIENT_PORT, SERVER_PORT)
            } else {
                (2, SERVER_PORT, CLIENT_PORT)
            };
            let is = (operation, headers.source_port, to) == expected;
            is.then(|| (goes_out, u32::from_be_bytes([a, b, c, d])))
        } else {
            let [kind, a, b, c] = packet.load_far(headers.payload)?;
            let (kinds, port) = if goes_out {
                (REQUESTS_V6, SERVER_PORT_V6)
            } else {
                (ANSWERS_V6, CLIENT_PORT_V6)
            };
            let is = to == port && kind < 16 && kinds >> kind & 1 == 1;
            is.then(|| (goes_out, u32::from_be_bytes([0, a, b, c])))
        }
    }

    /// Remembers who has sent an answer. Behind a relay the server is another, and the lease is to be renewed with
    /// it: its address stands in the second option of nearly all that servers send.
    #[inline(always)]
    fn remember_servers<A: Address, P: Packet + ?Sized>(
        &self,
        packet: &P,
        headers: &Headers<A>,
        key: &FlowKey<A>,
    ) where
        T: FamilyTables<A>,
    {
        self.remember(&server(key.remote), SERVER);
        if A::FAMILY == Ipv4::FAMILY
            && let Some(options) = packet.load_far(headers.payload + OPTIONS)
            && let [53, 1, _, 54, 4, a, b, c, d] = options
            && a < 224
            && let Some(address) = A::from_v4([a, b, c, d])
        {
            self.remember(&server(address), SERVER);
        }
    }

    /// A request leaves if policy allows it, or goes to a server that has answered before.
    #[inline(always)]
    pub(super) fn dhcp_request<A: Address>(&self, key: &FlowKey<A>, transaction: u32) -> Decision
    where
        T: FamilyTables<A>,
    {
        let mut cell = self.ruling(Direction::Egress, key, key.remote_port);
        if !cell.enforced.allows() && self.remembers(&server(key.remote)) {
            let renewal = self.local_service(Direction::Egress, key, local_service::DHCP_RENEWAL);
            if renewal.enforced.allows() {
                cell = renewal;
            }
        }
        if !cell.enforced.allows() {
            return Decision::denied(cell, Reason::Policy);
        }
        let rule = cell.enforced.rule();
        self.tables.count_rule(self.generation, rule, self.bytes);
        let reason = if self.remember(&exchange::<A>(transaction), EXCHANGE) {
            Reason::Allowed
        } else {
            Reason::FlowNotKept
        };
        Decision::allowed(cell, true, reason)
    }

    /// The answer to a request that is open passes if its sender is one who may answer, or if policy allows it as any
    /// other packet.
    #[inline(always)]
    pub(super) fn dhcp_answer<A: Address>(&self, key: &FlowKey<A>) -> Decision
    where
        T: FamilyTables<A>,
    {
        let mut cell = self.local_service(Direction::Ingress, key, local_service::DHCP_ANSWER);
        if !cell.enforced.allows() {
            cell = self.ruling(Direction::Ingress, key, key.local_port);
        }
        if !cell.enforced.allows() {
            return Decision::denied(cell, Reason::Policy);
        }
        let rule = cell.enforced.rule();
        self.tables.count_rule(self.generation, rule, self.bytes);
        Decision::allowed(cell, true, Reason::Allowed)
    }

    /// The cell of what only a host's own rules speak of.
    #[inline(always)]
    fn local_service<A: Address>(
        &self,
        direction: Direction,
        key: &FlowKey<A>,
        service: u16,
    ) -> MatrixCell
    where
        T: FamilyTables<A>,
    {
        let key = FlowKey {
            protocol: local_service::PROTOCOL,
            ..*key
        };
        self.ruling(direction, &key, service)
    }

    #[inline(always)]
    fn remembers<A: Address>(&self, Aligned(key): &Aligned<A>) -> bool
    where
        T: FamilyTables<A>,
    {
        match self.tables.flow(key) {
            Some(entry) => !self.expired(&entry),
            None => false,
        }
    }

    /// Keeps an entry for as long, from now on; false when the table did not take it.
    #[inline(never)]
    fn remember<A: Address>(&self, Aligned(key): &Aligned<A>, lifetime: u64) -> bool
    where
        T: FamilyTables<A>,
    {
        let entry = Flow {
            last_seen: Shared::new(self.now),
            expires: Shared::new(self.now.saturating_add(lifetime)),
            record: Shared::new(FlowRecord::new(
                self.generation,
                flow_state::ESTABLISHED,
                Opener::Local,
                Grounds::Seen,
                0,
            )),
            ingress: Traffic::none(),
            egress: Traffic::none(),
        };
        self.tables.insert_flow(key, &entry)
    }
}

/// A key that begins at a multiple of eight: the verifier takes no store to the stack that is not aligned, and the
/// compiler makes one store of neighbours that are constant.
#[repr(C, align(8))]
struct Aligned<A>(FlowKey<A>);

/// The key of an exchange.
#[inline(always)]
fn exchange<A: Address>(transaction: u32) -> Aligned<A> {
    Aligned(FlowKey {
        remote: A::UNSPECIFIED,
        local: A::UNSPECIFIED,
        remote_port: (transaction >> 16) as u16,
        local_port: transaction as u16,
        protocol: protocol::UDP,
        kind: flow_kind::DHCP_EXCHANGE,
        zeros: 0,
    })
}

/// The key of a server that has answered.
#[inline(always)]
fn server<A: Address>(address: A) -> Aligned<A> {
    Aligned(FlowKey {
        remote: address,
        // Not constant, and so no part of a store that begins in between.
        local: address,
        remote_port: 0,
        local_port: 0,
        protocol: protocol::UDP,
        kind: flow_kind::DHCP_SERVER,
        zeros: 0,
    })
}
