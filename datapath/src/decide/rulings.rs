//! What the tables say of a flow, and who opened one of which the beginning was not seen.

use crate::{
    decide::{Judge, has_ports},
    headers::{Headers, slot_of_protocol, tcp_flag},
    layout::{Address, Direction, FlowKey, MatrixCell, Opener, Ruling, WORLD},
    tables::{FamilyTables, Tables},
};

/// The first of the ports that systems give to clients: Linux from 32768 on, others from 49152 on (RFC
/// 6335).
const CLIENT_PORTS: u16 = 32_768;

impl<T: Tables> Judge<'_, T> {
    /// Who opened a connection of which only the middle is seen. The acceptor sends SYN and ACK;
    /// otherwise it is the end whose port is the only one of those that systems give to clients.
    #[inline(always)]
    pub(super) fn opener_before_the_agent<A: Copy>(
        &self,
        headers: &Headers<A>,
        key: &FlowKey<A>,
    ) -> Opener {
        if headers.has_tcp_flags(tcp_flag::SYN | tcp_flag::ACK) {
            return Opener::sender(self.direction.opposite());
        }
        match (
            key.remote_port >= CLIENT_PORTS,
            key.local_port >= CLIENT_PORTS,
        ) {
            (true, false) => Opener::Remote,
            (false, true) => Opener::Local,
            _ => Opener::Unknown,
        }
    }

    /// The cell of a flow, by who opened it; either will do where that is not known. Where there are
    /// ports the opener tells the service.
    #[inline(always)]
    pub(super) fn opened_by<A: Address>(
        &self,
        key: &FlowKey<A>,
        opener: Opener,
        service: u16,
    ) -> MatrixCell
    where
        T: FamilyTables<A>,
    {
        let has_ports = has_ports(key.protocol);
        if opener != Opener::Local {
            let service = if has_ports { key.local_port } else { service };
            let cell = self.ruling(Direction::Ingress, key, service);
            if opener == Opener::Remote || cell.enforced.allows() {
                return cell;
            }
        }
        let service = if has_ports { key.remote_port } else { service };
        self.ruling(Direction::Egress, key, service)
    }

    /// The cell of a flow: two class reads and one of the matrix, however many rules there are.
    #[inline(always)]
    pub(super) fn ruling<A: Address>(
        &self,
        opened: Direction,
        key: &FlowKey<A>,
        service: u16,
    ) -> MatrixCell
    where
        T: FamilyTables<A>,
    {
        const NO_ANSWER: MatrixCell = MatrixCell {
            enforced: Ruling::NO_ANSWER,
            staged: Ruling::NO_ANSWER,
        };
        let generation = self.generation;
        let peer = match self.tables.exact_peer(&key.remote) {
            Some(peer) => peer,
            None => self.tables.subnet_peer(&key.remote).unwrap_or(WORLD),
        };
        let Some(peer_class) = self.tables.peer_class(generation, peer) else {
            return NO_ANSWER;
        };
        let slot = slot_of_protocol(key.protocol);
        let Some(port_class) = self.tables.port_class(generation, opened, slot, service) else {
            return NO_ANSWER;
        };
        let Some(settings) = self.tables.settings(generation) else {
            return NO_ANSWER;
        };
        let offset = peer_class
            .wrapping_mul(settings.port_classes)
            .wrapping_add(u32::from(port_class));
        match self.tables.cell(generation, offset) {
            Some(cell) => cell,
            None => NO_ANSWER,
        }
    }
}
