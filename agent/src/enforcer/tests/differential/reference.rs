//! What should become of the packets of a sequence, by policy evaluation and what the design says of flows.

use std::cell::RefCell;

use policy::Tier;

use super::{packets::Kind, *};

/// A policy set with those who are there, and what was asked of it.
pub(super) struct World {
    scenario: Scenario,
    pub policies: Vec<HostPolicy>,
    asked: RefCell<HashMap<(Flow, bool), Answer>>,
}

/// What policy says of a flow, on the side of the host.
#[derive(Clone, Copy, Debug)]
struct Answer {
    allows: bool,
    /// It is of a tier above what operators write: a deny is meant for every packet, and an allow holds also
    /// where nobody knows who opened the connection.
    firm: bool,
}

impl World {
    pub fn of(scenario: &Scenario) -> Self {
        Self {
            scenario: scenario.clone(),
            policies: policies(scenario),
            asked: RefCell::default(),
        }
    }

    fn ask(&self, flow: Flow, inward: bool) -> Answer {
        *self
            .asked
            .borrow_mut()
            .entry((flow, inward))
            .or_insert_with(|| {
                let verdict = evaluate(&self.scenario.set, &self.scenario.inventory, &flow);
                let side = if inward {
                    verdict.ingress
                } else {
                    verdict.egress
                };
                Answer {
                    allows: side.enforced.effect == Effect::Allow,
                    firm: side.enforced.tier < Tier::Guardrail,
                }
            })
    }
}

/// A sequence of packets between the ends of a flow, and what the host remembers of it.
#[derive(Debug)]
pub(super) struct Reference {
    /// As its opener would ask.
    pub flow: Flow,
    /// The opener is elsewhere.
    inward: bool,
    client: u16,
    fragments: u16,
    entry: Option<Entry>,
    /// The last world's place, to know another by.
    world: usize,
}

/// What the flow table has of it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    opener: Opener,
    /// The host itself has shown who it is.
    is_seen: bool,
    state: State,
    /// Judged by the present world.
    judged: bool,
}

/// Who opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opener {
    /// The end that the sequence is named after, or the other.
    End {
        opener: bool,
    },
    Both,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Established,
    Closing,
    Revoked,
}

impl Entry {
    fn goes_on(&self) -> bool {
        matches!(self.state, State::New | State::Established)
    }
}

impl Reference {
    pub fn new(flow: Flow, inward: bool, client: u16) -> Self {
        Self {
            flow,
            inward,
            client,
            fragments: 0,
            entry: None,
            world: 0,
        }
    }

    /// The frames of a packet, with direction and what should become of each.
    pub fn next(
        &mut self,
        world: &World,
        packet: Packet,
    ) -> Vec<(Vec<u8>, Direction, Result<Reason, Reason>)> {
        let place = std::ptr::from_ref(world) as usize;
        if self.world != place {
            self.world = place;
            if let Some(entry) = &mut self.entry {
                entry.judged = false;
            }
        }
        // Both ends that go on after a FIN bring the connection back after a second: this knows no time.
        let is_closing = |entry: Entry| entry.state == State::Closing;
        let kind = match packet.kind {
            Kind::Ack if self.entry.is_some_and(is_closing) => Kind::Fin,
            kind => kind,
        };
        let packet = Packet { kind, ..packet };
        self.fragments += 1;
        // No two packets of a round have it.
        let identification = self.client.wrapping_mul(64).wrapping_add(self.fragments);
        let frames = packet.frames(&self.flow, self.client, identification);
        let direction = if packet.by_opener == self.inward {
            Direction::Ingress
        } else {
            Direction::Egress
        };
        let first = self.judge(world, packet);
        let later = first.map_err(|_| Reason::FragmentOrphan);
        let outcomes = std::iter::once(first).chain(std::iter::repeat(later));
        frames
            .into_iter()
            .zip(outcomes)
            .map(|(frame, outcome)| (frame, direction, outcome))
            .collect()
    }

    fn is_connection(&self) -> bool {
        matches!(self.flow.port.slot, ProtocolSlot::Tcp | ProtocolSlot::Sctp)
    }

    fn judge(&mut self, world: &World, packet: Packet) -> Result<Reason, Reason> {
        let Some(mut entry) = self.entry else {
            return self.judge_without(world, packet, false);
        };
        let outward = packet.by_opener != self.inward;
        let sender = Opener::End {
            opener: packet.by_opener,
        };
        let is_its_own = entry.opener == sender;
        if !self.is_connection() {
            // A request on the identifier of a reply that nobody asked for.
            let is_ping = self.flow.port.slot != ProtocolSlot::Udp;
            if is_ping && packet.by_opener && !is_its_own {
                return self.judge_without(world, packet, false);
            }
        } else if packet.kind == Kind::Syn {
            let is_known = is_its_own
                && entry.goes_on()
                && if outward {
                    entry.is_seen && entry.state == State::New
                } else {
                    entry.is_seen || entry.judged
                };
            if !is_known {
                if outward || is_its_own && entry.is_seen {
                    return self.judge_without(world, packet, true);
                }
                // It passes by itself, and changes nothing.
                return self.by_policy(self.ask(world, packet.by_opener).allows);
            }
        }
        if outward && packet.kind == Kind::SynAck {
            entry = self.accept(entry);
        }
        if !entry.judged || entry.state == State::Revoked {
            entry.judged = true;
            if !self.may_go_on(world, &entry) {
                entry.state = State::Revoked;
                self.entry = Some(entry);
                return Err(Reason::Revoked);
            }
            if entry.state == State::Revoked {
                entry.state = State::Established;
            }
        }
        let is_over = if self.is_connection() {
            outward && matches!(packet.kind, Kind::Ack | Kind::Fin)
        } else {
            true
        };
        if entry.state != State::New || is_over {
            if matches!(packet.kind, Kind::Fin | Kind::Reset) {
                entry.state = State::Closing;
            } else if entry.state == State::New && self.is_connection() {
                entry.state = State::Established;
            }
        }
        self.entry = Some(entry);
        Ok(Reason::Allowed)
    }

    /// The end that is elsewhere.
    fn remote(&self) -> Opener {
        Opener::End {
            opener: self.inward,
        }
    }

    /// The host accepts a connection.
    fn accept(&self, entry: Entry) -> Entry {
        let is_new = entry.state == State::New;
        let is_asked_for = entry.opener == self.remote() && (entry.is_seen || is_new);
        let (opener, state) = match entry.state {
            State::New if entry.is_seen && entry.opener != self.remote() => {
                (Opener::Both, State::New)
            }
            State::Revoked => (self.remote(), State::Revoked),
            _ => (self.remote(), State::Established),
        };
        Entry {
            opener,
            is_seen: true,
            state,
            judged: entry.judged && is_asked_for,
        }
    }

    fn may_go_on(&self, world: &World, entry: &Entry) -> bool {
        if let Opener::End { opener } = entry.opener
            && entry.is_seen
        {
            return self.ask(world, opener).allows;
        }
        let ends = [true, false].map(|opener| self.ask(world, opener));
        ends.iter().any(|end| end.allows && end.firm) || ends.iter().all(|end| end.allows)
    }

    /// What policy says if this end opens.
    fn ask(&self, world: &World, opener: bool) -> Answer {
        let asks = if opener {
            self.flow
        } else {
            let PortKey { slot, .. } = self.flow.port;
            let key = match slot {
                ProtocolSlot::Icmp => 0,
                ProtocolSlot::Icmpv6 => 129 << 8,
                _ => self.client,
            };
            Flow {
                source: self.flow.destination,
                destination: self.flow.source,
                port: PortKey { slot, key },
            }
        };
        world.ask(asks, opener == self.inward)
    }

    fn by_policy(&self, allows: bool) -> Result<Reason, Reason> {
        if allows {
            Ok(Reason::Allowed)
        } else {
            Err(Reason::Policy)
        }
    }

    /// A packet that no entry claims. `over` where the same end has opened a connection before.
    fn judge_without(
        &mut self,
        world: &World,
        packet: Packet,
        over: bool,
    ) -> Result<Reason, Reason> {
        let asked = self.ask(world, packet.by_opener);
        let outward = packet.by_opener != self.inward;
        let sender = Opener::End {
            opener: packet.by_opener,
        };
        let is_tcp = self.flow.port.slot == ProtocolSlot::Tcp;
        let guess = if self.flow.port.key >= 32_768 {
            Opener::Unknown
        } else {
            Opener::End { opener: true }
        };
        let (opener, is_seen, state, passes) = match packet.kind {
            Kind::Datagram | Kind::Fragments => (sender, true, State::New, asked.allows),
            Kind::Syn => (sender, outward || over, State::New, asked.allows),
            Kind::SynAck if outward => {
                let passes = self.ask(world, self.inward).allows;
                let passes = passes && (asked.allows || !asked.firm);
                (self.remote(), true, State::Established, passes)
            }
            Kind::SynAck | Kind::Ack if !is_tcp => (guess, false, State::Established, asked.allows),
            Kind::SynAck | Kind::Null if asked.allows => return Err(Reason::TcpFlags),
            Kind::SynAck | Kind::Null => return Err(Reason::Policy),
            Kind::Reset => (sender, false, State::Closing, asked.allows),
            Kind::Ack | Kind::Fin => {
                let may = |opener| self.ask(world, opener).allows;
                let passes = match guess {
                    Opener::End { opener } => may(opener),
                    _ => may(true) || may(false),
                };
                let state = if packet.kind == Kind::Fin {
                    State::Closing
                } else {
                    State::Established
                };
                let passes = passes && (asked.allows || !asked.firm);
                (guess, false, state, passes)
            }
        };
        self.by_policy(passes)?;
        self.entry = Some(Entry {
            opener,
            is_seen,
            state,
            judged: true,
        });
        Ok(Reason::Allowed)
    }
}
