//! A peer that sends whatever it likes beside a connection, against a host whose stack drops what is not right.
//!
//! The stack here knows who has really opened the connection, and that is all that the verdicts are held to:
//! once the generation has changed, a packet of it passes only if the live one allows that.

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Publish(World),
    /// Seconds.
    Wait(u64),
    /// The host opens a connection, or tries again.
    Connect,
    /// Whoever is connected sends.
    LocalSends,
    RemoteSends,
    /// The peer does what its part of a connection asks for: opens, or accepts.
    RemoteOpens,
    RemoteAccepts,
    LocalCloses,
    RemoteCloses,
    /// The peer sends these flags; the stack drops what is forged: its checksum or its numbers are wrong.
    Attack {
        flags: u8,
        forged: bool,
    },
}

/// A connection, as the host's stack has it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Socket {
    Closed,
    /// It has sent a SYN, which passed at this time.
    SynSent(Option<u64>),
    Accepting(Opener),
    Established(Opener),
}

struct Host {
    tables: MemoryTables,
    world: World,
    now: u64,
    socket: Socket,
    listens: bool,
    local: ([u8; 4], u16),
    remote: ([u8; 4], u16),
    /// The generation under which a packet of the connection was first let pass.
    known_since: Option<u32>,
    /// Nothing but what honest ends send.
    honest: bool,
}

fn allows(world: World, opener: Opener) -> bool {
    let inward = matches!(world, World::All | World::NothingOut);
    let outward = matches!(world, World::All | World::NothingIn);
    match opener {
        Opener::Remote => inward,
        Opener::Local => outward,
        Opener::Unknown | Opener::Both => inward && outward,
    }
}

impl Host {
    fn step(&mut self, step: Step) {
        self.now += 1;
        match step {
            Step::Publish(world) => {
                self.world = world;
                publish(&mut self.tables, world);
            }
            Step::Wait(seconds) => {
                self.now += seconds * SECOND;
                // No stack tries, or waits for the rest of a handshake, for much longer.
                let waits = matches!(self.socket, Socket::SynSent(_) | Socket::Accepting(_));
                if waits && seconds >= 60 {
                    self.socket = Socket::Closed;
                }
            }
            Step::Connect => match self.socket {
                Socket::Closed => {
                    self.known_since = None;
                    let passes = self.sends(SYN);
                    self.socket = Socket::SynSent(passes.then_some(self.now));
                }
                Socket::SynSent(before) => {
                    let passes = self.sends(SYN);
                    self.socket = Socket::SynSent(passes.then_some(self.now).or(before));
                }
                _ => {}
            },
            Step::LocalSends if matches!(self.socket, Socket::Established(_)) => {
                self.sends(ACK);
            }
            Step::RemoteSends
                if matches!(self.socket, Socket::Established(_) | Socket::Accepting(_)) =>
            {
                self.receives(ACK, false);
            }
            Step::RemoteOpens if matches!(self.socket, Socket::Closed) => self.receives(SYN, false),
            Step::RemoteAccepts if matches!(self.socket, Socket::SynSent(Some(_))) => {
                self.receives(SYN | ACK, false);
            }
            Step::LocalCloses if matches!(self.socket, Socket::Established(_)) => {
                self.sends(FIN | ACK);
                self.socket = Socket::Closed;
            }
            Step::RemoteCloses if matches!(self.socket, Socket::Established(_)) => {
                self.receives(FIN | ACK, false);
            }
            Step::Attack { flags, forged } => self.receives(flags, forged),
            _ => {}
        }
    }

    /// A segment to the peer; whether it passes.
    fn sends(&mut self, flags: u8) -> bool {
        let frame = tcp(self.local, self.remote, flags);
        let verdict = egress(&self.tables, &frame, self.now);
        self.is_right(verdict, flags);
        verdict == Verdict::Pass
    }

    /// A segment of the peer, and what the stack makes of it.
    fn receives(&mut self, flags: u8, forged: bool) {
        let frame = tcp(self.remote, self.local, flags);
        let verdict = ingress(&self.tables, &frame, self.now);
        if !forged {
            self.is_right(verdict, flags);
        }
        if forged || verdict == Verdict::Drop {
            return;
        }
        let handshake = flags & (SYN | ACK | FIN | RST);
        match (self.socket, handshake) {
            (Socket::Closed, SYN) if self.listens => {
                self.known_since = None;
                self.accepts(Opener::Remote);
            }
            // A SYN of the host that has passed a while ago opens it too, unless policy has revoked it since.
            (Socket::SynSent(at), SYN) => {
                let is_fresh = at.is_some_and(|at| self.now - at < 60 * SECOND);
                self.accepts(if is_fresh && allows(self.world, Opener::Local) {
                    Opener::Both
                } else {
                    Opener::Remote
                });
            }
            // It accepts once more. What it opened itself and policy has revoked since is no part of it.
            (Socket::Accepting(_), SYN) => {
                if !allows(self.world, Opener::Local) {
                    self.socket = Socket::Accepting(Opener::Remote);
                }
                self.sends(SYN | ACK);
            }
            // Only who has seen the SYN can acknowledge it.
            (Socket::SynSent(Some(_)), _) if handshake == SYN | ACK => {
                self.socket = Socket::Established(Opener::Local);
                self.sends(ACK);
            }
            (Socket::Accepting(opener), ACK) => self.socket = Socket::Established(opener),
            (Socket::Established(_) | Socket::Accepting(_), _) if flags & RST != 0 => {
                self.socket = Socket::Closed;
            }
            (Socket::Established(_), _) if handshake == FIN | ACK => {
                self.sends(ACK);
                self.sends(FIN | ACK);
                self.socket = Socket::Closed;
            }
            // It challenges (RFC 5961).
            (Socket::Established(_), _) if flags & SYN != 0 => {
                self.sends(ACK);
            }
            (Socket::Closed, _) if flags & RST == 0 && flags & ACK != 0 => {
                self.sends(RST);
            }
            (Socket::Closed, SYN) => {
                self.sends(RST | ACK);
            }
            _ => {}
        }
    }

    fn accepts(&mut self, opener: Opener) {
        self.socket = Socket::Accepting(opener);
        self.sends(SYN | ACK);
    }

    /// Whether the verdict is one that the connection deserves.
    fn is_right(&mut self, verdict: Verdict, flags: u8) {
        let Socket::Established(opener) = self.socket else {
            return;
        };
        if flags & SYN != 0 {
            return;
        }
        let live = self.tables.generation.get();
        if verdict == Verdict::Drop {
            assert!(
                !self.honest || opener == Opener::Both || !allows(self.world, opener),
                "a connection is cut that {opener:?} has opened, and may"
            );
            return;
        }
        let since = *self.known_since.get_or_insert(live);
        assert!(
            since == live || allows(self.world, opener),
            "a connection goes on that {opener:?} has opened, and may not"
        );
    }
}

fn world() -> impl Strategy<Value = World> {
    prop::sample::select(vec![
        World::All,
        World::NothingIn,
        World::NothingOut,
        World::Nothing,
    ])
}

fn honest() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => world().prop_map(Step::Publish),
        1 => prop::sample::select(vec![0, 2, 61, 130, 30_000]).prop_map(Step::Wait),
        2 => Just(Step::Connect),
        2 => Just(Step::RemoteOpens),
        2 => Just(Step::RemoteAccepts),
        3 => Just(Step::LocalSends),
        3 => Just(Step::RemoteSends),
        1 => Just(Step::LocalCloses),
        1 => Just(Step::RemoteCloses),
    ]
}

fn attack() -> impl Strategy<Value = Step> {
    let likely = prop::sample::select(vec![SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK]);
    let flags = prop_oneof![4 => likely, 1 => 0..64u8];
    (flags, any::<bool>()).prop_map(|(flags, forged)| Step::Attack { flags, forged })
}

/// What servers listen on, and what clients have.
fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![22, 443, 900, 1_500, 8_080, 40_000, 50_051])
}

/// `before`: the connection is older than the agent.
fn play(ports: (u16, u16), listens: bool, before: Option<Opener>, honest: bool, steps: &[Step]) {
    let (local, remote) = ports;
    thread_local! {
        static TABLES: RefCell<MemoryTables> = RefCell::new(tables(World::All));
    }
    let mut tables = TABLES.take();
    tables.ipv4.flows.borrow_mut().clear();
    tables.ipv4.denied.borrow_mut().clear();
    publish(&mut tables, World::All);
    let mut host = Host {
        tables,
        world: World::All,
        now: SECOND,
        socket: before.map_or(Socket::Closed, Socket::Established),
        listens,
        local: (HOST, local),
        remote: (STRANGER, remote),
        known_since: None,
        honest: honest && before.is_none(),
    };
    for step in steps {
        host.step(*step);
    }
    TABLES.set(host.tables);
}

fn before() -> impl Strategy<Value = Option<Opener>> {
    prop::sample::select(vec![None, None, Some(Opener::Remote), Some(Opener::Local)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn nothing_that_a_peer_sends_lets_a_connection_outlive_its_revocation(
        ports in (port(), port()),
        listens: bool,
        before in before(),
        steps in prop::collection::vec(prop_oneof![3 => honest(), 2 => attack()], 1..40),
    ) {
        play(ports, listens, before, false, &steps);
    }

    #[test]
    fn a_connection_that_both_ends_keep_to_goes_on_while_its_opener_may(
        ports in (port(), port()),
        steps in prop::collection::vec(honest(), 1..40),
    ) {
        play(ports, true, None, true, &steps);
    }
}
