//! From bytes to what a verdict asks about. Every length is checked against the packet and against
//! the headers' own length fields; what does not fit is [`Reason::Malformed`].

mod control;
mod transport;
mod usual;

pub use self::usual::{UNTAGGED, Usual};
use crate::{
    decide::Found,
    headers::{control::is_link_control, transport::transport},
    layout::{Address, Direction, FlowKey, FragmentKey, Ipv4, Ipv6},
    packet::{Far, Packet},
    reason::Reason,
};

/// IANA protocol numbers that are looked into.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Which part of an ICMP echo a packet is.
pub mod echo {
    /// It is none.
    pub const NONE: u8 = 0;
    /// It asks.
    pub const REQUEST: u8 = 1;
    /// It answers.
    pub const REPLY: u8 = 2;
}

/// Bits of the TCP flags byte.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets it.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// Those that tell which part a segment has in a connection.
    pub const HANDSHAKE: u8 = FIN | SYN | RST | ACK;
}

/// IPv6 extension headers that are looked through before [`Reason::ExtensionHeaders`].
pub const MAX_EXTENSION_HEADERS: usize = 6;
const MAX_VLAN_TAGS: usize = 2;

/// What follows the Ethernet header and its VLAN tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An IPv4 header at this offset.
    Ipv4(u32),
    /// An IPv6 header at this offset.
    Ipv6(u32),
    /// ARP.
    Arp,
    /// What a device needs to join its network: see `headers/control.rs`.
    Control,
    /// Something that no verdict is made of.
    Other,
}

/// Which part of an IP packet a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// All of it, behind an IPv6 fragment header (RFC 6946).
    Atomic,
    /// The beginning, with the headers.
    First,
    /// What follows the first, without the headers.
    Later,
}

/// What a packet is to this host's DHCP client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dhcp {
    /// Nothing.
    Nothing,
    /// A request of its own, of the transaction.
    Request(u32),
    /// The answer to one that is open.
    Answer,
}

/// The headers of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// IANA number of what the IP headers carry.
    pub protocol: u8,
    /// TCP flags. Of SCTP, those of the segment that has the same part in opening a connection: SYN of an
    /// INIT chunk, SYN and ACK of its acknowledgement, ACK of others. 0 for other protocols.
    pub tcp_flags: u8,
    /// Whether it is an ICMP echo: one of [`echo`].
    pub echo: u8,
    /// Host order. For ICMP the identifier of an echo request, or type and code; 0 without ports.
    pub source_port: u16,
    /// Host order. For ICMP the identifier of an echo reply; 0 without ports.
    pub destination_port: u16,
    /// What the packet asks for, were it the first of a flow: destination port, ICMP type and code,
    /// or protocol number.
    pub service: u16,
    /// Where the packet inside an ICMP error begins; 0 in other packets.
    pub inner: u32,
    /// Where the payload of UDP begins; 0 in other packets.
    pub payload: u32,
    /// What the packet is to this host's DHCP client; the verdict finds it out.
    pub dhcp: Dhcp,
    /// What hosts on a link cannot do without: neighbour discovery and group membership.
    pub neighbour: bool,
    /// Which part of the packet it is. A later one has neither ports nor a protocol of its own.
    pub part: Part,
    /// The identification of the packet that it is a part of; 0 in whole ones.
    pub fragment_id: u32,
    /// In bytes from where the fragmented part begins: where a later one begins, and where the headers of
    /// a first one end.
    pub fragment_edge: u16,
    /// What the flow table knows of the packet. Kept here, so that the kernel's verifier follows what comes
    /// after once, and not for each.
    pub(crate) found: Found,
}

impl<A: Copy> Headers<A> {
    /// The key of the packet's flow, seen from the host.
    #[inline(always)]
    pub fn flow_key(&self, direction: Direction) -> FlowKey<A> {
        let (remote, local, remote_port, local_port) = match direction {
            Direction::Ingress => (
                self.source,
                self.destination,
                self.source_port,
                self.destination_port,
            ),
            Direction::Egress => (
                self.destination,
                self.source,
                self.destination_port,
                self.source_port,
            ),
        };
        FlowKey {
            remote,
            local,
            remote_port,
            local_port,
            protocol: self.protocol,
            kind: self.flow_kind(direction),
            zeros: 0,
        }
    }

    /// What stands in the key where others have ports: a request that comes in is of an echo that the other end
    /// asks for, and so is a reply that goes out.
    #[inline(always)]
    fn flow_kind(&self, direction: Direction) -> u8 {
        // Without a branch: the kernel's verifier would follow each by itself from here on.
        match direction {
            Direction::Ingress => self.echo,
            Direction::Egress => (self.echo << 1 | self.echo >> 1) & 3,
        }
    }

    /// Whether it is the packet that opens a connection.
    #[inline(always)]
    pub fn is_opening_syn(&self) -> bool {
        self.tcp_flags & tcp_flag::HANDSHAKE == tcp_flag::SYN
    }

    /// Whether it accepts a connection.
    #[inline(always)]
    pub fn is_accepting(&self) -> bool {
        self.tcp_flags & tcp_flag::HANDSHAKE == tcp_flag::SYN | tcp_flag::ACK
    }

    /// Whether it resets a connection without an ACK.
    #[inline(always)]
    pub fn is_bare_reset(&self) -> bool {
        self.tcp_flags & tcp_flag::HANDSHAKE == tcp_flag::RST
    }

    /// Whether it is of those that are sent after a handshake. All of them have an ACK, and no SYN.
    #[inline(always)]
    pub fn is_mid_stream(&self) -> bool {
        self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::ACK
    }

    /// Whether it is an ICMP echo request.
    #[inline(always)]
    pub fn is_echo_request(&self) -> bool {
        self.echo == echo::REQUEST
    }

    /// Whether any of these TCP flags is set.
    #[inline(always)]
    pub fn has_any_tcp_flag(&self, flags: u8) -> bool {
        self.tcp_flags & flags != 0
    }
}

impl<A: Address> Headers<A> {
    /// The key of the packet that it is a part of.
    #[inline(always)]
    pub fn fragment_key(&self, direction: Direction) -> FragmentKey<A> {
        let protocol = if A::FAMILY == Ipv4::FAMILY {
            self.protocol
        } else {
            0
        };
        FragmentKey {
            source: self.source,
            destination: self.destination,
            id: self.fragment_id,
            protocol,
            direction: direction.number(),
            padding: [0; 2],
        }
    }

    /// Those of a packet that was not looked at.
    pub const UNREAD: Self = Self {
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        protocol: 0,
        tcp_flags: 0,
        echo: echo::NONE,
        source_port: 0,
        destination_port: 0,
        service: 0,
        inner: 0,
        payload: 0,
        dhcp: Dhcp::Nothing,
        neighbour: false,
        part: Part::Whole,
        fragment_id: 0,
        fragment_edge: 0,
        found: Found::Flow,
    };
}

/// The table of ports that a protocol is judged in; the numbers of [`crate::layout::SLOTS`].
#[inline(always)]
#[must_use]
pub const fn slot_of_protocol(number: u8) -> u32 {
    match number {
        protocol::TCP => 0,
        protocol::UDP => 1,
        protocol::SCTP => 2,
        protocol::ICMP => 3,
        protocol::ICMPV6 => 4,
        _ => 5,
    }
}

/// Reads the Ethernet header and up to two VLAN tags.
///
/// # Errors
/// [`Reason::Malformed`] and [`Reason::VlanTags`].
#[inline(always)]
pub fn link<P: Packet + ?Sized>(packet: &P) -> Result<Link, Reason> {
    let mut at = 12;
    for _ in 0..=MAX_VLAN_TAGS {
        let ether_type = u16::from_be_bytes(packet.load(at).ok_or(Reason::Malformed)?);
        match ether_type {
            0x0800 => return Ok(Link::Ipv4(at + 2)),
            0x86dd => return Ok(Link::Ipv6(at + 2)),
            0x0806 => return Ok(Link::Arp),
            0x8100 | 0x88a8 => at += 4,
            ether_type => {
                let destination = packet.load(0).ok_or(Reason::Malformed)?;
                let source = packet.load_far(6).ok_or(Reason::Malformed)?;
                return if is_link_control(destination, source, ether_type) {
                    Ok(Link::Control)
                } else {
                    Ok(Link::Other)
                };
            }
        }
    }
    // Linux would look behind these too, however many there are.
    Err(Reason::VlanTags)
}

/// An address family, as its header is read.
pub trait Network: Address {
    /// Reads the header at an offset, and what it carries, into `headers`. `quoted` is for a packet inside
    /// an ICMP error, of which only the first eight bytes of the upper layer need be there.
    ///
    /// # Errors
    /// [`Reason::Malformed`], [`Reason::FragmentSmall`] and, for IPv6, [`Reason::ExtensionHeaders`];
    /// [`Reason::FragmentOrphan`] for a quoted fragment after the first.
    fn read<P: Packet + ?Sized>(
        packet: &P,
        at: u32,
        quoted: bool,
        headers: &mut Headers<Self>,
    ) -> Result<(), Reason>;
}

/// What there is to look at of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// All of it.
    Whole,
    /// The first fragment: length fields of the upper layer speak of more.
    FirstFragment,
    /// What an ICMP error quotes: at least the first eight bytes of the upper layer.
    Quoted,
}

/// How much of a packet there is to look at. A value of which a part is there in some cases only would be
/// one that older verifiers do not let be read.
#[derive(Clone, Copy)]
struct Extent {
    sight: Sight,
    /// From the beginning of the frame.
    end: u32,
}

impl Extent {
    const fn whole(end: u32) -> Self {
        let sight = Sight::Whole;
        Self { sight, end }
    }

    const fn quoted(end: u32) -> Self {
        let sight = Sight::Quoted;
        Self { sight, end }
    }

    /// Whether it goes up to this offset.
    #[inline(always)]
    fn reaches(self, offset: u32) -> Result<(), Reason> {
        if offset <= self.end {
            Ok(())
        } else if self.sight == Sight::FirstFragment {
            Err(Reason::FragmentSmall)
        } else {
            Err(Reason::Malformed)
        }
    }
}

impl Network for Ipv4 {
    /// With options.
    #[inline(never)]
    fn read<P: Packet + ?Sized>(
        packet: &P,
        at: u32,
        quoted: bool,
        headers: &mut Headers<Self>,
    ) -> Result<(), Reason> {
        let header: [u8; 20] = packet.load(at).ok_or(Reason::Malformed)?;
        let header_length = u32::from(header[0] & 0x0f) * 4;
        let total_length = u32::from(u16::from_be_bytes([header[2], header[3]]));
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        if header[0] >> 4 != 4 || header_length < 20 {
            return Err(Reason::Malformed);
        }
        let mut extent = if quoted {
            Extent::quoted(packet.len())
        } else if total_length == 0 && packet.len() > 0xffff {
            // A segment larger than 64 KiB, on its way to the segmentation of the device.
            Extent::whole(packet.len())
        } else if total_length < header_length || at + total_length > packet.len() {
            return Err(Reason::Malformed);
        } else {
            Extent::whole(at + total_length)
        };
        headers.source = Ipv4([header[12], header[13], header[14], header[15]]);
        headers.destination = Ipv4([header[16], header[17], header[18], header[19]]);
        headers.protocol = header[9];
        let begins = at + header_length;
        headers.fragment_id = u32::from(u16::from_be_bytes([header[4], header[5]]));
        let offset = (fragment & 0x1fff) << 3;
        if part(headers, offset, fragment & 0x2000 != 0, begins, &mut extent)? == Part::Later {
            return Ok(());
        }
        let ends = transport(packet, begins, extent, header[9], headers)?;
        headers.fragment_edge = ends.wrapping_sub(begins) as u16;
        if header[9] == protocol::IGMP && header[8] == 1 && headers.part == Part::Whole && !quoted {
            headers.neighbour = extent.reaches(begins + 8).is_ok()
                && is_membership(headers.destination, packet.load_far(begins));
        }
        Ok(())
    }
}

impl Network for Ipv6 {
    /// With extension headers.
    #[inline(never)]
    fn read<P: Packet + ?Sized>(
        packet: &P,
        at: u32,
        quoted: bool,
        headers: &mut Headers<Self>,
    ) -> Result<(), Reason> {
        let fixed: [u8; 8] = packet.load(at).ok_or(Reason::Malformed)?;
        headers.source = Ipv6(packet.load(at + 8).ok_or(Reason::Malformed)?);
        headers.destination = Ipv6(packet.load(at + 24).ok_or(Reason::Malformed)?);
        if fixed[0] >> 4 != 6 {
            return Err(Reason::Malformed);
        }
        let payload_length = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        let extent = if quoted {
            Extent::quoted(packet.len())
        } else if payload_length == 0 && packet.len() > 0xffff {
            // A segment larger than 64 KiB, on its way to the segmentation of the device.
            Extent::whole(packet.len())
        } else if at + 40 + payload_length > packet.len() {
            return Err(Reason::Malformed);
        } else {
            Extent::whole(at + 40 + payload_length)
        };
        let begins = at + 40;
        if is_extension(fixed[6]) {
            behind_extensions(&Far(packet), begins, extent, fixed[6], headers)?;
        } else {
            let ends = transport(packet, begins, extent, fixed[6], headers)?;
            headers.fragment_edge = ends.wrapping_sub(begins) as u16;
        }
        headers.neighbour = headers.part == Part::Whole && is_neighbour(headers, fixed[7]);
        Ok(())
    }
}

/// Tells which part of a packet a frame carries: `offset` bytes of the fragmented part come before it, `more`
/// says whether some follow, and `begins` is where it stands in the frame.
#[inline(always)]
fn part<A>(
    headers: &mut Headers<A>,
    offset: u16,
    more: bool,
    begins: u32,
    extent: &mut Extent,
) -> Result<Part, Reason> {
    if offset != 0 {
        // It carries no ports: whatever is quoted of it tells no flow.
        if extent.sight == Sight::Quoted {
            return Err(Reason::FragmentOrphan);
        }
        // It would end behind the largest packet that there can be.
        if extent.end < begins || u32::from(offset) + (extent.end - begins) > 0xffff {
            return Err(Reason::Malformed);
        }
        headers.part = Part::Later;
        headers.fragment_edge = offset;
    } else if more {
        headers.part = Part::First;
        if extent.sight == Sight::Whole {
            extent.sight = Sight::FirstFragment;
        }
    }
    Ok(headers.part)
}

/// The queries and reports of IPv4 multicast (RFC 1112, 2236, 3376), which are to IPv4 what those of listeners are
/// to IPv6: without them a snooping switch keeps a group away from its members. The caller has seen that no
/// router forwards the packet.
#[inline(always)]
fn is_membership(destination: Ipv4, kind: Option<[u8; 1]>) -> bool {
    matches!(destination.0, [224..=239, ..])
        && matches!(kind, Some([0x11 | 0x12 | 0x16 | 0x17 | 0x22]))
}

/// Looks through IPv6 extension headers.
#[inline(always)]
fn behind_extensions<P: Packet + ?Sized>(
    packet: &P,
    mut at: u32,
    mut extent: Extent,
    mut next: u8,
    headers: &mut Headers<Ipv6>,
) -> Result<(), Reason> {
    let mut fragmented = at;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(next) {
            break;
        }
        extent.reaches(at + 8)?;
        let head: [u8; 8] = packet.load(at).ok_or(Reason::Malformed)?;
        at += match next {
            FRAGMENT => {
                // One inside another is of no use but to hide something.
                if headers.part != Part::Whole {
                    return Err(Reason::Malformed);
                }
                headers.part = Part::Atomic;
                headers.fragment_id = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                let fragment = u16::from_be_bytes([head[2], head[3]]);
                fragmented = at + 8;
                let offset = fragment & 0xfff8;
                if part(headers, offset, fragment & 1 != 0, fragmented, &mut extent)? == Part::Later
                {
                    return Ok(());
                }
                8
            }
            // In units of 8 bytes, the first not counted.
            _ => (u32::from(head[1]) + 1) * 8,
        };
        next = head[0];
    }
    if is_extension(next) {
        return Err(Reason::ExtensionHeaders);
    }
    let ends = transport(packet, at, extent, next, headers)?;
    headers.fragment_edge = ends.wrapping_sub(fragmented) as u16;
    Ok(())
}

const FRAGMENT: u8 = 44;

/// Hop-by-hop options, routing, fragment, destination options. An authentication header is none here, as it is
/// none in IPv4: what it holds is for whoever has the key, and is judged as the protocol `ah`.
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | FRAGMENT | 60)
}

/// What IPv6 cannot do without on a link: neighbour discovery (RFC 4861), which routers never forward,
/// and the reports of listeners (RFC 2710, RFC 3810) without which a snooping switch keeps it away.
#[inline(always)]
fn is_neighbour(headers: &Headers<Ipv6>, hop_limit: u8) -> bool {
    let [kind, code] = headers.service.to_be_bytes();
    let unspecified_or_link_local =
        matches!(headers.source.0, [0xfe, 0x80..=0xbf, ..]) || headers.source.0 == [0; 16];
    let multicast = headers.destination.0[0] == 0xff;
    headers.protocol == protocol::ICMPV6
        && match kind {
            133..=136 => code == 0 && hop_limit == 255,
            130..=132 | 143 => hop_limit == 1 && unspecified_or_link_local && multicast,
            _ => false,
        }
}
