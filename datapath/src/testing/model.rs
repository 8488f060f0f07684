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
            Sight::Packet(seen) if opens(direction, &seen, allows) => {
                self.first = seen.first.map(|(pieces, edge)| (direction, pieces, edge));
                Ok(Reason::Allowed)
            }
            Sight::Packet(_) => Err(Reason::Policy),
            Sight::Other | Sight::Later(..) => Err(Reason::EtherType),
        });
        Expected {
            afresh: true,
            outcome,
        }
    }
}

/// Whether a packet passes that no flow claims.
fn opens(direction: Direction, seen: &Seen, allows: impl Fn(Asked) -> bool) -> bool {
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
    match seen.upper {
        Upper::Ports([_, to]) => ask(direction, to),
        Upper::Icmp(kind_and_code) => ask(direction, u16::from_be_bytes(kind_and_code)),
        Upper::Other => ask(direction, seen.protocol.into()),
        Upper::Tcp {
            ports: [_, to],
            syn: true,
            ack: false,
        } => ask(direction, to),
        // In the middle of a connection from before the agent: as if its opener asked.
        Upper::Tcp {
            ports: [from, to],
            syn,
            ack: _,
        } => {
            let sender = || ask(direction, to);
            let receiver = || ask(direction.opposite(), from);
            match (from >= 32_768, to >= 32_768) {
                _ if syn => receiver(),
                (true, false) => sender(),
                (false, true) => receiver(),
                _ => sender() || receiver(),
            }
        }
    }
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
