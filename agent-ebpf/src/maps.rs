//! The kernel maps. User space finds them by these names, pinned under the version of
//! [`datapath::layout::VERSION`]; it may set the sizes of the flow tables.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_F_RDONLY_PROG},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use datapath::{
    Reason,
    headers::Headers,
    layout::{
        Counter, DeniedFlow, FirstFragment, Flow, FlowKey, FragmentKey, Ipv4, Ipv6, MAX_CELLS,
        MAX_PEERS, MAX_RULES, MatrixCell, PAGES, PortPage, Settings, Shared, UnparsedKey,
        UnparsedSum, budget,
    },
};

const SUBNETS: u32 = MAX_PEERS;
/// Those of two policies. A power of two: as many buckets are made, and more would make twice as many.
const ADDRESSES: u32 = 262_144;
const FLOWS: u32 = 131_072;
const DENIED_FLOWS: u32 = 16_384;
/// Packets in fragments that are on their way at once, of each family.
const FRAGMENTS: u32 = 8_192;
/// Kinds of packets that no rule has judged, at once.
const UNPARSED_KINDS: u32 = 2_048;
/// The size of the ring.
pub const EVENT_BYTES: u32 = 1 << 20;

/// The live generation, alone; 0 is none.
#[map]
pub static GENERATION: Array<u32> = Array::pinned(1, 0);
/// By slot.
#[map]
pub static SETTINGS: Array<Settings> = Array::pinned(2, 0);
#[map]
pub static PEER_CLASSES: Array<u32> = Array::pinned(2 * MAX_PEERS, BPF_F_RDONLY_PROG);
#[map]
pub static PORT_PAGES: Array<PortPage> = Array::pinned(2 * PAGES, BPF_F_RDONLY_PROG);
#[map]
pub static MATRIX: Array<MatrixCell> = Array::pinned(2 * MAX_CELLS, BPF_F_RDONLY_PROG);

#[map]
pub static PEERS_V4: HashMap<Ipv4, u32> = HashMap::pinned(ADDRESSES, BPF_F_NO_PREALLOC);
#[map]
pub static PEERS_V6: HashMap<Ipv6, u32> = HashMap::pinned(ADDRESSES, BPF_F_NO_PREALLOC);
#[map]
pub static SUBNETS_V4: LpmTrie<Ipv4, u32> = LpmTrie::pinned(SUBNETS, BPF_F_NO_PREALLOC);
#[map]
pub static SUBNETS_V6: LpmTrie<Ipv6, u32> = LpmTrie::pinned(SUBNETS, BPF_F_NO_PREALLOC);

#[map]
pub static FLOWS_V4: LruHashMap<FlowKey<Ipv4>, Flow> = LruHashMap::pinned(FLOWS, 0);
#[map]
pub static FLOWS_V6: LruHashMap<FlowKey<Ipv6>, Flow> = LruHashMap::pinned(FLOWS, 0);
#[map]
pub static DENIED_V4: LruHashMap<FlowKey<Ipv4>, DeniedFlow> = LruHashMap::pinned(DENIED_FLOWS, 0);
#[map]
pub static DENIED_V6: LruHashMap<FlowKey<Ipv6>, DeniedFlow> = LruHashMap::pinned(DENIED_FLOWS, 0);

#[map]
pub static FRAGMENTS_V4: LruHashMap<FragmentKey<Ipv4>, FirstFragment> =
    LruHashMap::pinned(FRAGMENTS, 0);
#[map]
pub static FRAGMENTS_V6: LruHashMap<FragmentKey<Ipv6>, FirstFragment> =
    LruHashMap::pinned(FRAGMENTS, 0);

#[map]
pub static UNPARSED: LruHashMap<UnparsedKey, UnparsedSum> = LruHashMap::pinned(UNPARSED_KINDS, 0);

/// Of the packet that a CPU judges: no state, so not pinned.
#[map]
pub static HEADERS_V4: PerCpuArray<Headers<Ipv4>> = PerCpuArray::with_max_entries(2, 0);
#[map]
pub static HEADERS_V6: PerCpuArray<Headers<Ipv6>> = PerCpuArray::with_max_entries(2, 0);

#[map]
pub static RULE_COUNTERS: PerCpuArray<Counter> = PerCpuArray::pinned(2 * MAX_RULES, 0);
#[map]
pub static REASON_COUNTERS: PerCpuArray<Counter> = PerCpuArray::pinned(Reason::COUNT, 0);
#[map]
pub static BUDGETS: Array<Shared<u64>> = Array::pinned(budget::COUNT, 0);
#[map]
pub static LOSSES: PerCpuArray<Shared<u64>> = PerCpuArray::pinned(1, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::pinned(EVENT_BYTES, 0);
