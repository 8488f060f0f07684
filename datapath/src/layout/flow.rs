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
    pub zero: u8,
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
    /// `state` is one of [`flow_state`]; `service` is what the opening packet asked for.
    #[inline(always)]
    #[must_use]
    pub const fn new(generation: u32, state: u8, opener: Opener, service: u16) -> Self {
        Self(
            (generation as u64) << 32
                | (state as u64) << 24
                | (opener as u64) << 16
                | service as u64,
        )
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
        (self.0 >> 24) as u8
    }

    /// Who sent the packet that opened it.
    #[inline(always)]
    #[must_use]
    pub const fn opener(self) -> Opener {
        match (self.0 >> 16) as u8 {
            0 => Opener::Remote,
            1 => Opener::Local,
            _ => Opener::Unknown,
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
        Self::new(generation, state, self.opener(), self.service())
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
    /// A TCP connection that was there before the agent, and whose ports do not tell.
    Unknown = 2,
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
    /// An open exchange of this host's DHCP client; the ports are its transaction id.
    pub const DHCP_EXCHANGE: u8 = 1;
    /// A DHCP server that has answered this host; its address is the remote one.
    pub const DHCP_SERVER: u8 = 2;
}

/// The states of a [`Flow`].
pub mod flow_state {
    /// Opened; the other end has not answered.
    pub const NEW: u8 = 0;
    /// Both ends have spoken.
    pub const ESTABLISHED: u8 = 1;
    /// A TCP FIN or RST was seen.
    pub const CLOSING: u8 = 2;
    /// Policy stopped allowing it. Kept, so that a later packet of it is not taken for one of a
    /// connection that was there before the agent.
    pub const REVOKED: u8 = 3;
}
