//! Packets from a client to a server and back, and what each costs the thread that sends it: a veth
//! hands them over in the sender's own softirq, so that this is the cost of the whole path.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::OwnedFd,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt},
    time::{ClockId, clock_gettime},
};

use crate::{
    network::{End, Pair},
    workload::{CLIENTS, EXACT, PORT, SERVER, STRANGERS},
};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One flow, from the client.
    Established,
    /// 10,000 flows in turn, from the client.
    ManyFlows,
    /// One flow, from the server.
    Egress,
    /// Each packet opens a flow: every second one of an address that a rule names, the others of
    /// 256 in a subnet.
    New,
    /// 256 flows that no rule allows.
    Denied,
    /// Each packet is of another flow that no rule allows.
    Scan,
}

/// The port of flows that are kept.
const CLIENT_PORT: u16 = 40_000;
const FLOWS: u64 = 10_000;
const IP: usize = 20;
const LENGTH: usize = IP + 8 + 18;

/// The sockets of one pair of namespaces.
pub struct Traffic {
    raw: OwnedFd,
    server: UdpSocket,
    _sink: UdpSocket,
    packet: [u8; LENGTH],
    sent: u64,
}

impl Traffic {
    pub fn new(pair: &Pair) -> Result<Self> {
        let bind = |address, port| -> Result<UdpSocket> {
            let socket = UdpSocket::bind(SocketAddrV4::new(address, port))?;
            // The least that there is: what is not read is dropped, at the end of the path.
            sockopt::set_socket_recv_buffer_size(&socket, 1)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let server = pair.inside(End::Server, || bind(SERVER, PORT))??;
        let sink = pair.inside(End::Client, || bind(Ipv4Addr::UNSPECIFIED, CLIENT_PORT))??;
        let raw = pair.inside(End::Client, || {
            socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
        })??;
        let mut packet = [0; LENGTH];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(LENGTH as u16).to_be_bytes());
        packet[8] = 64;
        packet[9] = 17;
        packet[16..20].copy_from_slice(&SERVER.octets());
        packet[IP + 2..IP + 4].copy_from_slice(&PORT.to_be_bytes());
        packet[IP + 4..IP + 6].copy_from_slice(&((LENGTH - IP) as u16).to_be_bytes());
        Ok(Self {
            raw,
            server,
            _sink: sink,
            packet,
            sent: 0,
        })
    }

    /// Opens the flows that are kept, and answers in each, so that both ends have spoken.
    pub fn establish(&mut self) -> Result<()> {
        for flow in 0..=FLOWS {
            let from = if flow == 0 { EXACT } else { client(flow - 1) };
            self.send_from(from, CLIENT_PORT)?;
            self.server
                .send_to(&[0; 18], SocketAddrV4::new(from, CLIENT_PORT))?;
        }
        Ok(())
    }

    /// That what is to pass does, and what is to be denied is.
    pub fn check(&mut self, enforced: bool) -> Result<()> {
        for (kind, passes) in [
            (Kind::Established, true),
            (Kind::New, true),
            (Kind::New, true),
            (Kind::Denied, !enforced),
            (Kind::Scan, !enforced),
        ] {
            let mut bytes = [0; 64];
            while self.server.recv(&mut bytes).is_ok() {}
            self.send(kind)?;
            let passed = match self.server.recv(&mut bytes) {
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(error) => return Err(error).context("receiving"),
            };
            ensure!(passed == passes, "a packet of {kind:?} passed: {passed}");
        }
        Ok(())
    }

    /// Nanoseconds of this thread for each of some packets.
    pub fn time(&mut self, kind: Kind, packets: u32, clock: Clock) -> Result<f64> {
        for _ in 0..packets / 10 {
            self.send(kind)?;
        }
        let start = clock.now();
        for _ in 0..packets {
            self.send(kind)?;
        }
        Ok((clock.now() - start) / f64::from(packets))
    }

    fn send(&mut self, kind: Kind) -> Result<()> {
        self.sent += 1;
        let number = self.sent;
        let fresh_port = 1_024 + (number / 256 % 60_000) as u16;
        match kind {
            Kind::Established => self.send_from(EXACT, CLIENT_PORT),
            Kind::ManyFlows => self.send_from(client(number % FLOWS), CLIENT_PORT),
            Kind::Egress => {
                let to = SocketAddrV4::new(EXACT, CLIENT_PORT);
                self.server.send_to(&[0; 18], to).context("answering")?;
                Ok(())
            }
            Kind::New if number.is_multiple_of(2) => {
                self.send_from(EXACT, 1_024 + (number / 2 % 60_000) as u16)
            }
            Kind::New => self.send_from(client(number % 256), fresh_port),
            Kind::Denied => self.send_from(stranger(number % 256), CLIENT_PORT),
            Kind::Scan => self.send_from(stranger(number % 256), fresh_port),
        }
    }

    fn send_from(&mut self, from: Ipv4Addr, port: u16) -> Result<()> {
        self.packet[12..16].copy_from_slice(&from.octets());
        self.packet[IP..IP + 2].copy_from_slice(&port.to_be_bytes());
        let to = SocketAddrV4::new(SERVER, 0);
        sendto(&self.raw, &self.packet, SendFlags::empty(), &to).context("sending a packet")?;
        Ok(())
    }
}

fn client(number: u64) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(CLIENTS) + 1 + number as u32)
}

fn stranger(number: u64) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(STRANGERS) + 1 + number as u32)
}

/// What tells the cost of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The time that this thread had a core, which what else runs on the machine does not change.
    Core,
    /// The one on the wall, for kernels that leave softirqs out of a thread's time
    /// (`CONFIG_IRQ_TIME_ACCOUNTING`).
    Wall,
}

impl Clock {
    /// The better one that tells the truth here.
    pub fn choose(traffic: &mut Traffic) -> Result<Self> {
        let mut best = [f64::INFINITY; 2];
        for _ in 0..50 {
            let wall = Instant::now();
            let core = traffic.time(Kind::Established, 200, Self::Core)?;
            // With those that warm up.
            let wall = wall.elapsed().as_nanos() as f64 / 220.0;
            best = [best[0].min(core), best[1].min(wall)];
        }
        Ok(if best[0] > 0.8 * best[1] {
            Self::Core
        } else {
            Self::Wall
        })
    }

    /// Nanoseconds since some moment.
    pub fn now(self) -> f64 {
        let time = clock_gettime(match self {
            Self::Core => ClockId::ThreadCPUTime,
            Self::Wall => ClockId::Monotonic,
        });
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    }
}
