//! What the tables say of a flow, and who opened one of which the beginning was not seen.

use crate::{
    decide::{Judge, has_ports},
    headers::slot_of_protocol,
    layout::{Address, Direction, FlowKey, FlowRecord, MatrixCell, Opener, Ruling, WORLD},
    tables::{FamilyTables, Tables},
};

/// The first of the ports that systems give to clients: Linux from 32768 on, others from 49152 on (RFC
/// 6335).
const CLIENT_PORTS: u16 = 32_768;
/// Ports below are of servers, and those from the second on are of anybody. Between them are those that some
/// clients take to show that they are privileged (NFS, rsh).
const SERVER_PORTS: u16 = 512;
const USER_PORTS: u16 = 1_024;

impl<T: Tables> Judge<'_, T> {
    /// Who has opened a connection of which only the middle is seen, as far as its ports tell: an end whose
    /// port is one of those that systems give to clients, or one that called a server's.
    #[inline(always)]
    pub(super) fn opener_by_ports<A: Copy>(&self, key: &FlowKey<A>) -> Opener {
        let (remote, local) = (key.remote_port, key.local_port);
        let calls = |from: u16, to: u16| {
            from >= CLIENT_PORTS && to < CLIENT_PORTS || from >= USER_PORTS && to < SERVER_PORTS
        };
        if calls(remote, local) {
            Opener::Remote
        } else if calls(local, remote) {
            Opener::Local
        } else {
            Opener::Unknown
        }
    }

    /// The cell of a flow that one end opens. Where there are ports the opener tells the service.
    #[inline(always)]
    pub(super) fn opened_from<A: Address>(
        &self,
        key: &FlowKey<A>,
        opened: Direction,
        service: u16,
    ) -> MatrixCell
    where
        T: FamilyTables<A>,
    {
        let service = match opened {
            _ if !has_ports(key.protocol) => service,
            Direction::Ingress => key.local_port,
            Direction::Egress => key.remote_port,
        };
        self.ruling(opened, key, service)
    }

    /// The cell of a flow that is judged again. Of one whose opener is not known for certain both orientations
    /// have to be allowed, or whoever sends what the host's stack drops would choose the one that is. What
    /// lies below every policy, such as the way to the controller, is allowed in its one.
    #[inline(never)]
    pub(super) fn again<A: Address>(&self, key: &FlowKey<A>, record: FlowRecord) -> MatrixCell
    where
        T: FamilyTables<A>,
    {
        let opener = record.judged_as();
        let service = record.service();
        let inward = self.opened_from(key, Direction::Ingress, service);
        if opener == Opener::Remote {
            return inward;
        }
        let outward = self.opened_from(key, Direction::Egress, service);
        if opener == Opener::Local {
            return outward;
        }
        let below_policy = |ruling: Ruling| ruling.allows() && ruling.is_strict();
        if below_policy(inward.enforced) {
            inward
        } else if below_policy(outward.enforced) || !outward.enforced.allows() {
            outward
        } else if !inward.enforced.allows() || !inward.staged.allows() {
            inward
        } else {
            outward
        }
    }

    /// The cell of a connection that is seen for the first time in its middle: of either orientation where its
    /// ports do not tell.
    #[inline(always)]
    pub(super) fn from_the_middle<A: Address>(
        &self,
        key: &FlowKey<A>,
        opener: Opener,
        service: u16,
    ) -> MatrixCell
    where
        T: FamilyTables<A>,
    {
        if opener != Opener::Local {
            let cell = self.opened_from(key, Direction::Ingress, service);
            if opener == Opener::Remote || cell.enforced.allows() {
                return cell;
            }
        }
        self.opened_from(key, Direction::Egress, service)
    }

    /// The cell of a flow: two class reads and one of the matrix, however many rules there are.
    #[inline(never)]
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
