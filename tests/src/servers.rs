//! Servers that echo what they get, on TCP, UDP and SCTP, and count who came.

use std::{
    io::{self, Read, Write},
    net::{Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::net::shutdown;

use crate::{
    namespace::Namespace,
    probe::{Service, sctp_listener},
};

/// How soon an idle connection, and a listener of SCTP, notices that its server has ended.
const IDLE: Duration = Duration::from_millis(200);

/// Echo servers of one host, for both families. Dropping them closes their ports.
#[derive(Debug)]
pub struct Servers {
    ports: Vec<Port>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Port {
    service: Service,
    socket: Arc<Socket>,
    arrivals: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Socket {
    /// Of SCTP too.
    Stream(TcpListener),
    Udp(UdpSocket),
}

impl Servers {
    pub(crate) fn start(namespace: &Namespace, services: &[Service]) -> Result<Self> {
        let mut servers = Self {
            ports: Vec::new(),
            stop: Arc::default(),
        };
        for &service in services {
            let any = Ipv6Addr::UNSPECIFIED;
            let socket = namespace.inside(|| -> io::Result<Option<Socket>> {
                Ok(match service {
                    Service::Tcp(port) => Some(Socket::Stream(TcpListener::bind((any, port))?)),
                    Service::Sctp(port) => {
                        Some(Socket::Stream(sctp_listener((any, port).into(), IDLE)?))
                    }
                    Service::Udp(port) => Some(Socket::Udp(UdpSocket::bind((any, port))?)),
                    Service::Ping => None, // The kernel answers.
                })
            })?;
            let on = || format!("serving {service} in {}", namespace.name());
            if let Some(socket) = socket.with_context(on)? {
                servers.serve(service, socket);
            }
        }
        Ok(servers)
    }

    fn serve(&mut self, service: Service, socket: Socket) {
        let socket = Arc::new(socket);
        let arrivals = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (socket, arrivals, stop) = (
                Arc::clone(&socket),
                Arc::clone(&arrivals),
                Arc::clone(&self.stop),
            );
            move || match &*socket {
                Socket::Stream(listener) => accept(listener, &arrivals, &stop),
                Socket::Udp(socket) => reflect(socket, &arrivals, &stop),
            }
        });
        self.ports.push(Port {
            service,
            socket,
            arrivals,
            thread: Some(thread),
        });
    }

    /// Connections that were accepted, or datagrams that came, on one of the ports.
    #[must_use]
    pub fn arrivals(&self, service: Service) -> u64 {
        self.counted(service).unwrap_or_default()
    }

    /// As [`Servers::arrivals`]; none where nobody counts.
    pub(crate) fn counted(&self, service: Service) -> Option<u64> {
        let port = self.ports.iter().find(|port| port.service == service)?;
        Some(port.arrivals.load(Ordering::Relaxed))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for port in &mut self.ports {
            // Wakes the thread that waits on the socket. UDP answers ENOTCONN, and wakes all the same.
            let _ = match &*port.socket {
                Socket::Stream(listener) => shutdown(listener.as_fd(), rustix::net::Shutdown::Both),
                Socket::Udp(socket) => shutdown(socket.as_fd(), rustix::net::Shutdown::Both),
            };
            if let Some(thread) = port.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn accept(listener: &TcpListener, arrivals: &AtomicU64, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept() {
            arrivals.fetch_add(1, Ordering::Relaxed);
            let stop = Arc::clone(stop);
            // Its end is the end of the connection; a client's error is the client's to report.
            thread::spawn(move || echo(stream, &stop));
        }
    }
}

fn echo(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => stream.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    stream.shutdown(Shutdown::Both)
}

/// Returns datagrams to whoever sent them, until it is told to stop and its socket is shut down.
pub(crate) fn reflect(socket: &UdpSocket, arrivals: &AtomicU64, stop: &AtomicBool) {
    // The largest that there is.
    let mut buffer = vec![0; 65_536];
    loop {
        let received = socket.recv_from(&mut buffer);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // An error is an ICMP answer to an earlier reply: that client has gone.
        if let Ok((length, client)) = received {
            arrivals.fetch_add(1, Ordering::Relaxed);
            let _ = socket.send_to(&buffer[..length], client);
        }
    }
}
