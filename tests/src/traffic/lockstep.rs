//! Datagrams that are counted one by one: the next is sent when the one before came back.

use std::{
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::net::{Shutdown, shutdown};

use crate::{
    namespace::Namespace,
    probe::udp_socket,
    servers::reflect,
    wait::{LONG, wait_until},
};

/// How long an echo may take; then its datagram is lost, in one direction or the other.
const LOST: Duration = Duration::from_secs(5);

/// Between two datagrams.
const PACE: Duration = Duration::from_micros(500);

/// One end sends numbered datagrams, the other returns them, and none is missed. No buffer can
/// overflow, so a loss is a drop on the way.
#[derive(Debug)]
pub struct Lockstep {
    returned: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Result<()>>>,
    echo: Echo,
}

/// The end that returns what it gets.
#[derive(Debug)]
struct Echo {
    socket: Arc<UdpSocket>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lockstep {
    /// Opens a flow from one host to a port of another, where nobody listens yet. The opener sends,
    /// or, after its first datagram, the other end does: then each datagram needs the flow's entry
    /// to pass where the other end may open nothing.
    pub(crate) fn start(
        opener: &Namespace,
        other: &Namespace,
        address: SocketAddr,
        opener_sends: bool,
    ) -> Result<Self> {
        let client = opener
            .inside(|| udp_socket(address))?
            .context("opening a UDP socket")?;
        let server = other
            .inside(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, address.port())))?
            .with_context(|| format!("taking the UDP port {}", address.port()))?;
        client.send(b"hello").context("opening a UDP flow")?;
        server.set_read_timeout(Some(LONG))?;
        let (_, opened_by) = server
            .recv_from(&mut [0; 8])
            .context("waiting for the opener")?;
        server.connect(opened_by)?;
        server.set_read_timeout(None)?;
        let (sends, returns) = if opener_sends {
            (client, server)
        } else {
            (server, client)
        };
        let echo = Echo::start(returns);
        let (returned, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let sender = thread::spawn({
            let (returned, stop) = (Arc::clone(&returned), Arc::clone(&stop));
            move || send(&sends, &returned, &stop)
        });
        Ok(Self {
            returned,
            stop,
            sender: Some(sender),
            echo,
        })
    }

    /// Waits for `count` more datagrams to come back.
    ///
    /// # Errors
    /// When they do not.
    pub fn expect_progress(&self, count: u64) -> Result<()> {
        let goal = self.returned.load(Ordering::Relaxed) + count;
        wait_until("datagrams to come back", LONG, || {
            Ok(self.returned.load(Ordering::Relaxed) >= goal)
        })
    }

    /// Ends it, and gives the number of datagrams, none of which was lost.
    ///
    /// # Errors
    /// When one was lost.
    pub fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            sender
                .join()
                .map_err(|_| anyhow!("the thread that sends datagrams panicked"))??;
        }
        Ok(self.returned.load(Ordering::Relaxed))
    }
}

impl Drop for Lockstep {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.echo.end();
    }
}

impl Echo {
    fn start(socket: UdpSocket) -> Self {
        let (socket, stop) = (Arc::new(socket), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (socket, stop) = (Arc::clone(&socket), Arc::clone(&stop));
            move || reflect(&socket, &AtomicU64::new(0), &stop)
        });
        Self {
            socket,
            stop,
            thread: Some(thread),
        }
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits on the socket.
        let _ = shutdown(self.socket.as_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send(socket: &UdpSocket, returned: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    socket.set_read_timeout(Some(LOST))?;
    let to = socket.peer_addr()?;
    while !stop.load(Ordering::Relaxed) {
        let number = returned.load(Ordering::Relaxed);
        socket
            .send(&number.to_be_bytes())
            .context("sending a datagram")?;
        let mut echo = [0; 8];
        socket
            .recv(&mut echo)
            .with_context(|| format!("datagram {number} to {to} was lost"))?;
        ensure!(
            echo == number.to_be_bytes(),
            "datagram {number} came back changed"
        );
        returned.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PACE);
    }
    Ok(())
}
