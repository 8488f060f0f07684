//! Fragments: the first one has the headers and is judged by them, later ones follow its flow.
//!
//! Only a first one that passes is kept, so that whoever is denied takes no room. A later one is a packet of
//! its first one's flow: when policy stops allowing the flow between the two, it is cut.

use crate::{
    decide::{Judge, SECOND},
    headers::Headers,
    layout::{Address, FirstFragment, FragmentRecord, Shared},
    reason::Reason,
    tables::{FamilyTables, Tables},
};

/// How long later fragments may follow their first one, in nanoseconds: no host waits longer to put a packet
/// together (RFC 8200, section 4.5).
const LIFETIME: u64 = 60 * SECOND;

impl<T: Tables> Judge<'_, T> {
    /// Gives a later fragment the ports and the protocol of its first one.
    #[inline(never)]
    pub(super) fn follow_first<A: Address>(&self, headers: &mut Headers<A>) -> Result<(), Reason>
    where
        T: FamilyTables<A>,
    {
        let key = headers.fragment_key(self.direction);
        let Some(first) = self.tables.first_fragment(&key) else {
            return Err(Reason::FragmentOrphan);
        };
        let record = first.record.get();
        let age = self.now.saturating_sub(first.seen.get());
        if record == FragmentRecord::VOID || age > LIFETIME {
            return Err(Reason::FragmentOrphan);
        }
        if headers.fragment_edge < record.edge() {
            return Err(Reason::FragmentOverlap);
        }
        headers.protocol = record.protocol();
        headers.echo = record.echo();
        headers.source_port = record.source_port();
        headers.destination_port = record.destination_port();
        Ok(())
    }

    /// Keeps a first fragment that passes. One that does not ends what another of its key has left.
    #[inline(never)]
    pub(super) fn keep_first<A: Address>(&self, headers: &Headers<A>, passes: bool)
    where
        T: FamilyTables<A>,
    {
        let key = headers.fragment_key(self.direction);
        if !passes {
            if let Some(first) = self.tables.first_fragment(&key) {
                first.record.set(FragmentRecord::VOID);
            }
            return;
        }
        let first = FirstFragment {
            seen: Shared::new(self.now),
            record: Shared::new(FragmentRecord::new(
                headers.source_port,
                headers.destination_port,
                headers.protocol,
                headers.echo,
                headers.fragment_edge,
            )),
        };
        self.tables.insert_first_fragment(&key, &first);
    }
}
