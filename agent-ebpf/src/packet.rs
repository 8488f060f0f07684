//! A packet in the kernel.

use core::mem::transmute_copy;

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use datapath::Packet;

/// Where headers begin in packets without tags, options and extension headers: link, IPv4, IPv6 and its
/// addresses, what they carry, and the flags of TCP.
const USUAL: [u32; 11] = [0, 12, 14, 22, 38, 34, 54, 34 + 4, 54 + 4, 34 + 12, 54 + 12];

/// Room for the largest load.
type Words = [u64; 3];

/// The packet of a TC hook. It begins with its Ethernet header at both hooks.
pub struct Skb<'a>(pub &'a TcContext);

impl Packet for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // There a load from the linear part costs a tenth of the helper's. Of an offset that is known
        // the verifier has one case to follow, and of others very many.
        for usual in USUAL {
            if offset == usual {
                let at = self.0.data() + usual as usize;
                if at + N <= self.0.data_end() {
                    // SAFETY: the `N` bytes end before the end of the linear part; any bytes are a value.
                    return Some(unsafe { (at as *const [u8; N]).read_unaligned() });
                }
            }
        }
        self.load_far(offset)
    }

    #[inline(always)]
    fn load_far<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        const { assert!(N <= size_of::<Words>()) };
        let mut words: Words = [0; 3];
        // The helper reads paged parts too, and fails past the end.
        // SAFETY: the context is the kernel's, and `words` has room for the `N` bytes asked for.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.0.skb.skb.cast(),
                offset,
                words.as_mut_ptr().cast(),
                N as u32,
            )
        };
        if result != 0 {
            return None;
        }
        // Word by word: the verifier takes no load from the stack that is not aligned.
        let mut copy: Words = [0; 3];
        for (index, word) in copy
            .iter_mut()
            .enumerate()
            .take(N.div_ceil(size_of::<u64>()))
        {
            // SAFETY: the index is one of `words`.
            *word = unsafe { words.as_ptr().add(index).read_volatile() };
        }
        // SAFETY: it has at least `N` bytes, and any bytes are a value.
        Some(unsafe { transmute_copy(&copy) })
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context is the kernel's, and the verifier makes of this a load of its own.
        unsafe { (*self.0.skb.skb).ifindex }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }
}
