//! The least that a stateful filter at a TC hook does, and one that does nothing: what the benchmark of
//! the datapath compares with. A packet of a known flow costs one lookup; the first of a flow, one
//! more and an insertion. No options, no tags, no fragments, no IPv6, no state, no counters.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{classifier, map},
    maps::{HashMap, LruHashMap},
    programs::TcContext,
};

/// The other end, this end, their ports, the protocol.
type Key = [u32; 4];

#[map]
static FLOWS: LruHashMap<Key, u64> = LruHashMap::with_max_entries(131_072, 0);
/// Source addresses and destination ports that may open flows, all in network order.
#[map]
static ALLOWED: HashMap<[u32; 2], u32> = HashMap::with_max_entries(262_144, 0);

#[classifier]
fn empty(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[classifier]
fn limit_ingress(context: TcContext) -> i32 {
    judge::<true>(&context)
}

#[classifier]
fn limit_egress(context: TcContext) -> i32 {
    judge::<false>(&context)
}

/// Ethernet, IPv4 without options, ports.
const HEADERS: usize = 14 + 20 + 4;

#[inline(always)]
fn judge<const INGRESS: bool>(context: &TcContext) -> i32 {
    let (start, end) = (context.data(), context.data_end());
    if start + HEADERS > end {
        return TC_ACT_SHOT;
    }
    // SAFETY: all offsets are below `HEADERS`, which the packet has, and any bytes are an integer.
    let half = |at: usize| unsafe { ((start + at) as *const u16).read_unaligned() };
    // SAFETY: as above.
    let byte = |at: usize| unsafe { *((start + at) as *const u8) };
    let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
    match u16::from_be(half(12)) {
        0x0800 if byte(14) == 0x45 => {}
        0x0806 => return TC_ACT_UNSPEC,
        _ => return TC_ACT_SHOT,
    }
    let protocol = u32::from(byte(23));
    let (source, destination) = (word(26), word(30));
    let (source_port, destination_port) = (half(34), half(36));
    let key = if INGRESS {
        let ports = u32::from(source_port) << 16 | u32::from(destination_port);
        [source, destination, ports, protocol]
    } else {
        let ports = u32::from(destination_port) << 16 | u32::from(source_port);
        [destination, source, ports, protocol]
    };
    if FLOWS.get_ptr(key).is_some() {
        return TC_ACT_UNSPEC;
    }
    if INGRESS
        && ALLOWED
            .get_ptr([source, u32::from(destination_port)])
            .is_none()
    {
        return TC_ACT_SHOT;
    }
    match FLOWS.insert(key, 1, 0) {
        Ok(()) => TC_ACT_UNSPEC,
        Err(_) => TC_ACT_SHOT,
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
