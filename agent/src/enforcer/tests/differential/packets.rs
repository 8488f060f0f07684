//! Packets of a sequence, as frames.

use super::*;

/// A packet of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Sent by the end that the sequence is named after, and not by the other.
    pub by_opener: bool,
    pub kind: Kind,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// TCP and SCTP, to open.
    Syn,
    /// TCP and SCTP, to accept.
    SynAck,
    /// TCP and SCTP, in the middle.
    Ack,
    /// TCP, to close.
    Fin,
    /// TCP, of no connection.
    Reset,
    /// TCP, with no flags at all.
    Null,
    /// UDP, ICMP echo.
    Datagram,
    /// UDP in two fragments.
    Fragments,
}

/// Whether sequences of it have keys of their own: what has ports, and pings.
pub(super) fn has_sequences(flow: &Flow) -> bool {
    matches!(
        flow.port.slot,
        ProtocolSlot::Tcp | ProtocolSlot::Udp | ProtocolSlot::Sctp
    ) || flow.port == ping(flow).port
}

/// A ping between the same ends.
pub(super) fn ping(flow: &Flow) -> Flow {
    let (slot, kind) = if flow.source.is_ipv4() {
        (ProtocolSlot::Icmp, 8)
    } else {
        (ProtocolSlot::Icmpv6, 128)
    };
    let key = kind << 8;
    Flow {
        port: PortKey { slot, key },
        ..*flow
    }
}

impl Packet {
    pub fn random(flow: &Flow, mut below: impl FnMut(usize) -> usize) -> Self {
        let by_opener = below(5) < 3;
        let kind = match flow.port.slot {
            ProtocolSlot::Tcp | ProtocolSlot::Sctp if by_opener && below(3) == 0 => Kind::Syn,
            ProtocolSlot::Tcp | ProtocolSlot::Sctp if !by_opener && below(3) == 0 => Kind::SynAck,
            // What an attacker mixes in.
            ProtocolSlot::Tcp | ProtocolSlot::Sctp if below(8) == 0 => {
                [Kind::Syn, Kind::SynAck][below(2)]
            }
            ProtocolSlot::Tcp if below(5) == 0 => [Kind::Fin, Kind::Reset, Kind::Null][below(3)],
            ProtocolSlot::Tcp | ProtocolSlot::Sctp => Kind::Ack,
            ProtocolSlot::Udp if below(4) == 0 => Kind::Fragments,
            _ => Kind::Datagram,
        };
        Self { by_opener, kind }
    }

    /// Its frames: one, or two fragments with this identification.
    pub fn frames(self, flow: &Flow, client: u16, identification: u16) -> Vec<Vec<u8>> {
        let PortKey { slot, key } = flow.port;
        let ((source, destination), (from, to)) = if self.by_opener {
            ((flow.source, flow.destination), (client, key))
        } else {
            ((flow.destination, flow.source), (key, client))
        };
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let network = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                link.ipv4(source.octets(), destination.octets(), 64)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                link.ipv6(source.octets(), destination.octets(), 64)
            }
            _ => unreachable!("flows are of one family"),
        };
        let mut frame = Vec::new();
        let payload = [7; 16];
        let written = match slot {
            ProtocolSlot::Tcp => {
                let segment = network.tcp(from, to, 1, 1024);
                let segment = match self.kind {
                    Kind::Syn => segment.syn(),
                    Kind::SynAck => segment.syn().ack(1),
                    Kind::Reset => segment.rst(),
                    Kind::Null => segment,
                    Kind::Fin => segment.ack(1).fin(),
                    _ => segment.ack(1),
                };
                segment.write(&mut frame, &payload)
            }
            ProtocolSlot::Udp => network.udp(from, to).write(&mut frame, &payload),
            ProtocolSlot::Sctp => {
                let [[a, b], [c, d]] = [from.to_be_bytes(), to.to_be_bytes()];
                let chunk = match self.kind {
                    Kind::Syn => 1,
                    Kind::SynAck => 2,
                    _ => 0,
                };
                let sctp = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, chunk, 0, 0, 4];
                network.write(&mut frame, 132.into(), &sctp)
            }
            _ => match (source.is_ipv4(), self.by_opener) {
                (true, true) => network
                    .icmpv4_echo_request(client, 1)
                    .write(&mut frame, &payload),
                (true, false) => network
                    .icmpv4_echo_reply(client, 1)
                    .write(&mut frame, &payload),
                (false, true) => network
                    .icmpv6_echo_request(client, 1)
                    .write(&mut frame, &payload),
                (false, false) => network
                    .icmpv6_echo_reply(client, 1)
                    .write(&mut frame, &payload),
            },
        };
        written.unwrap();
        if self.kind == Kind::Fragments {
            in_two(&frame, identification)
        } else {
            vec![frame]
        }
    }
}

/// A UDP frame as two fragments: ports and eight bytes, and the rest.
fn in_two(frame: &[u8], identification: u16) -> Vec<Vec<u8>> {
    const CUT: usize = 16;
    let id = identification.to_be_bytes();
    let ends = [(0, CUT, true), (CUT, 24, false)];
    ends.map(|(start, end, more)| {
        let offset = u16::try_from(start / 8).unwrap();
        let mut piece = frame[..14].to_vec();
        if frame[12..14] == [0x08, 0x00] {
            let mut header = frame[14..34].to_vec();
            let length = u16::try_from(20 + end - start).unwrap();
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header[4..6].copy_from_slice(&id);
            let more = if more { 0x2000 } else { 0 };
            header[6..8].copy_from_slice(&(offset | more).to_be_bytes());
            piece.extend(header);
            piece.extend(&frame[34 + start..34 + end]);
        } else {
            let mut header = frame[14..54].to_vec();
            let length = u16::try_from(8 + end - start).unwrap();
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header[6] = 44;
            piece.extend(header);
            let place = (offset << 3 | u16::from(more)).to_be_bytes();
            piece.extend([17, 0, place[0], place[1], 0, 0, id[0], id[1]]);
            piece.extend(&frame[54 + start..54 + end]);
        }
        piece
    })
    .into()
}
