//! A packet, as far as a verdict needs it.

/// Bounded loads from a packet that begins with its Ethernet header.
pub trait Packet {
    /// Copies the `N` bytes that begin at `offset`; `None` when the packet ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// As [`load`](Self::load), for where headers seldom stand: an implementation may be slow there.
    fn load_far<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.load(offset)
    }

    /// The length in bytes, link header and paged parts included.
    fn len(&self) -> u32;

    /// The index of the interface that it passes; 0 where there is none.
    fn interface(&self) -> u32 {
        0
    }

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A packet whose headers stand behind others of any length.
pub struct Far<'a, P: ?Sized>(pub &'a P);

impl<P: Packet + ?Sized> Packet for Far<'_, P> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load_far(offset)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }
}

#[cfg(any(test, feature = "std"))]
impl Packet for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    fn len(&self) -> u32 {
        u32::try_from(<[u8]>::len(self)).unwrap_or(u32::MAX)
    }
}
