//! The kernel programs of Bulkhead: TC hooks that call [`datapath::decide()`] and return its verdict.
#![no_std]
#![no_main]

mod maps;
mod packet;
mod tables;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::bpf_jiffies64,
    macros::classifier,
    programs::TcContext,
};
use datapath::{Direction, Verdict};

use crate::{packet::Skb, tables::KernelTables};

/// Nanoseconds between two ticks of this kernel; user space sets it before it loads the programs.
#[unsafe(no_mangle)]
static NS_PER_TICK: u64 = 4_000_000;

#[classifier]
fn bulkhead_ingress(context: TcContext) -> i32 {
    judge(&context, Direction::Ingress)
}

#[classifier]
fn bulkhead_egress(context: TcContext) -> i32 {
    judge(&context, Direction::Egress)
}

/// "Pass" means on to the next program, so that others in the chain keep their say.
#[inline(always)]
fn judge(context: &TcContext, direction: Direction) -> i32 {
    // Ticks are fine enough, and the kernel reads them without a call.
    // SAFETY: the helper has no precondition, and the word is a constant that user space has set.
    let now = unsafe { bpf_jiffies64() * (&raw const NS_PER_TICK).read_volatile() };
    match datapath::decide(&Skb(context), direction, &KernelTables, now) {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
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
