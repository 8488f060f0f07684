//! The tables of a verdict on BPF maps.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ktime_get_ns,
    maps::{PerCpuArray, lpm_trie::Key},
};
use datapath::{
    Direction, FamilyTables, Reason, Tables, Whose,
    headers::Headers,
    layout::{
        Counter, DeniedFlow, Event, FirstFragment, Flow, FlowKey, FragmentKey, Ipv4, Ipv6,
        MatrixCell, PAGE_KEYS, Settings, Shared, UnparsedKey, UnparsedSum, cell_index, page_index,
        peer_index, rule_index, slot_of,
    },
};

use crate::maps;

/// The maps of this host.
pub struct KernelTables;

#[inline(always)]
fn add(counters: &PerCpuArray<Counter>, index: u32, bytes: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the pointer is to this CPU's value, which nothing else on this CPU changes while
        // the program runs.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}

impl Tables for KernelTables {
    type UnparsedRef<'a> = &'a UnparsedSum;

    #[inline(always)]
    fn generation(&self) -> Option<u32> {
        let generation = maps::GENERATION.get_ptr(0)?;
        // Read once: the flip may come while this packet is judged.
        // SAFETY: array values live as long as the map and are aligned.
        let generation = unsafe { generation.read_volatile() };
        (generation != 0).then_some(generation)
    }

    #[inline(always)]
    fn settings(&self, generation: u32) -> Option<&Settings> {
        maps::SETTINGS.get(slot_of(generation))
    }

    #[inline(always)]
    fn peer_class(&self, generation: u32, peer: u32) -> Option<u32> {
        maps::PEER_CLASSES
            .get(peer_index(generation, peer))
            .copied()
    }

    #[inline(always)]
    fn port_class(
        &self,
        generation: u32,
        direction: Direction,
        slot: u32,
        key: u16,
    ) -> Option<u16> {
        let page = maps::PORT_PAGES.get(page_index(generation, direction, slot, key))?;
        page.0.get(usize::from(key) % PAGE_KEYS).copied()
    }

    #[inline(always)]
    fn cell(&self, generation: u32, offset: u32) -> Option<MatrixCell> {
        maps::MATRIX.get(cell_index(generation, offset)).copied()
    }

    #[inline(always)]
    fn count_rule(&self, generation: u32, rule: u32, bytes: u32) {
        add(&maps::RULE_COUNTERS, rule_index(generation, rule), bytes);
    }

    #[inline(always)]
    fn count_reason(&self, reason: Reason, bytes: u32) {
        add(&maps::REASON_COUNTERS, reason as u32, bytes);
    }

    #[inline(always)]
    fn budget(&self, index: u32) -> Option<&Shared<u64>> {
        maps::BUDGETS.get(index)
    }

    #[inline(always)]
    fn losses(&self) -> Option<&Shared<u64>> {
        maps::LOSSES.get(0)
    }

    #[inline(always)]
    fn unparsed(&self, key: &UnparsedKey) -> Option<&UnparsedSum> {
        let sum = maps::UNPARSED.get_ptr(key);
        // SAFETY: as for flows.
        sum.map(|sum| unsafe { &*sum })
    }

    #[inline(always)]
    fn insert_unparsed(&self, key: &UnparsedKey, sum: &UnparsedSum) {
        // A full table evicts; what cannot be kept is only reported more often.
        let _ = maps::UNPARSED.insert(key, sum, 0);
    }

    #[inline(always)]
    fn report(&self, event: &Event) -> bool {
        let Some(mut entry) = maps::EVENTS.reserve::<Event>(0) else {
            return false;
        };
        let entry_event = entry.write(*event);
        // What people read is of the clock that they have.
        // SAFETY: the helper has no precondition.
        entry_event.time = unsafe { bpf_ktime_get_ns() };
        // Waking the reader costs more than all else together, and it looks by itself often enough:
        // it is woken only when the ring fills faster than that.
        let wake = if maps::EVENTS.query(u64::from(BPF_RB_AVAIL_DATA))
            < u64::from(maps::EVENT_BYTES / 2)
        {
            BPF_RB_NO_WAKEUP
        } else {
            BPF_RB_FORCE_WAKEUP
        };
        entry.submit(u64::from(wake));
        true
    }
}

/// A trie's key whose address begins at a multiple of eight: the verifier takes no store to the stack that is
/// not aligned.
#[repr(C, align(8))]
struct AlignedKey<A> {
    _unused: u32,
    key: Key<A>,
}

macro_rules! family {
    ($address:ty, $bits:expr, $peers:ident, $subnets:ident, $flows:ident, $denied:ident, $fragments:ident, $headers:ident) => {
        impl FamilyTables<$address> for KernelTables {
            type FlowRef<'a> = &'a Flow;
            type DeniedRef<'a> = &'a DeniedFlow;
            type FragmentRef<'a> = &'a FirstFragment;
            type HeadersRef<'a> = &'a mut Headers<$address>;

            #[inline(always)]
            fn headers(&self, of: Whose) -> Option<&mut Headers<$address>> {
                let headers = maps::$headers.get_ptr_mut(of as u32);
                // SAFETY: the pointer is to this CPU's value, which nothing else on this CPU changes
                // while the program runs; a verdict holds each of the two once at a time. The map begins
                // with zeros, which are a value of each field.
                headers.map(|headers| unsafe { &mut *headers })
            }

            #[inline(always)]
            fn flow(&self, key: &FlowKey<$address>) -> Option<&Flow> {
                // SAFETY: the memory lives as long as the map, and its fields are cells of plain
                // integers, which other CPUs may change under us. A full table may give the entry
                // to another flow meanwhile: for that moment the record is the other flow's.
                maps::$flows.get_ptr(key).map(|flow| unsafe { &*flow })
            }

            #[inline(always)]
            fn insert_flow(&self, key: &FlowKey<$address>, flow: &Flow) -> bool {
                maps::$flows.insert(key, flow, 0).is_ok()
            }

            #[inline(always)]
            fn exact_peer(&self, address: &$address) -> Option<u32> {
                // SAFETY: a word, read once.
                maps::$peers.get_ptr(address).map(|peer| unsafe { *peer })
            }

            #[inline(always)]
            fn subnet_peer(&self, address: &$address) -> Option<u32> {
                let key = AlignedKey {
                    _unused: 0,
                    key: Key::new($bits, *address),
                };
                maps::$subnets.get(&key.key).copied()
            }

            #[inline(always)]
            fn denied(&self, key: &FlowKey<$address>) -> Option<&DeniedFlow> {
                // SAFETY: as for flows.
                maps::$denied.get_ptr(key).map(|denied| unsafe { &*denied })
            }

            #[inline(always)]
            fn insert_denied(&self, key: &FlowKey<$address>, denied: &DeniedFlow) {
                // A full table evicts; what cannot be kept is only reported more often.
                let _ = maps::$denied.insert(key, denied, 0);
            }

            #[inline(always)]
            fn first_fragment(&self, key: &FragmentKey<$address>) -> Option<&FirstFragment> {
                let first = maps::$fragments.get_ptr(key);
                // SAFETY: as for flows.
                first.map(|first| unsafe { &*first })
            }

            #[inline(always)]
            fn insert_first_fragment(&self, key: &FragmentKey<$address>, first: &FirstFragment) {
                // A full table evicts; later fragments of what cannot be kept are dropped.
                let _ = maps::$fragments.insert(key, first, 0);
            }
        }
    };
}

family!(
    Ipv4,
    32,
    PEERS_V4,
    SUBNETS_V4,
    FLOWS_V4,
    DENIED_V4,
    FRAGMENTS_V4,
    HEADERS_V4
);
family!(
    Ipv6,
    128,
    PEERS_V6,
    SUBNETS_V6,
    FLOWS_V6,
    DENIED_V6,
    FRAGMENTS_V6,
    HEADERS_V6
);
