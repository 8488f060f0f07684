//! A frame as etherparse sees it. Nothing here is shared with [`crate::headers`].

use std::net::IpAddr;

use etherparse::{
    Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice, SingleVlanHeaderSlice, TcpHeaderSlice, UdpHeaderSlice,
};

use crate::reason::Reason;

/// What a frame is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It passes under this reason, whatever policy says.
    Link(Reason),
    /// Neither IP nor ARP.
    Other,
    /// An IP packet, or its beginning.
    Packet(Seen),
    /// A later fragment, which begins at this byte of what was fragmented.
    Later(Pieces, usize),
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub upper: Upper,
    /// Of a first fragment: what its later ones have in common with it, and where its headers end.
    pub first: Option<(Pieces, usize)>,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Upper {
    Tcp {
        ports: [u16; 2],
        syn: bool,
        ack: bool,
        rst: bool,
        fin: bool,
    },
    /// UDP and SCTP.
    Ports([u16; 2]),
    /// SCTP whose first chunk is INIT ACK.
    InitAck([u16; 2]),
    /// Type and code of ICMP or ICMPv6.
    Icmp([u8; 2]),
    Other,
}

/// What the fragments of a packet have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    /// In IPv4.
    protocol: Option<u8>,
}

const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];

/// Looks at a frame of less than 64 KiB.
pub(super) fn look(frame: &[u8]) -> Result<Sight, Reason> {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).map_err(|_| Reason::Malformed)?;
    let mut rest = &frame[14..];
    let mut ether_type = ethernet.ether_type().0;
    let mut tags = 0;
    while [0x8100, 0x88a8].contains(&ether_type) {
        if tags == 2 {
            return Err(Reason::VlanTags);
        }
        let tag = SingleVlanHeaderSlice::from_slice(rest).map_err(|_| Reason::Malformed)?;
        ether_type = tag.ether_type().0;
        rest = &rest[4..];
        tags += 1;
    }
    match ether_type {
        0x0800 => ipv4(rest),
        0x86dd => ipv6(rest),
        0x0806 => Ok(Sight::Link(Reason::Neighbour)),
        0x888e => Ok(Sight::Link(Reason::LinkControl)),
        other => {
            let to = ethernet.destination();
            let [a, b, c, d, e, f] = to;
            let passes = match other {
                _ if [a, b, c, d, e] == [1, 0x80, 0xc2, 0, 0] => f < 16 || f == 32 || f == 33,
                0x88f7 => to == [1, 0x1b, 0x19, 0, 0, 0],
                0x8035 => to == [255; 6],
                0x9000 => to == ethernet.source(),
                length if length < 1536 => {
                    to[..5] == [1, 0, 12, 0xcc, 0xcc] && matches!(f, 0xcc | 0xcd)
                }
                _ => false,
            };
            if passes {
                Ok(Sight::Link(Reason::LinkControl))
            } else {
                Ok(Sight::Other)
            }
        }
    }
}

fn ipv4(rest: &[u8]) -> Result<Sight, Reason> {
    let header = Ipv4HeaderSlice::from_slice(rest).map_err(|_| Reason::Malformed)?;
    let begin = header.slice().len();
    let end = usize::from(header.total_len());
    let payload = rest.get(begin..end).ok_or(Reason::Malformed)?;
    let pieces = Pieces {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        id: header.identification().into(),
        protocol: Some(header.protocol().0),
    };
    let offset = usize::from(header.fragments_offset().value()) * 8;
    if offset > 0 {
        return later(pieces, offset, payload);
    }
    let more = header.more_fragments();
    let (upper, length) = upper(header.protocol().0, payload, more)?;
    // IGMP (RFC 3376, section 4), which stays on its link.
    if header.protocol().0 == 2
        && header.ttl() == 1
        && !more
        && header.destination_addr().is_multicast()
        && payload.len() >= 8
        && [0x11, 0x12, 0x16, 0x17, 0x22].contains(&payload[0])
    {
        return Ok(Sight::Link(Reason::Neighbour));
    }
    Ok(Sight::Packet(Seen {
        source: pieces.source,
        destination: pieces.destination,
        protocol: header.protocol().0,
        upper,
        first: more.then_some((pieces, length)),
    }))
}

fn later(pieces: Pieces, offset: usize, payload: &[u8]) -> Result<Sight, Reason> {
    if offset + payload.len() > 0xffff {
        return Err(Reason::Malformed);
    }
    Ok(Sight::Later(pieces, offset))
}

fn ipv6(rest: &[u8]) -> Result<Sight, Reason> {
    let header = Ipv6HeaderSlice::from_slice(rest).map_err(|_| Reason::Malformed)?;
    let end = 40 + usize::from(header.payload_length());
    let mut payload = rest.get(40..end).ok_or(Reason::Malformed)?;
    let (source, destination) = (
        header.source_addr().into(),
        header.destination_addr().into(),
    );
    let mut next = header.next_header().0;
    let mut more = false;
    // Its pieces, and what was left of the payload behind its header.
    let mut fragment: Option<(Pieces, usize)> = None;
    let mut count = 0;
    while EXTENSIONS.contains(&next) {
        if count == 6 {
            return Err(Reason::ExtensionHeaders);
        }
        count += 1;
        let cut = if more {
            Reason::FragmentSmall
        } else {
            Reason::Malformed
        };
        if payload.len() < 8 {
            return Err(cut);
        }
        let length = match next {
            44 => {
                let header =
                    Ipv6FragmentHeaderSlice::from_slice(payload).map_err(|_| Reason::Malformed)?;
                if fragment.is_some() {
                    return Err(Reason::Malformed);
                }
                let pieces = Pieces {
                    source,
                    destination,
                    id: header.identification(),
                    protocol: None,
                };
                let offset = usize::from(header.fragment_offset().value()) * 8;
                if offset > 0 {
                    return later(pieces, offset, &payload[8..]);
                }
                more = header.more_fragments();
                fragment = Some((pieces, payload.len() - 8));
                Some(8)
            }
            _ => Ipv6RawExtHeaderSlice::from_slice(payload)
                .ok()
                .map(|header| header.slice().len()),
        };
        next = payload[0];
        match length {
            Some(length) => payload = &payload[length..],
            // One too many is one too many, also behind one that is too long.
            None if count == 6 && EXTENSIONS.contains(&next) => {
                return Err(Reason::ExtensionHeaders);
            }
            None => return Err(cut),
        }
    }
    let (upper, length) = upper(next, payload, more)?;
    let neighbour = match upper {
        Upper::Icmp([133..=136, 0]) if next == 58 => header.hop_limit() == 255,
        Upper::Icmp([130..=132 | 143, _]) if next == 58 => {
            let source = header.source_addr();
            let near = source.is_unspecified() || source.is_unicast_link_local();
            header.hop_limit() == 1 && near && header.destination_addr().is_multicast()
        }
        _ => false,
    };
    if neighbour && fragment.is_none() {
        return Ok(Sight::Link(Reason::Neighbour));
    }
    let first = fragment.filter(|_| more);
    Ok(Sight::Packet(Seen {
        source,
        destination,
        protocol: next,
        upper,
        first: first.map(|(pieces, all)| (pieces, all - payload.len() + length)),
    }))
}

/// What a packet carries, and how long its header is. Of a first fragment more follows.
fn upper(protocol: u8, payload: &[u8], more: bool) -> Result<(Upper, usize), Reason> {
    let least = match protocol {
        1 | 17 | 58 => 8,
        6 => 20,
        132 => 12,
        _ => return Ok((Upper::Other, 0)),
    };
    let cut = if more {
        Reason::FragmentSmall
    } else {
        Reason::Malformed
    };
    if payload.len() < least {
        return Err(cut);
    }
    match protocol {
        6 => match TcpHeaderSlice::from_slice(payload) {
            Ok(header) => Ok((
                Upper::Tcp {
                    ports: [header.source_port(), header.destination_port()],
                    syn: header.syn(),
                    ack: header.ack(),
                    rst: header.rst(),
                    fin: header.fin(),
                },
                header.slice().len(),
            )),
            Err(etherparse::err::tcp::HeaderSliceError::Len(_)) => Err(cut),
            Err(etherparse::err::tcp::HeaderSliceError::Content(_)) => Err(Reason::Malformed),
        },
        17 => {
            let header = UdpHeaderSlice::from_slice(payload).map_err(|_| cut)?;
            let length = usize::from(header.length());
            if length < 8 || (!more && length > payload.len()) {
                return Err(Reason::Malformed);
            }
            let ports = [header.source_port(), header.destination_port()];
            Ok((Upper::Ports(ports), 8))
        }
        132 => {
            let port = |at| u16::from_be_bytes([payload[at], payload[at + 1]]);
            let ports = [port(0), port(2)];
            // RFC 9260, section 3.2.
            let upper = match payload.get(12) {
                Some(2) => Upper::InitAck(ports),
                _ => Upper::Ports(ports),
            };
            Ok((upper, 12))
        }
        _ => Ok((Upper::Icmp([payload[0], payload[1]]), 8)),
    }
}
