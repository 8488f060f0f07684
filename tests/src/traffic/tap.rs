//! Counts the packets of one connection at a host's interface.

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with, sockopt},
};

use crate::{
    namespace::Namespace,
    wait::{LONG, wait_until},
};

/// How soon it notices that it is to end.
const POLL: Duration = Duration::from_millis(100);

/// Ethernet, IPv6 and TCP headers, and some more.
const SNAP: usize = 128;

/// A packet socket: it sees what arrives before any program at TC ingress does, and what is sent
/// after all programs at TC egress have let it pass. So what leaves here has passed this host's
/// egress, and what arrives has still to pass its ingress.
#[derive(Debug)]
pub struct Tap {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// The connection, from either end.
    ways: [[SocketAddr; 2]; 2],
    counts: [AtomicU64; 2],
    stop: AtomicBool,
}

impl Tap {
    pub(crate) fn start(at: &Namespace, ends: [SocketAddr; 2]) -> Result<Self> {
        let socket = at
            .inside(|| {
                let socket = socket_with(
                    AddressFamily::PACKET,
                    SocketType::RAW,
                    SocketFlags::CLOEXEC,
                    Some(eth::ALL),
                )?;
                sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(POLL))?;
                Ok::<_, io::Error>(socket)
            })?
            .with_context(|| format!("listening at the interfaces of {}", at.name()))?;
        let shared = Arc::new(Shared {
            ways: [ends, [ends[1], ends[0]]],
            counts: [AtomicU64::new(0), AtomicU64::new(0)],
            stop: AtomicBool::new(false),
        });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.count(&socket)
        });
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Packets that the opener sent, and those that the other end sent, as far as they came by.
    #[must_use]
    pub fn counts(&self) -> [u64; 2] {
        [0, 1].map(|end: usize| self.shared.counts[end].load(Ordering::Relaxed))
    }

    /// Waits for so many more packets that the opener (0) or the other end (1) sent.
    ///
    /// # Errors
    /// When they do not come by.
    pub fn expect_more(&self, end: usize, count: u64) -> Result<()> {
        let goal = self.counts()[end] + count;
        wait_until("more packets to come by", LONG, || {
            Ok(self.counts()[end] >= goal)
        })
    }
}

impl Shared {
    fn count(&self, socket: &OwnedFd) {
        let mut buffer = [MaybeUninit::uninit(); SNAP];
        while !self.stop.load(Ordering::Relaxed) {
            match recv(socket, &mut buffer[..], RecvFlags::empty()) {
                Ok(((frame, _), _)) => {
                    let way =
                        ends(frame).and_then(|ends| self.ways.iter().position(|w| *w == ends));
                    if let Some(way) = way {
                        self.counts[way].fetch_add(1, Ordering::Relaxed);
                    }
                }
                // Nothing came; or the interface went down, which is said once.
                Err(Errno::AGAIN | Errno::INTR | Errno::NETDOWN) => {}
                Err(_) => break,
            }
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Source and destination of a TCP packet in an Ethernet frame without options and tags: what Linux
/// sends in a lab.
fn ends(frame: &[u8]) -> Option<[SocketAddr; 2]> {
    const TCP: u8 = 6;
    let (addresses, transport): ([IpAddr; 2], usize) = match *frame.get(12..14)? {
        [0x08, 0x00] if *frame.get(23)? == TCP => {
            let address = |at| Some(Ipv4Addr::from(bytes::<4>(frame, at)?).into());
            let header = usize::from(frame.get(14)? & 0x0f) * 4;
            ([address(26)?, address(30)?], 14 + header)
        }
        [0x86, 0xdd] if *frame.get(20)? == TCP => {
            let address = |at| Some(Ipv6Addr::from(bytes::<16>(frame, at)?).into());
            ([address(22)?, address(38)?], 54)
        }
        _ => return None,
    };
    let port = |at| Some(u16::from_be_bytes(bytes(frame, at)?));
    Some([
        SocketAddr::new(addresses[0], port(transport)?),
        SocketAddr::new(addresses[1], port(transport + 2)?),
    ])
}

fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}
