//! A TCP connection on which both ends talk all the time, from its opening or from later on.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    namespace::Namespace,
    wait::{LONG, wait_for, wait_until},
};

/// Between two writes of one end.
const PACE: Duration = Duration::from_millis(1);

/// How long nothing must arrive before a connection counts as cut: longer than TCP's first few
/// retransmissions take.
const SILENCE: Duration = Duration::from_millis(1500);

/// An open connection on which nobody has said a word.
#[derive(Debug)]
pub struct IdleConnection {
    client: TcpStream,
    server: TcpStream,
}

/// An open connection; each end writes without end and counts what it reads.
#[derive(Debug)]
pub struct BusyConnection {
    ends: [End; 2],
    addresses: [SocketAddr; 2],
}

#[derive(Debug)]
struct End {
    stream: TcpStream,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl IdleConnection {
    /// Opens one from a host to an address of another, where nobody listens yet.
    pub(crate) fn open(from: &Namespace, to: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = to
            .inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port())))?
            .context("listening")?;
        let client = from
            .inside(|| TcpStream::connect_timeout(&address, LONG))?
            .with_context(|| format!("connecting from {} to {address}", from.name()))?;
        let (server, _) = listener.accept().context("accepting the connection")?;
        Ok(Self { client, server })
    }

    /// The end that was called says the first word.
    ///
    /// # Errors
    /// When the opener does not hear it.
    pub fn expect_greeting(&mut self) -> Result<()> {
        self.client.set_read_timeout(Some(LONG))?;
        self.server.write_all(b"ahoy")?;
        self.client
            .read_exact(&mut [0; 4])
            .context("waiting for the word of the end that was called")?;
        Ok(self.client.set_read_timeout(None)?)
    }

    /// Both ends begin to talk without end.
    ///
    /// # Errors
    /// When a socket is broken.
    pub fn talk(self) -> Result<BusyConnection> {
        let Self { client, server } = self;
        // As the opener has them: a server for both families has other words for IPv4.
        let addresses = [client.local_addr()?, client.peer_addr()?];
        Ok(BusyConnection {
            ends: [End::talk(client)?, End::talk(server)?],
            addresses,
        })
    }
}

impl BusyConnection {
    /// The opener's address and port.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The opener's address and port, and the other end's.
    #[must_use]
    pub fn addresses(&self) -> [SocketAddr; 2] {
        self.addresses
    }

    /// Bytes that the opener and the other end have received.
    #[must_use]
    pub fn received(&self) -> [u64; 2] {
        [0, 1].map(|end: usize| self.ends[end].received.load(Ordering::Relaxed))
    }

    /// Waits until both ends have received more than they have now.
    ///
    /// # Errors
    /// When one of them does not.
    pub fn expect_progress(&self) -> Result<()> {
        let before = self.received();
        wait_until("both ends of a connection to receive more", LONG, || {
            let now = self.received();
            Ok(now[0] > before[0] && now[1] > before[1])
        })
    }

    /// Waits until neither end receives anything for a time that spans several retransmissions.
    /// What had arrived before the cut may still be read first.
    ///
    /// # Errors
    /// When data keeps arriving.
    pub fn expect_silence(&self) -> Result<()> {
        let mut last = (self.received(), Instant::now());
        let quiet = wait_for("a connection to fall silent", LONG, || {
            let now = self.received();
            if now != last.0 {
                last = (now, Instant::now());
            }
            Ok((last.1.elapsed() >= SILENCE).then_some(now))
        })?;
        ensure!(
            self.received() == quiet,
            "data arrived on a connection that was cut"
        );
        Ok(())
    }
}

impl End {
    fn talk(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let received = Arc::new(AtomicU64::new(0));
        let (mut reading, mut writing) = (stream.try_clone()?, stream.try_clone()?);
        let count = Arc::clone(&received);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reading.read(&mut buffer) {
                count.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
        let writer = thread::spawn(move || {
            while writing.write_all(&[7; 64]).is_ok() {
                thread::sleep(PACE);
            }
        });
        Ok(Self {
            stream,
            received,
            threads: vec![reader, writer],
        })
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Ends the threads that read and write; the connection may be dead already.
        let _ = self.stream.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
