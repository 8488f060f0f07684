//! What is kept of first fragments, and under which key.

use crate::layout::Shared;

/// The fragments of one packet, as the host that puts it together tells them from others.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey<A> {
    /// As it stands in the packet.
    pub source: A,
    /// As it stands in the packet.
    pub destination: A,
    /// The identification; of 16 bits in IPv4.
    pub id: u32,
    /// IANA number in IPv4. 0 in IPv6, where only the first fragment tells it (RFC 8200, section 4.5).
    pub protocol: u8,
    /// As [`crate::Direction::number`].
    pub direction: u8,
    /// Zero.
    pub padding: [u8; 2],
}

/// A first fragment that was let pass.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct FirstFragment {
    /// When, in nanoseconds of the monotonic clock.
    pub seen: Shared<u64>,
    /// What the later ones need of it.
    pub record: Shared<FragmentRecord>,
}

/// What later fragments need of their first one, in one word: the rest of its flow's key, and where its
/// headers end.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentRecord(u64);

impl FragmentRecord {
    const VALID: u64 = 1;
    const ECHO: u64 = 3;

    /// Another first fragment of the same key came since, and was not let pass.
    pub const VOID: Self = Self(0);

    /// `edge` is where the headers end, in bytes from where the fragmented part of the packet begins.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        source_port: u16,
        destination_port: u16,
        protocol: u8,
        echo: u8,
        edge: u16,
    ) -> Self {
        Self(
            (source_port as u64) << 48
                | (destination_port as u64) << 32
                | (edge as u64) << 16
                | (protocol as u64) << 8
                | (echo as u64 & Self::ECHO) << 1
                | Self::VALID,
        )
    }

    /// One of [`crate::headers::echo`].
    #[inline(always)]
    #[must_use]
    pub const fn echo(self) -> u8 {
        (self.0 >> 1 & Self::ECHO) as u8
    }

    /// As in [`crate::headers::Headers`].
    #[inline(always)]
    #[must_use]
    pub const fn source_port(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// As in [`crate::headers::Headers`].
    #[inline(always)]
    #[must_use]
    pub const fn destination_port(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Where the headers end, in bytes from where the fragmented part of the packet begins.
    #[inline(always)]
    #[must_use]
    pub const fn edge(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// IANA number of what the packet carries.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(self) -> u8 {
        (self.0 >> 8) as u8
    }
}
