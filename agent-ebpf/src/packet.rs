//! A packet in the kernel.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use datapath::Packet;

/// Where headers begin in packets without tags, options and extension headers: link, IPv4, IPv6 and its
/// addresses, what they carry, and the flags of TCP.
const USUAL: [u32; 9] = [0, 12, 14, 22, 38, 34, 54, 34 + 12, 54 + 12];

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
