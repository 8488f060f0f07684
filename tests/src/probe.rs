//! Single attempts to reach a service, and what came of them.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketType, bind, connect, ipproto, listen, socket,
        sockopt::{Timeout, set_ipv6_v6only, set_socket_linger, set_socket_timeout},
    },
};

use crate::{namespace::Namespace, network::Family};

/// How long something that ought to work may take.
const PATIENCE_ALLOWED: Duration = Duration::from_secs(5);

/// How long nothing must happen before an attempt counts as denied: drops are silent.
const PATIENCE_DENIED: Duration = Duration::from_secs(1);

/// What is asked of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// A TCP connection to this port, and an answer on it.
    Tcp(u16),
    /// A datagram to this UDP port, and an answer.
    Udp(u16),
    /// An SCTP association with this port, and an answer in it.
    Sctp(u16),
    /// An ICMP or ICMPv6 echo.
    Ping,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => f.pad(&format!("tcp/{port}")),
            Self::Udp(port) => f.pad(&format!("udp/{port}")),
            Self::Sctp(port) => f.pad(&format!("sctp/{port}")),
            Self::Ping => f.pad("ping"),
        }
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service answered.
    Allowed,
    /// No packet came back.
    Denied,
    /// Something else: the packet got through, but not to a service that answers.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed => f.pad("allowed"),
            Self::Denied => f.pad("denied"),
            Self::Failed(how) => f.pad(how),
        }
    }
}

/// Who tries to reach what, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The host that opens.
    pub from: &'static str,
    /// The host that is asked.
    pub to: &'static str,
    /// What is asked of it.
    pub service: Service,
    /// Over which family.
    pub family: Family,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} to {} {} over {}",
            self.from, self.to, self.service, self.family
        )
    }
}

/// A flow, over both families, and what must come of it.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The flows.
    pub flows: [Flow; 2],
    /// [`Outcome::Allowed`] or [`Outcome::Denied`].
    pub outcome: Outcome,
}

impl Expected {
    fn new(from: &'static str, to: &'static str, service: Service, outcome: Outcome) -> Self {
        Self {
            flows: Family::ALL.map(|family| Flow {
                from,
                to,
                service,
                family,
            }),
            outcome,
        }
    }

    /// How long to wait before the answer is final.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self.outcome {
            Outcome::Denied => PATIENCE_DENIED,
            Outcome::Allowed | Outcome::Failed(_) => PATIENCE_ALLOWED,
        }
    }
}

/// This must work, over IPv4 and over IPv6.
#[must_use]
pub fn allowed(from: &'static str, to: &'static str, service: Service) -> Expected {
    Expected::new(from, to, service, Outcome::Allowed)
}

/// This must be dropped, over IPv4 and over IPv6.
#[must_use]
pub fn denied(from: &'static str, to: &'static str, service: Service) -> Expected {
    Expected::new(from, to, service, Outcome::Denied)
}

/// Tries once, from inside a namespace.
pub(crate) fn attempt(
    from: &Namespace,
    to: IpAddr,
    service: Service,
    patience: Duration,
) -> Result<Outcome> {
    match service {
        Service::Tcp(port) => from.inside(|| outcome(tcp((to, port).into(), patience))),
        Service::Udp(port) => from.inside(|| outcome(udp((to, port).into(), patience))),
        Service::Sctp(port) => from.inside(|| outcome(sctp((to, port).into(), patience))),
        Service::Ping => ping(from, to, patience),
    }
}

/// Silence is a denial, and so is a drop that the sender's own kernel reports.
fn outcome(result: io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Allowed,
        Err(error) => match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::PermissionDenied => {
                Outcome::Denied
            }
            ErrorKind::ConnectionRefused => Outcome::Failed("refused: nobody listens".to_owned()),
            _ => Outcome::Failed(error.to_string()),
        },
    }
}

/// Connects, sends a word and reads it back. In the namespace of the calling thread.
pub(crate) fn tcp(to: SocketAddr, patience: Duration) -> io::Result<()> {
    exchange(TcpStream::connect_timeout(&to, patience)?, patience)
}

/// Sends a word and reads it back.
fn exchange(mut stream: TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(patience))?;
    // Closes with a reset: thousands of connections leave no TIME_WAIT behind.
    set_socket_linger(stream.as_fd(), Some(Duration::ZERO))?;
    let mut answer = [0; 4];
    stream
        .write_all(b"ahoy")
        .and_then(|()| stream.read_exact(&mut answer))
        .map_err(|error| io::Error::other(format!("connected, then {error}")))
}

/// As [`tcp`], in an SCTP association.
fn sctp(to: SocketAddr, patience: Duration) -> io::Result<()> {
    let socket = sctp_socket(to)?;
    if to.is_ipv6() {
        // Else the host offers its IPv4 addresses as further paths.
        set_ipv6_v6only(&socket, true)?;
    }
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    match connect(&socket, &to) {
        // What the socket says when its time is over.
        Err(Errno::INPROGRESS) => Err(ErrorKind::TimedOut.into()),
        Err(error) => Err(error.into()),
        Ok(()) => exchange(socket.into(), patience),
    }
}

/// Takes SCTP associations; a socket of this style is used as one of TCP. It waits for this long at a time:
/// its shutdown wakes nobody on older kernels.
pub(crate) fn sctp_listener(at: SocketAddr, wait: Duration) -> io::Result<TcpListener> {
    let socket = sctp_socket(at)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(wait))?;
    bind(&socket, &at)?;
    listen(&socket, 128)?;
    Ok(socket.into())
}

fn sctp_socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    socket(family, SocketType::STREAM, Some(ipproto::SCTP))
}

/// Whether this kernel has SCTP.
///
/// # Errors
/// When it makes no socket for another reason.
pub fn kernel_has_sctp() -> Result<bool> {
    match sctp_socket((Ipv4Addr::UNSPECIFIED, 0).into()) {
        Ok(_) => Ok(true),
        Err(Errno::PROTONOSUPPORT) => Ok(false),
        Err(error) => Err(error).context("opening an SCTP socket"),
    }
}

/// Sends a datagram and reads it back. In the namespace of the calling thread.
pub(crate) fn udp(to: SocketAddr, patience: Duration) -> io::Result<()> {
    let socket = udp_socket(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"ahoy")?;
    socket.recv(&mut [0; 4]).map(drop)
}

/// A socket with a port of its own, for datagrams to one address.
pub(crate) fn udp_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

fn ping(from: &Namespace, to: IpAddr, patience: Duration) -> Result<Outcome> {
    let output = from
        .command("ping")
        .args([
            "-n",
            "-q",
            "-c",
            "1",
            "-W",
            &patience.as_secs().max(1).to_string(),
        ])
        .arg(to.to_string())
        .output()
        .context("running ping: install the package iputils-ping")?;
    Ok(match output.status.code() {
        Some(0) => Outcome::Allowed,
        Some(1) => Outcome::Denied,
        _ => Outcome::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    })
}
