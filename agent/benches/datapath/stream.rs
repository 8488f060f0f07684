//! TCP between a client and a server, both ends in one thread: nobody is woken, and the thread's time is
//! the cost of both paths.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddrV4, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::set_socket_linger,
};

use crate::{
    network::{End, Pair},
    traffic::Clock,
    workload::{PORT, SERVER},
};

/// A connection and where others are accepted.
pub struct Stream {
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Stream {
    pub fn new(pair: &Pair) -> Result<Self> {
        let listener = pair.inside(End::Server, || TcpListener::bind(address()))??;
        let client = pair.inside(End::Client, || TcpStream::connect(address()))??;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
            end.set_nonblocking(true)?;
        }
        Ok(Self {
            listener,
            client,
            server,
        })
    }

    /// Nanoseconds for a byte there and a byte back.
    pub fn round_trip(&mut self, count: u32, clock: Clock) -> Result<f64> {
        let start = clock.now();
        for _ in 0..count {
            hand_over(&mut self.client, &mut self.server)?;
            hand_over(&mut self.server, &mut self.client)?;
        }
        Ok((clock.now() - start) / f64::from(count))
    }

    /// Nanoseconds to open and reset a connection.
    pub fn connect(&self, pair: &Pair, count: u32, clock: Clock) -> Result<f64> {
        pair.inside(End::Client, || -> Result<f64> {
            let start = clock.now();
            for _ in 0..count {
                let client = TcpStream::connect(address()).context("connecting")?;
                let (server, _) = self.listener.accept().context("accepting")?;
                // No waiting states, which would use up the ports.
                set_socket_linger(&client, Some(Duration::ZERO))?;
                drop(client);
                drop(server);
            }
            Ok((clock.now() - start) / f64::from(count))
        })?
    }

    /// Nanoseconds for a megabyte.
    pub fn bulk(&mut self, megabytes: usize, clock: Clock) -> Result<f64> {
        let chunk = vec![0; 1 << 17];
        let mut taken = vec![0; 1 << 20];
        let whole = megabytes << 20;
        let (mut sent, mut received) = (0, 0);
        let start = clock.now();
        while received < whole {
            let mut progress = false;
            while sent < whole {
                match self.client.write(&chunk[..chunk.len().min(whole - sent)]) {
                    Ok(bytes) => {
                        sent += bytes;
                        progress = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("sending a stream"),
                }
            }
            loop {
                match self.server.read(&mut taken) {
                    Ok(bytes) => {
                        received += bytes;
                        progress = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("receiving a stream"),
                }
                if received == whole {
                    break;
                }
            }
            if !progress {
                wait(&self.server)?;
            }
        }
        Ok((clock.now() - start) / megabytes as f64)
    }
}

fn address() -> SocketAddrV4 {
    SocketAddrV4::new(SERVER, PORT)
}

fn hand_over(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    from.write_all(&[1]).context("sending a byte")?;
    loop {
        match to.read(&mut [0]) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(to)?,
            Err(error) => return Err(error).context("receiving a byte"),
        }
    }
}

fn wait(stream: &TcpStream) -> Result<()> {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&timeout))?;
    Ok(())
}
