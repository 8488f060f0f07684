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
    /// Its deny is meant for every packet.
    strict: bool,
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
                    strict: side.enforced.effect == Effect::Deny
                        && side.enforced.tier < Tier::Guardrail,
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
    /// Who opened it, and what for.
    opened: Opened,
    goes_on: bool,
    revoked: bool,
    /// Judged by the present world.
    judged: bool,
}

/// A flow that was opened.
#[derive(Clone, Copy, Debug)]
enum Opened {
    /// In the sequence's direction, or against it, with what was asked for.
    By { opener: bool, asks: Flow },
    /// By whom is not known.
    ByEither,
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

    fn judge(&mut self, world: &World, packet: Packet) -> Result<Reason, Reason> {
        let Some(mut entry) = self.entry else {
            return self.judge_without(world, packet);
        };
        // A connection that is over makes room for another.
        if packet.kind == Kind::Syn && (!entry.goes_on || !self.opened_by_sender(&entry, packet)) {
            return if entry.goes_on {
                self.pass_by(world, packet)
            } else {
                self.judge_without(world, packet)
            };
        }
        if !entry.judged || entry.revoked {
            entry.judged = true;
            if !self.allows(world, entry.opened) {
                entry.revoked = true;
                entry.goes_on = false;
                self.entry = Some(entry);
                return Err(Reason::Revoked);
            }
            if entry.revoked {
                entry.revoked = false;
                entry.goes_on = true;
            }
        }
        if packet.kind == Kind::Fin {
            entry.goes_on = false;
        }
        self.entry = Some(entry);
        Ok(Reason::Allowed)
    }

    fn opened_by_sender(&self, entry: &Entry, packet: Packet) -> bool {
        match entry.opened {
            Opened::By { opener, .. } => opener == packet.by_opener,
            Opened::ByEither => false,
        }
    }

    /// A SYN on the ports of a connection that goes on and is not its own.
    fn pass_by(&self, world: &World, packet: Packet) -> Result<Reason, Reason> {
        if self.allows(world, self.asked_by(packet)) {
            Ok(Reason::Allowed)
        } else {
            Err(Reason::Policy)
        }
    }

    /// What the sender asks for, if it opens.
    fn asked_by(&self, packet: Packet) -> Opened {
        let mut asks = self.flow;
        if !packet.by_opener {
            asks = Flow {
                source: self.flow.destination,
                destination: self.flow.source,
                port: PortKey {
                    slot: self.flow.port.slot,
                    key: match self.flow.port.slot {
                        ProtocolSlot::Icmp => 0,
                        ProtocolSlot::Icmpv6 => 129 << 8,
                        _ => self.client,
                    },
                },
            };
        }
        Opened::By {
            opener: packet.by_opener,
            asks,
        }
    }

    fn answer(&self, world: &World, opened: Opened) -> Answer {
        match opened {
            Opened::By { opener, asks } => world.ask(asks, opener == self.inward),
            Opened::ByEither => {
                let [one, other] = [true, false].map(|by_opener| {
                    let kind = Kind::Ack;
                    self.answer(world, self.asked_by(Packet { by_opener, kind }))
                });
                if one.allows { one } else { other }
            }
        }
    }

    fn allows(&self, world: &World, opened: Opened) -> bool {
        self.answer(world, opened).allows
    }

    fn judge_without(&mut self, world: &World, packet: Packet) -> Result<Reason, Reason> {
        let asked = self.asked_by(packet);
        let is_middle = matches!(packet.kind, Kind::Ack | Kind::Fin);
        let opened = if !is_middle {
            asked
        } else if self.flow.port.key >= 32_768 {
            Opened::ByEither
        } else {
            self.asked_by(Packet {
                by_opener: true,
                ..packet
            })
        };
        let sender = self.answer(world, asked);
        let excepted = sender.allows || !sender.strict;
        let passes = self.allows(world, opened) && (!is_middle || excepted);
        if !passes {
            return Err(Reason::Policy);
        }
        self.entry = Some(Entry {
            opened,
            goes_on: packet.kind != Kind::Fin,
            revoked: false,
            judged: true,
        });
        Ok(Reason::Allowed)
    }
}
