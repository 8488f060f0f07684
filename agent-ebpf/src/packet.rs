//! A packet in the kernel.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use datapath::Packet;

/// The packet of a TC hook. It begins with its Ethernet header at both hooks.
pub struct Skb<'a>(pub &'a TcContext);

impl Packet for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // The helper reads paged parts too, and fails past the end.
        // SAFETY: the context is the kernel's, and `bytes` has room for the `N` bytes asked for.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.0.skb.skb.cast(),
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        // SAFETY: on success the helper wrote all `N` bytes.
        (result == 0).then(|| unsafe { bytes.assume_init() })
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }
}
