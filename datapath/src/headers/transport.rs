//! Headers above IP: ports, flags, ICMP.

use crate::{
    headers::{Extent, Headers, Sight, echo, protocol, tcp_flag},
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
            headers.echo = echo_of(number, [head[0], head[1]]);
            match headers.echo {
                echo::REQUEST => headers.source_port = identifier,
                echo::REPLY => headers.destination_port = identifier,
                _ => headers.source_port = headers.service,
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
        protocol::SCTP if extent.sight != Sight::Quoted => {
            // A packet without a chunk is one that no stack sends.
            let chunk = packet.load_far(ends);
            headers.tcp_flags = match chunk {
                Some([1]) if ends < extent.end => tcp_flag::SYN,
                Some([2]) if ends < extent.end => tcp_flag::SYN | tcp_flag::ACK,
                _ => tcp_flag::ACK,
            };
        }
        _ => {}
    }
    headers.source_port = u16::from_be_bytes([head[0], head[1]]);
    headers.destination_port = u16::from_be_bytes([head[2], head[3]]);
    headers.service = headers.destination_port;
    Ok(ends)
}

#[inline(always)]
const fn echo_of(number: u8, kind_and_code: [u8; 2]) -> u8 {
    match (number, kind_and_code) {
        (protocol::ICMP, [8, 0]) | (protocol::ICMPV6, [128, 0]) => echo::REQUEST,
        (protocol::ICMP, [0, 0]) | (protocol::ICMPV6, [129, 0]) => echo::REPLY,
        _ => echo::NONE,
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
