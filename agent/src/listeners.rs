//! Who listens on this host, in the agent's own network namespace: a controller here has to be reached by
//! agents elsewhere, whatever address the configuration knows it by.

use std::{
    fs::File,
    io::{self, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// `TCP_LISTEN` of `include/net/tcp_states.h`.
const LISTEN: &str = "0A";
/// Of the calling thread's namespace.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

/// The TCP sockets that wait for connections from elsewhere: those bound to loopback addresses are left out.
///
/// # Errors
/// When the kernel does not tell.
pub fn reachable() -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for table in TABLES {
        match File::open(table) {
            Ok(file) => found.extend(listening(BufReader::new(file))?),
            // A kernel without IPv6 has no table of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.retain(|socket| !socket.ip().to_canonical().is_loopback());
    Ok(found)
}

/// The listening sockets of a table. The kernel lists them first, so the connections behind them are not read.
fn listening(table: impl io::BufRead) -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let line = line?;
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next(), words.nth(1));
        if state != Some(LISTEN) {
            break;
        }
        found.extend(local.and_then(socket));
    }
    Ok(found)
}

/// `0100007F:1D13` is 127.0.0.1:7443 where the least byte of a word comes first: the kernel prints each word
/// of an address as a number.
fn socket(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(*bytes.first_chunk::<4>()?).into(),
        16 => Ipv6Addr::from(*bytes.first_chunk::<16>()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn listeners_that_others_can_reach_are_found_and_those_on_loopback_are_not() {
        let any = TcpListener::bind("0.0.0.0:0").unwrap();
        let any6 = TcpListener::bind("[::]:0").unwrap();
        let inside = TcpListener::bind("127.0.0.1:0").unwrap();
        let inside6 = TcpListener::bind("[::1]:0").unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let connection = TcpStream::connect(("127.0.0.1", port(&any))).unwrap();
        let found = reachable().unwrap();
        for listener in [&any, &any6] {
            assert!(found.contains(&listener.local_addr().unwrap()), "{found:?}");
        }
        for listener in [&inside, &inside6] {
            assert!(!found.iter().any(|at| at.port() == port(listener)));
        }
        let own = connection.local_addr().unwrap().port();
        assert!(!found.iter().any(|at| at.port() == own));
    }
}
