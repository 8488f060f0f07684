//! What the flow table keeps, and under which key.

use crate::layout::{Direction, Shared};

/// The packets of one connection, the same key in both directions: seen from the host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    /// The other end: source of an incoming packet, destination of an outgoing one.
    pub remote: A,
    /// This end.
    pub local: A,
    /// Host order; for ICMP as in [`crate::headers::Headers`], 0 without ports.
    pub remote_port: u16,
    /// Host order; for ICMP as in [`crate::headers::Headers`], 0 without ports.
    pub local_port: u16,
    /// IANA number.
    pub protocol: u8,
    /// One of [`flow_kind`].
    pub kind: u8,
    /// Zero. Aligned: the kernel's verifier takes no other stores to the stack.
    pub zeros: u16,
}

/// A flow that was judged.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Flow {
    /// When its last packet passed, nanoseconds of the monotonic clock, to about a second.
    pub last_seen: Shared<u64>,
    /// When it is forgotten or judged again unless another passes, on the same clock.
    pub expires: Shared<u64>,
    /// What is known of it. One word, stored at once: two CPUs that judge it by different generations
    /// leave what one of them found, never a mixture.
    pub record: Shared<FlowRecord>,
    /// What passed into the host.
    pub ingress: Traffic,
    /// What passed out of it.
    pub egress: Traffic,
}

/// What passed of a flow in one direction. Packets that two CPUs judge at once may count as one.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Packets.
    pub packets: Shared<u64>,
    /// Bytes, link header included.
    pub bytes: Shared<u64>,
}

impl Traffic {
    /// Nothing yet.
    #[inline(always)]
    pub const fn none() -> Self {
        Self {
            packets: Shared::new(0),
            bytes: Shared::new(0),
        }
    }

    /// Counts a packet.
    #[inline(always)]
    pub fn add(&self, bytes: u32) {
        self.packets.set(self.packets.get() + 1);
        self.bytes.set(self.bytes.get() + bytes as u64);
    }
}

impl Flow {
    /// From the words of its map value, in their order.
    #[must_use]
    pub const fn from_words(words: [u64; 7]) -> Self {
        let [
            last_seen,
            expires,
            record,
            ingress,
            ingress_bytes,
            egress,
            egress_bytes,
        ] = words;
        Self {
            last_seen: Shared::new(last_seen),
            expires: Shared::new(expires),
            record: Shared::new(FlowRecord(record)),
            ingress: Traffic {
                packets: Shared::new(ingress),
                bytes: Shared::new(ingress_bytes),
            },
            egress: Traffic {
                packets: Shared::new(egress),
                bytes: Shared::new(egress_bytes),
            },
        }
    }

    /// What passed in a direction.
    #[inline(always)]
    pub fn traffic(&self, direction: Direction) -> &Traffic {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// What is known of a [`Flow`], in one word: generation, state, opener, service.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord(u64);

impl FlowRecord {
    const OPENER: u64 = 0xff << 16;

    /// `state` is one of [`flow_state`]; `service` is what the opening packet asked for.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        generation: u32,
        state: u8,
        opener: Opener,
        grounds: Grounds,
        service: u16,
    ) -> Self {
        Self((generation as u64) << 32 | (state as u64) << 24 | service as u64)
            .opened_by(opener, grounds)
    }

    /// The generation whose verdict this is.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// One of the constants in [`flow_state`].
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> u8 {
        (self.0 >> 24) as u8 & 0x0f
    }

    /// Since a TCP FIN or RST: the ends that went on sending, one bit for each [`Direction`].
    #[inline(always)]
    #[must_use]
    pub const fn resumed(self) -> u8 {
        (self.0 >> 28) as u8 & 0x03
    }

    /// The same flow, after these ends went on sending.
    #[inline(always)]
    #[must_use]
    pub const fn with_resumed(self, ends: u8) -> Self {
        Self(self.0 & !(0x0f << 28) | (ends as u64 & 0x03) << 28)
    }

    /// Who sent the packet that opened it.
    #[inline(always)]
    #[must_use]
    pub const fn opener(self) -> Opener {
        match (self.0 >> 16) as u8 & 0x0f {
            0 => Opener::Remote,
            1 => Opener::Local,
            2 => Opener::Unknown,
            _ => Opener::Both,
        }
    }

    /// How the opener is known.
    #[inline(always)]
    #[must_use]
    pub const fn grounds(self) -> Grounds {
        match (self.0 >> 20) as u8 & 0x0f {
            0 => Grounds::Seen,
            1 => Grounds::Guessed,
            _ => Grounds::Learned,
        }
    }

    /// The same flow, with another opener.
    #[inline(always)]
    #[must_use]
    pub const fn opened_by(self, opener: Opener, grounds: Grounds) -> Self {
        let byte = (grounds as u64) << 4 | opener as u64;
        Self(self.0 & !Self::OPENER | byte << 16)
    }

    /// The end whose policy decides alone, if it is known for certain which one opened the flow. Where it is
    /// not, both orientations have to be allowed.
    #[inline(always)]
    #[must_use]
    pub const fn judged_as(self) -> Opener {
        match (self.grounds(), self.opener()) {
            (Grounds::Seen, Opener::Remote) => Opener::Remote,
            (Grounds::Seen, Opener::Local) => Opener::Local,
            (_, _) => Opener::Both,
        }
    }

    /// What the opening packet asked for: destination port, ICMP type and code, or protocol number.
    #[inline(always)]
    #[must_use]
    pub const fn service(self) -> u16 {
        self.0 as u16
    }

    /// The same flow, judged by another generation or in another state.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, generation: u32, state: u8) -> Self {
        let Self(word) = self;
        let kept = word & (Self::OPENER | 0xffff);
        Self((generation as u64) << 32 | (state as u64) << 24 | kept)
    }
}

/// Which end opened a flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// The other end: the opening packet came in.
    Remote = 0,
    /// This end: it went out.
    Local = 1,
    /// Not known: its beginning was not seen, and its ports do not tell.
    Unknown = 2,
    /// Both: each end has sent what opens a connection (RFC 9293, simultaneous open).
    Both = 3,
}

/// How the [`Opener`] of a flow is known.
///
/// Whatever comes in may be sent by anybody to make the host believe something, and be dropped by the host's
/// stack in silence. So the opener of a connection is known only by what the host itself sends: a SYN, or the
/// SYN and ACK with which it accepts one.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grounds {
    /// It was seen to open the flow.
    Seen = 0,
    /// It is a guess: by the ports of a connection that was taken up in mid-stream, or by a SYN that the
    /// host has not accepted yet. It is what reports say, and decides no verdict of a later generation.
    Guessed = 1,
    /// A guess by a generation that let everything pass, to learn. The next one takes the flow up as if it
    /// were seen for the first time.
    Learned = 2,
}

impl Opener {
    /// The end that sends packets in this direction.
    #[inline(always)]
    #[must_use]
    pub const fn sender(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Remote,
            Direction::Egress => Self::Local,
        }
    }
}

/// What an entry of the flow table stands for.
pub mod flow_kind {
    /// The packets of the key.
    pub const PACKETS: u8 = 0;
    /// An ICMP echo that the other end asks for; a port is its identifier. Without a kind of its own, an
    /// identifier could be taken for the type and code of another message.
    pub const ECHO_BY_REMOTE: u8 = 1;
    /// An ICMP echo that this end asks for.
    pub const ECHO_BY_LOCAL: u8 = 2;
    /// An open exchange of this host's DHCP client; the ports are its transaction id.
    pub const DHCP_EXCHANGE: u8 = 3;
    /// A DHCP server that has answered this host; its address is the remote one.
    pub const DHCP_SERVER: u8 = 4;
}

/// The states of a [`Flow`].
pub mod flow_state {
    /// Opened; the other end has not answered.
    pub const NEW: u8 = 0;
    /// Both ends have spoken.
    pub const ESTABLISHED: u8 = 1;
    /// A TCP FIN or RST was seen. Anybody may forge one that the stack ignores, so it decides nothing but the
    /// timeout; when both ends go on, the flow is established again.
    pub const CLOSING: u8 = 2;
    /// Policy stopped allowing it. Kept, so that a later packet of it is not taken for one of a
    /// connection that was there before the agent.
    pub const REVOKED: u8 = 3;
}
