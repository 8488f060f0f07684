//! A relay on a host's loopback, such as a tunnel or a proxy: what the host sends through it leaves the
//! host under the relay's own destination.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// How long the relay tries to reach its destination.
const PATIENCE: Duration = Duration::from_secs(3);

/// Forwards TCP connections to a port of the host's loopback.
#[derive(Debug)]
pub struct Relay {
    at: Namespace,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub(crate) fn start(at: &Namespace, to: SocketAddr) -> Result<Self> {
        let listener = at
            .inside(|| TcpListener::bind("127.0.0.1:0"))?
            .context("taking a port for a relay")?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (at, stop) = (at.clone(), Arc::clone(&stop));
            move || {
                while let Ok((client, _)) = listener.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let at = at.clone();
                    // Who is not served sees the end of its connection.
                    thread::spawn(move || forward(&at, client, to));
                }
            }
        });
        Ok(Self {
            at: at.clone(),
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for somebody to come.
        let _ = self.at.inside(|| TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(at: &Namespace, client: TcpStream, to: SocketAddr) -> Result<()> {
    let server = at.inside(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    let (mut up, mut down) = (client.try_clone()?, server.try_clone()?);
    let (mut client, mut server) = (client, server);
    let back = thread::spawn(move || io::copy(&mut down, &mut client));
    let _ = io::copy(&mut up, &mut server);
    let _ = server.shutdown(std::net::Shutdown::Both);
    let _ = back.join();
    Ok(())
}
