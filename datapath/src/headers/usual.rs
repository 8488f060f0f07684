//! Headers as nearly all packets have them: no tags, no options, no extension headers, whole, TCP or UDP. They
//! stand where they always do, and are read in a few loads.

use crate::{
    headers::{Headers, Network, protocol},
    layout::{Ipv4, Ipv6},
    packet::Packet,
};

/// Where the network header begins without tags.
pub const UNTAGGED: u32 = 14;

/// An address family, as most of its packets are read.
pub trait Usual: Network {
    /// What [`Network::read`] makes of a packet at [`UNTAGGED`], if it is one of these; `None` says nothing about
    /// it.
    fn usual<P: Packet + ?Sized>(packet: &P) -> Option<Headers<Self>>;
}

impl Usual for Ipv4 {
    #[inline(always)]
    fn usual<P: Packet + ?Sized>(packet: &P) -> Option<Headers<Self>> {
        let header: [u8; 20] = packet.load(UNTAGGED)?;
        let total_length = u32::from(u16::from_be_bytes([header[2], header[3]]));
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        let end = UNTAGGED + total_length;
        if header[0] != 0x45 || fragment & 0x3fff != 0 || end > packet.len() {
            return None;
        }
        let headers = Headers {
            source: Ipv4([header[12], header[13], header[14], header[15]]),
            destination: Ipv4([header[16], header[17], header[18], header[19]]),
            protocol: header[9],
            fragment_id: u32::from(u16::from_be_bytes([header[4], header[5]])),
            ..Headers::UNREAD
        };
        with_ports(packet, UNTAGGED + 20, end, headers)
    }
}

impl Usual for Ipv6 {
    #[inline(always)]
    fn usual<P: Packet + ?Sized>(packet: &P) -> Option<Headers<Self>> {
        let fixed: [u8; 8] = packet.load(UNTAGGED)?;
        let payload_length = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        let end = UNTAGGED + 40 + payload_length;
        if fixed[0] >> 4 != 6 || end > packet.len() {
            return None;
        }
        let headers = Headers {
            source: Self(packet.load(UNTAGGED + 8)?),
            destination: Self(packet.load(UNTAGGED + 24)?),
            protocol: fixed[6],
            ..Headers::UNREAD
        };
        with_ports(packet, UNTAGGED + 40, end, headers)
    }
}

/// Reads TCP or UDP at `at`, of a packet that ends at `end`.
#[inline(always)]
fn with_ports<P: Packet + ?Sized, A>(
    packet: &P,
    at: u32,
    end: u32,
    mut headers: Headers<A>,
) -> Option<Headers<A>> {
    let length = match headers.protocol {
        protocol::TCP => {
            let [offset, flags]: [u8; 2] = packet.load(at + 12)?;
            headers.tcp_flags = flags;
            let length = u32::from(offset >> 4) * 4;
            headers.fragment_edge = length as u16;
            if length < 20 {
                return None;
            }
            length
        }
        protocol::UDP => {
            let length: [u8; 2] = packet.load(at + 4)?;
            headers.fragment_edge = 8;
            headers.payload = at + 8;
            let length = u16::from_be_bytes(length);
            if length < 8 {
                return None;
            }
            u32::from(length)
        }
        _ => return None,
    };
    if at + length > end {
        return None;
    }
    let ports: [u8; 4] = packet.load(at)?;
    headers.source_port = u16::from_be_bytes([ports[0], ports[1]]);
    headers.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
    headers.service = headers.destination_port;
    Some(headers)
}
