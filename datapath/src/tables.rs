//! What a verdict looks up. The kernel programs implement these on BPF maps, [`crate::memory`] on
//! Rust collections.

use core::ops::{Deref, DerefMut};

use crate::{
    headers::Headers,
    layout::{
        Address, DeniedFlow, Direction, Event, FirstFragment, Flow, FlowKey, FragmentKey, Ipv4,
        Ipv6, MatrixCell, Settings, Shared, UnparsedKey, UnparsedSum,
    },
    reason::Reason,
};

/// The tables that do not depend on the address family.
pub trait Tables: FamilyTables<Ipv4> + FamilyTables<Ipv6> {
    /// A sum in the table, to be changed in place.
    type UnparsedRef<'a>: Deref<Target = UnparsedSum>
    where
        Self: 'a;

    /// The live generation; `None` before the first one.
    fn generation(&self) -> Option<u32>;
    /// What holds for a generation.
    fn settings(&self, generation: u32) -> Option<&Settings>;
    /// The class of a peer in a generation.
    fn peer_class(&self, generation: u32, peer: u32) -> Option<u32>;
    /// The class of a key in a generation.
    fn port_class(&self, generation: u32, direction: Direction, slot: u32, key: u16)
    -> Option<u16>;
    /// The cell at an offset of a generation's matrix.
    fn cell(&self, generation: u32, offset: u32) -> Option<MatrixCell>;
    /// Counts a packet that a rule decided alone.
    fn count_rule(&self, generation: u32, rule: u32, bytes: u32);
    /// Counts a packet under a reason.
    fn count_reason(&self, reason: Reason, bytes: u32);
    /// A bucket of [`crate::layout::budget`].
    fn budget(&self, index: u32) -> Option<&Shared<u64>>;
    /// The events that this CPU could not hand over since the last one that it could.
    fn losses(&self) -> Option<&Shared<u64>>;
    /// The sum of packets that no rule has judged.
    fn unparsed(&self, key: &UnparsedKey) -> Option<Self::UnparsedRef<'_>>;
    /// Makes or replaces it.
    fn insert_unparsed(&self, key: &UnparsedKey, sum: &UnparsedSum);
    /// Hands an event to user space; false when it was lost.
    fn report(&self, event: &Event) -> bool;
}

/// Which headers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Its own.
    Own,
    /// Those of the packet that an ICMP error quotes.
    Quoted,
}

/// The tables of one address family.
pub trait FamilyTables<A: Address> {
    /// A flow in the table, to be changed in place.
    type FlowRef<'a>: Deref<Target = Flow>
    where
        Self: 'a;
    /// A denied flow in the table, to be changed in place.
    type DeniedRef<'a>: Deref<Target = DeniedFlow>
    where
        Self: 'a;

    /// A first fragment in the table, to be changed in place.
    type FragmentRef<'a>: Deref<Target = FirstFragment>
    where
        Self: 'a;

    /// Room for headers.
    type HeadersRef<'a>: DerefMut<Target = Headers<A>>
    where
        Self: 'a;

    /// Room to read a packet's headers into, whatever it holds. The kernel's verifier forgets what it has
    /// seen of a value that is kept there, and so follows what comes after once, and not for each way in
    /// which headers are read.
    fn headers(&self, of: Whose) -> Option<Self::HeadersRef<'_>>;
    /// The flow of a key.
    fn flow(&self, key: &FlowKey<A>) -> Option<Self::FlowRef<'_>>;
    /// Makes or replaces a flow; false when the table did not take it.
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow) -> bool;
    /// The peer of an exact address.
    fn exact_peer(&self, address: &A) -> Option<u32>;
    /// The peer of the longest subnet that holds the address.
    fn subnet_peer(&self, address: &A) -> Option<u32>;
    /// What is known of a flow that was denied.
    fn denied(&self, key: &FlowKey<A>) -> Option<Self::DeniedRef<'_>>;
    /// Makes or replaces it.
    fn insert_denied(&self, key: &FlowKey<A>, denied: &DeniedFlow);
    /// The first fragment of a key.
    fn first_fragment(&self, key: &FragmentKey<A>) -> Option<Self::FragmentRef<'_>>;
    /// Makes or replaces it.
    fn insert_first_fragment(&self, key: &FragmentKey<A>, first: &FirstFragment);
}
