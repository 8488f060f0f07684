//! Headers above IP: ports, flags, ICMP.

use crate::{
    headers::{Extent, Headers, Sight, protocol},
    layout::Address,
    packet::Packet,
    reason::Reason,
};

/// Reads what an IP header carries; gives where its header ends, as far as it is looked into.
#[inline(always)]
pub(super) fn transport<P: Packet + ?Sized, A: Address>(
    packet: &P,
    at: u32,
    extent: Extent,
    number: u8,
    headers: &mut Headers<A>,
) -> Result<u32, Reason> {
    headers.protocol = number;
    headers.service = u16::from(number);
    let minimum = match number {
        // Eight bytes are what an ICMP error must quote (RFC 792).
        protocol::TCP | protocol::SCTP if extent.sight == Sight::Quoted => 8,
        protocol::TCP => 20,
        protocol::UDP | protocol::ICMP | protocol::ICMPV6 => 8,
        protocol::SCTP => 12,
        _ => 0,
    };
    extent.reaches(at + minimum)?;
    if minimum == 0 {
        return Ok(at);
    }
    let mut ends = at + minimum;
    let head: [u8; 8] = packet.load(at).ok_or(Reason::Malformed)?;
    match number {
        protocol::ICMP | protocol::ICMPV6 => {
            headers.service = u16::from_be_bytes([head[0], head[1]]);
            // As if they were ports, so that a reply falls into the flow of its request and nothing
            // else does, least of all a request from the other end.
            let identifier = u16::from_be_bytes([head[4], head[5]]);
            match echo(number, head[0]) {
                Some(Echo::Request) => headers.source_port = identifier,
                Some(Echo::Reply) => headers.destination_port = identifier,
                None => headers.source_port = headers.service,
            }
            if is_error(number, head[0]) {
                headers.inner = at + 8;
            }
            return Ok(ends);
        }
        protocol::UDP => {
            let length = u32::from(u16::from_be_bytes([head[4], head[5]]));
            if length < 8 || (extent.sight == Sight::Whole && at + length > extent.end) {
                return Err(Reason::Malformed);
            }
            headers.payload = ends;
        }
        protocol::TCP if extent.sight != Sight::Quoted => {
            let [offset, flags]: [u8; 2] = packet.load(at + 12).ok_or(Reason::Malformed)?;
            let length = u32::from(offset >> 4) * 4;
            if length < 20 {
                return Err(Reason::Malformed);
            }
            ends = at + length;
            extent.reaches(ends)?;
            headers.tcp_flags = flags;
        }
        _ => {}
    }
    headers.source_port = u16::from_be_bytes([head[0], head[1]]);
    headers.destination_port = u16::from_be_bytes([head[2], head[3]]);
    headers.service = headers.destination_port;
    Ok(ends)
}

enum Echo {
    Request,
    Reply,
}

#[inline(always)]
const fn echo(number: u8, kind: u8) -> Option<Echo> {
    match (number, kind) {
        (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => Some(Echo::Request),
        (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => Some(Echo::Reply),
        _ => None,
    }
}

/// Errors that quote the packet which caused them. A redirect is none: it changes routes.
#[inline(always)]
const fn is_error(number: u8, kind: u8) -> bool {
    match number {
        protocol::ICMP => matches!(kind, 3 | 11 | 12),
        _ => matches!(kind, 1..=4),
    }
}
