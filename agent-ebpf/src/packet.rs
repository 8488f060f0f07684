//! A packet in the kernel.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use datapath::Packet;

/// Offsets below this may be in the linear part.
const LINEAR: u32 = 1 << 12;

/// The packet of a TC hook. It begins with its Ethernet header at both hooks.
pub struct Skb<'a>(pub &'a TcContext);

impl Packet for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // Nearly every header stands in the linear part, where a load costs a tenth of the helper's.
        // The verifier wants the offset bounded.
        if offset < LINEAR {
            let at = self.0.data() + offset as usize;
            if at + N <= self.0.data_end() {
                // SAFETY: the `N` bytes end before the end of the linear part; any bytes are a value.
                return Some(unsafe { (at as *const [u8; N]).read_unaligned() });
            }
        }
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
