//! What should become of a frame.

use std::net::IpAddr;

use super::sight::{Pieces, Seen, Sight, Upper, look};
use crate::{layout::Direction, reason::Reason};

/// What is asked of a policy: may this flow be opened?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Ingress: the other end opens it.
    pub direction: Direction,
    /// This end.
    pub local: IpAddr,
    /// The other end.
    pub remote: IpAddr,
    /// IANA number.
    pub protocol: u8,
    /// Destination port, ICMP type and code, or the protocol's number.
    pub service: u16,
}

/// A host that has seen nothing but, perhaps, one first fragment.
#[derive(Debug, Default)]
pub struct Model {
    first: Option<(Direction, Pieces, usize)>,
}

/// What should become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// With no packet before it, but for first fragments: empty the tables of flows and fragments.
    pub afresh: bool,
    /// Why it passes, or why it is dropped.
    pub outcome: Result<Reason, Reason>,
}

impl Model {
    /// What should become of the next frame, where `allows` is the policy and other EtherTypes are dropped.
    pub fn expect(
        &mut self,
        direction: Direction,
        frame: &[u8],
        allows: impl Fn(Asked) -> bool,
    ) -> Expected {
        let sight = look(frame);
        if let Ok(Sight::Later(pieces, offset)) = sight {
            let outcome = match &self.first {
                Some((way, first, edge)) if *way == direction && *first == pieces => {
                    if offset < *edge {
                        Err(Reason::FragmentOverlap)
                    } else {
                        Ok(Reason::Allowed)
                    }
                }
                _ => Err(Reason::FragmentOrphan),
            };
            return Expected {
                afresh: false,
                outcome,
            };
        }
        self.first = None;
        let outcome = sight.and_then(|sight| match sight {
            Sight::Link(reason) => Ok(reason),
            Sight::Packet(seen) => opens(direction, &seen, allows).inspect(|_| {
                self.first = seen.first.map(|(pieces, edge)| (direction, pieces, edge));
            }),
            Sight::Other | Sight::Later(..) => Err(Reason::EtherType),
        });
        Expected {
            afresh: true,
            outcome,
        }
    }
}

/// What becomes of a packet that no flow claims.
fn opens(
    direction: Direction,
    seen: &Seen,
    allows: impl Fn(Asked) -> bool,
) -> Result<Reason, Reason> {
    let ask = |opened: Direction, service| {
        let (local, remote) = match direction {
            Direction::Ingress => (seen.destination, seen.source),
            Direction::Egress => (seen.source, seen.destination),
        };
        allows(Asked {
            direction: opened,
            local,
            remote,
            protocol: seen.protocol,
            service,
        })
    };
    let by_policy = |allowed| {
        if allowed {
            Ok(Reason::Allowed)
        } else {
            Err(Reason::Policy)
        }
    };
    let (ports, syn, ack, rst, fin) = match seen.upper {
        Upper::Ports([_, to]) => return by_policy(ask(direction, to)),
        // The host has accepted what the other end opened.
        Upper::InitAck([from, _]) if direction == Direction::Egress => {
            return by_policy(ask(direction.opposite(), from));
        }
        Upper::InitAck([_, to]) => return by_policy(ask(direction, to)),
        Upper::Icmp(kind_and_code) => {
            return by_policy(ask(direction, u16::from_be_bytes(kind_and_code)));
        }
        Upper::Other => return by_policy(ask(direction, seen.protocol.into())),
        Upper::Tcp {
            ports,
            syn,
            ack,
            rst,
            fin,
        } => (ports, syn, ack, rst, fin),
    };
    let [from, to] = ports;
    let sender = ask(direction, to);
    let receiver = || ask(direction.opposite(), from);
    match (syn, ack, rst, fin) {
        (true, false, false, false) | (false, false, true, false) => by_policy(sender),
        // The host has accepted what the other end opened.
        (true, true, false, false) if direction == Direction::Egress => by_policy(receiver()),
        // In the middle of a connection from before the agent: as if its opener asked.
        (false, true, _, _) => by_policy(match (caller(from, to), caller(to, from)) {
            (true, _) => sender,
            (_, true) => receiver(),
            _ => sender || receiver(),
        }),
        _ if sender => Err(Reason::TcpFlags),
        _ => Err(Reason::Policy),
    }
}

/// Whether ports tell that the end of the first one calls the other: a client's a server's.
fn caller(from: u16, to: u16) -> bool {
    let of_client = from >= 32_768 && to < 32_768;
    let of_system = from >= 1_024 && to < 512;
    of_client || of_system
}

/// The frames of an input: before each stand two bytes, one bit for egress and fifteen for its length. What
/// the input does not have is left out.
pub fn frames_of(mut input: &[u8]) -> Vec<(Direction, &[u8])> {
    let mut frames = Vec::new();
    while let [high, low, rest @ ..] = input {
        let head = u16::from_be_bytes([*high, *low]);
        let length = usize::from(head & 0x7fff).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        frames.push((Direction::from_number((head >> 15) as u8), frame));
        input = rest;
    }
    frames
}
