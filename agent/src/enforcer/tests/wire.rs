//! A policed interface with real traffic on it: numbered datagrams that must all arrive, and others of
//! which none may.

use std::{cell::Cell, io, net::UdpSocket, sync::mpsc, thread, time::Duration};

use rustix::thread::gettid;

use super::{attaching::ip, *};
use crate::kernel::testing::enter_new_namespace;

/// The policed interface.
pub const INTERFACE: &str = "bh0";
/// A datagram that takes longer is lost.
const LOST: Duration = Duration::from_secs(5);
/// New flows, before ports are used again.
const FRESH: usize = 128;

/// This host and a neighbour, whose sockets are in a namespace of its own.
pub struct Wire {
    /// Takes what is allowed, and what is denied.
    allowed: UdpSocket,
    denied: UdpSocket,
    /// The neighbour's: one flow that goes on, those that are opened, one that hears what may not leave.
    steady: UdpSocket,
    fresh: Vec<UdpSocket>,
    hears: UdpSocket,
    number: Cell<u64>,
}

impl Wire {
    /// Makes the interface in the calling thread's namespace, and puts the neighbour behind it.
    pub fn new() -> Self {
        ip(&format!("link add {INTERFACE} type veth peer name there"));
        let (go, gone) = (mpsc::channel(), mpsc::channel());
        let ((tell, told), (start, started)) = (go, gone);
        let neighbour = thread::spawn(move || {
            enter_new_namespace();
            tell.send(gettid().as_raw_nonzero()).unwrap();
            started.recv().unwrap();
            for command in [
                "link set lo up",
                "addr add 10.9.0.2/24 dev there",
                "link set there addrgenmode none up",
                "neigh replace 10.9.0.1 lladdr 02:00:00:00:00:01 dev there",
            ] {
                ip(command);
            }
            let socket = |port| UdpSocket::bind(("10.9.0.2", port)).unwrap();
            let fresh: Vec<_> = (0..FRESH).map(|_| socket(0)).collect();
            (socket(4000), fresh, socket(6000))
        });
        let thread: std::num::NonZeroI32 = told.recv().unwrap();
        ip(&format!(
            "link set there netns {thread} address 02:00:00:00:00:02"
        ));
        Self::set_up();
        start.send(()).unwrap();
        let (steady, fresh, hears) = neighbour.join().unwrap();
        let here = |port| UdpSocket::bind(("10.9.0.1", port)).unwrap();
        let wire = Self {
            allowed: here(5000),
            denied: here(5001),
            steady,
            fresh,
            hears,
            number: Cell::new(0),
        };
        wire.allowed.set_read_timeout(Some(LOST)).unwrap();
        wire.steady.set_read_timeout(Some(LOST)).unwrap();
        for silent in [&wire.denied, &wire.hears] {
            silent.set_nonblocking(true).unwrap();
        }
        wire.wait_up();
        wire
    }

    /// Gives the interface its addresses, in the calling thread's namespace. Without IPv6 nothing is sent but
    /// what a test sends.
    pub fn set_up() {
        ip(&format!(
            "link set {INTERFACE} address 02:00:00:00:00:01 addrgenmode none up"
        ));
        ip(&format!("addr add 10.9.0.1/24 dev {INTERFACE}"));
        ip(&format!(
            "neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev {INTERFACE}"
        ));
    }

    /// Removes the interface, while the neighbour is still there: both ends go with either's namespace.
    pub fn remove(self) {
        ip(&format!("link del {INTERFACE}"));
    }

    /// The first packet on a link that has just come up may wait for the carrier.
    pub fn wait_up(&self) {
        while !self.send(5000) || self.allowed.recv_from(&mut [0; 8]).is_err() {}
    }

    /// Sends a datagram to a port of this host; whether the sender heard of no error.
    pub fn send(&self, port: u16) -> bool {
        self.steady.send_to(b"sent", ("10.9.0.1", port)).is_ok()
    }

    /// How many datagrams have come to a port that is denied, since it was asked last.
    pub fn leaked(&self) -> usize {
        std::iter::from_fn(|| self.denied.recv_from(&mut [0; 8]).ok()).count()
    }

    /// What the host enforces: what is asked of port 5000 is answered, and nothing else passes. Two
    /// policies that say so and share no number in the tables.
    pub fn policy(revision: u64) -> HostPolicy {
        let mut policy = uniform(Action::Deny);
        policy.revision = Revision(revision);
        for rule in &mut policy.rules {
            rule.tier = Tier::Default;
        }
        let mut allow = policy.rules[0].clone();
        allow.tier = Tier::Policy;
        allow.action = Action::Allow;
        allow.ports = vec![policy::PortSpan {
            slot: ProtocolSlot::Udp,
            first: 5000,
            last: 5000,
        }];
        let mut others = allow.clone();
        others.peers = PeerMatch::Of {
            identities: Vec::new(),
            subnets: vec![policy::host_policy::SubnetMatch {
                subnet: format!("10.{}.0.0/16", 100 + revision % 2).parse().unwrap(),
                except: Vec::new(),
            }],
        };
        if revision.is_multiple_of(2) {
            others.ports.clear();
        }
        policy.rules.splice(0..0, [others, allow]);
        policy.check().unwrap();
        policy
    }

    /// Sends one datagram of each kind. Each that is allowed must arrive.
    pub fn check(&self, when: &str) {
        let number = self.number.get();
        self.number.set(number + 1);
        let fresh = &self.fresh[usize::try_from(number).unwrap() % FRESH];
        for denied in [&self.steady, fresh] {
            // A drop may be told as an error; what counts is that nothing arrives.
            let _ = denied.send_to(b"denied", ("10.9.0.1", 5001));
        }
        let _ = self.allowed.send_to(b"denied", ("10.9.0.2", 6000));
        for asks in [&self.steady, fresh] {
            let mut datagram = [0; 8];
            asks.send_to(&number.to_be_bytes(), ("10.9.0.1", 5000))
                .unwrap();
            let (_, from) = self
                .allowed
                .recv_from(&mut datagram)
                .unwrap_or_else(|error| panic!("datagram {number} is lost {when}: {error}"));
            assert_eq!(u64::from_be_bytes(datagram), number, "{when}");
            asks.set_read_timeout(Some(LOST)).unwrap();
            self.allowed.send_to(&datagram, from).unwrap();
            asks.recv(&mut datagram)
                .unwrap_or_else(|error| panic!("reply {number} is lost {when}: {error}"));
        }
        self.expect_silence(when);
    }

    /// Whether something denied comes through.
    pub fn leaks(&self) -> bool {
        self.denied.set_nonblocking(false).unwrap();
        self.denied.set_read_timeout(Some(LOST)).unwrap();
        let _ = self.steady.send_to(b"denied", ("10.9.0.1", 5001));
        let leaks = self.denied.recv_from(&mut [0; 8]).is_ok();
        self.denied.set_nonblocking(true).unwrap();
        leaks
    }

    /// Nothing that is denied has arrived until now.
    fn expect_silence(&self, when: &str) {
        for silent in [&self.denied, &self.hears] {
            let heard = silent.recv_from(&mut [0; 8]);
            let error = heard.expect_err(&format!("something denied came through {when}"));
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }

    /// As [`Wire::check`], at the end: also what was late is counted.
    pub fn finish(&self) -> u64 {
        thread::sleep(Duration::from_millis(100));
        self.expect_silence("in the end");
        self.number.get()
    }
}
