//! The tables on Rust collections: for user space and for tests without root.

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::HashMap,
    hash::Hash,
    rc::Rc,
};

use crate::{
    headers::Headers,
    layout::{
        Address, Counter, DeniedFlow, Direction, Event, FirstFragment, Flow, FlowKey, FragmentKey,
        Ipv4, Ipv6, MatrixCell, PAGE_KEYS, PortPage, Settings, Shared, UnparsedKey, UnparsedSum,
        budget, cell_index, page_index, peer_index, rule_index, slot_of,
    },
    reason::Reason,
    tables::{FamilyTables, Tables, Whose},
};

/// Everything that the kernel maps hold.
#[derive(Debug, Default)]
pub struct MemoryTables {
    /// The live generation; 0 is none.
    pub generation: Cell<u32>,
    /// By slot.
    pub settings: [Option<Settings>; 2],
    /// By [`peer_index`].
    pub peer_classes: HashMap<u32, u32>,
    /// By [`page_index`].
    pub port_pages: HashMap<u32, PortPage>,
    /// By [`cell_index`].
    pub matrix: HashMap<u32, MatrixCell>,
    /// The IPv4 tables.
    pub ipv4: MemoryFamily<Ipv4>,
    /// The IPv6 tables.
    pub ipv6: MemoryFamily<Ipv6>,
    /// By [`rule_index`].
    pub rule_counters: RefCell<HashMap<u32, Counter>>,
    /// By [`Reason`].
    pub reason_counters: RefCell<HashMap<Reason, Counter>>,
    /// Packets that no rule has judged.
    pub unparsed: RefCell<HashMap<UnparsedKey, Rc<UnparsedSum>>>,
    /// What was reported and not taken yet.
    pub events: RefCell<Vec<Event>>,
    /// How many events there is room for; `None` is no bound.
    pub event_room: Option<usize>,
    /// By index in [`budget`].
    pub budgets: Budgets,
    /// Events that could not be handed over since the last that could.
    pub losses: Shared<u64>,
}

/// The buckets that limit events.
#[derive(Debug)]
pub struct Budgets(Vec<Shared<u64>>);

impl Default for Budgets {
    fn default() -> Self {
        Self(vec![Shared::new(0); budget::COUNT as usize])
    }
}

/// The tables of one address family.
#[derive(Debug)]
pub struct MemoryFamily<A> {
    /// Peers by address.
    pub exact: HashMap<A, u32>,
    /// Peers by prefix length and network.
    pub subnets: Vec<(u8, A, u32)>,
    /// Flows.
    pub flows: RefCell<HashMap<FlowKey<A>, Rc<Flow>>>,
    /// Denied flows.
    pub denied: RefCell<HashMap<FlowKey<A>, Rc<DeniedFlow>>>,
    /// First fragments.
    pub fragments: RefCell<HashMap<FragmentKey<A>, Rc<FirstFragment>>>,
    /// Of the packet that is judged, by whose they are.
    headers: [RefCell<Headers<A>>; 2],
}

impl<A: Address> Default for MemoryFamily<A> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            subnets: Vec::new(),
            flows: RefCell::default(),
            denied: RefCell::default(),
            fragments: RefCell::default(),
            headers: [Headers::UNREAD; 2].map(RefCell::new),
        }
    }
}

impl MemoryTables {
    /// Packets counted under a reason.
    pub fn packets(&self, reason: Reason) -> u64 {
        self.reason_counters
            .borrow()
            .get(&reason)
            .map_or(0, |counter| counter.packets)
    }

    /// Packets that a rule of a generation decided alone.
    pub fn rule_packets(&self, generation: u32, rule: u32) -> u64 {
        let index = rule_index(generation, rule);
        self.rule_counters
            .borrow()
            .get(&index)
            .map_or(0, |counter| counter.packets)
    }
}

fn add<K: Eq + Hash>(counters: &RefCell<HashMap<K, Counter>>, key: K, bytes: u32) {
    let mut counters = counters.borrow_mut();
    let counter = counters.entry(key).or_default();
    counter.packets += 1;
    counter.bytes += u64::from(bytes);
}

impl Tables for MemoryTables {
    type UnparsedRef<'a> = Rc<UnparsedSum>;

    fn generation(&self) -> Option<u32> {
        Some(self.generation.get()).filter(|generation| *generation != 0)
    }

    fn settings(&self, generation: u32) -> Option<&Settings> {
        self.settings.get(slot_of(generation) as usize)?.as_ref()
    }

    fn peer_class(&self, generation: u32, peer: u32) -> Option<u32> {
        self.peer_classes
            .get(&peer_index(generation, peer))
            .copied()
    }

    fn port_class(
        &self,
        generation: u32,
        direction: Direction,
        slot: u32,
        key: u16,
    ) -> Option<u16> {
        let page = self
            .port_pages
            .get(&page_index(generation, direction, slot, key))?;
        page.0.get(usize::from(key) % PAGE_KEYS).copied()
    }

    fn cell(&self, generation: u32, offset: u32) -> Option<MatrixCell> {
        self.matrix.get(&cell_index(generation, offset)).copied()
    }

    fn count_rule(&self, generation: u32, rule: u32, bytes: u32) {
        add(&self.rule_counters, rule_index(generation, rule), bytes);
    }

    fn count_reason(&self, reason: Reason, bytes: u32) {
        add(&self.reason_counters, reason, bytes);
    }

    fn budget(&self, index: u32) -> Option<&Shared<u64>> {
        self.budgets.0.get(index as usize)
    }

    fn losses(&self) -> Option<&Shared<u64>> {
        Some(&self.losses)
    }

    fn unparsed(&self, key: &UnparsedKey) -> Option<Rc<UnparsedSum>> {
        self.unparsed.borrow().get(key).cloned()
    }

    fn insert_unparsed(&self, key: &UnparsedKey, sum: &UnparsedSum) {
        self.unparsed
            .borrow_mut()
            .insert(*key, Rc::new(sum.clone()));
    }

    fn report(&self, event: &Event) -> bool {
        let mut events = self.events.borrow_mut();
        let room = self.event_room.is_none_or(|room| events.len() < room);
        if room {
            events.push(*event);
        }
        room
    }
}

/// Whether a network of this many bits holds an address; both in network order.
fn holds(bits: u8, network: &[u8], address: &[u8]) -> bool {
    (0..usize::from(bits)).all(|bit| {
        let mask = 0x80 >> (bit % 8);
        network[bit / 8] & mask == address[bit / 8] & mask
    })
}

macro_rules! family {
    ($address:ty, $field:ident) => {
        impl FamilyTables<$address> for MemoryTables {
            type FlowRef<'a> = Rc<Flow>;
            type DeniedRef<'a> = Rc<DeniedFlow>;
            type FragmentRef<'a> = Rc<FirstFragment>;
            type HeadersRef<'a> = RefMut<'a, Headers<$address>>;

            fn headers(&self, of: Whose) -> Option<RefMut<'_, Headers<$address>>> {
                Some(self.$field.headers[of as usize].borrow_mut())
            }

            fn flow(&self, key: &FlowKey<$address>) -> Option<Rc<Flow>> {
                self.$field.flows.borrow().get(key).cloned()
            }

            fn insert_flow(&self, key: &FlowKey<$address>, flow: &Flow) -> bool {
                self.$field
                    .flows
                    .borrow_mut()
                    .insert(*key, Rc::new(flow.clone()));
                true
            }

            fn exact_peer(&self, address: &$address) -> Option<u32> {
                self.$field.exact.get(address).copied()
            }

            fn subnet_peer(&self, address: &$address) -> Option<u32> {
                let wide = address.widen();
                self.$field
                    .subnets
                    .iter()
                    .filter(|(bits, network, _)| holds(*bits, &network.widen(), &wide))
                    .max_by_key(|(bits, _, _)| *bits)
                    .map(|(_, _, peer)| *peer)
            }

            fn denied(&self, key: &FlowKey<$address>) -> Option<Rc<DeniedFlow>> {
                self.$field.denied.borrow().get(key).cloned()
            }

            fn insert_denied(&self, key: &FlowKey<$address>, denied: &DeniedFlow) {
                self.$field
                    .denied
                    .borrow_mut()
                    .insert(*key, Rc::new(denied.clone()));
            }

            fn first_fragment(&self, key: &FragmentKey<$address>) -> Option<Rc<FirstFragment>> {
                self.$field.fragments.borrow().get(key).cloned()
            }

            fn insert_first_fragment(&self, key: &FragmentKey<$address>, first: &FirstFragment) {
                self.$field
                    .fragments
                    .borrow_mut()
                    .insert(*key, Rc::new(first.clone()));
            }
        }
    };
}

family!(Ipv4, ipv4);
family!(Ipv6, ipv6);
