//! As much of rtnetlink as the agent needs: one request, one answer. The socket belongs to the network
//! namespace of the calling thread, whatever `/sys` shows.

use std::{io, os::fd::OwnedFd, thread::sleep, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// From `include/uapi/linux/netlink.h`.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// In an answer: the objects changed during the dump, which may lack some of them.
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// A dump comes in messages of at most 32 KiB (`netlink_recvmsg`).
const BUFFER: usize = 32 << 10;
/// The flags beside the type of an attribute.
const TYPE_MASK: u16 = 0x3fff;

/// Sends a change; returns when the kernel has made it.
///
/// # Errors
/// The kernel's, or the socket's.
pub fn change(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    exchange(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body).map(drop)
}

/// How often a dump that was interrupted by changes is asked for again, a moment later each time.
const ATTEMPTS: u32 = 30;
const MOMENT: Duration = Duration::from_millis(2);

/// Asks for all objects of a kind; their bodies. A list that changes while it is read is read again: an
/// object that is missing from it would look like one that is gone.
///
/// # Errors
/// The kernel's, or the socket's; [`io::ErrorKind::Interrupted`] when the list does not hold still.
pub fn dump(kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    for attempt in 1..=ATTEMPTS {
        match exchange(kind, NLM_F_REQUEST | NLM_F_DUMP, body) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => sleep(MOMENT * attempt),
            result => return result,
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

fn exchange(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    #[cfg(test)]
    crate::kernel::testing::count_question();
    // Without a protocol it is `NETLINK_ROUTE`, which is 0.
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // Sequence and port: one request to a socket of its own.
    message.extend(body);
    send(&socket, &message, SendFlags::empty())?;
    receive(&socket)
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut bodies = Vec::new();
    let mut buffer = vec![0u8; BUFFER];
    let mut interrupted = false;
    loop {
        let (_, length) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..length.min(BUFFER)];
        while !rest.is_empty() {
            let Message {
                kind,
                flags,
                body,
                next,
            } = message(rest).ok_or_else(malformed)?;
            interrupted |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_DONE if interrupted => return Err(io::ErrorKind::Interrupted.into()),
                NLMSG_DONE => return Ok(bodies),
                NLMSG_ERROR => {
                    let code = body.first_chunk().ok_or_else(malformed)?;
                    return match i32::from_ne_bytes(*code) {
                        0 => Ok(bodies),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => bodies.push(body.to_vec()),
            }
            rest = next;
        }
    }
}

/// One message of those that a read returns.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its type, such as `RTM_NEWLINK`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// What comes after the header.
    pub body: &'a [u8],
    /// The messages after it.
    pub next: &'a [u8],
}

/// The first message in `bytes`; none when it is malformed.
pub fn message(bytes: &[u8]) -> Option<Message<'_>> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    Some(Message {
        kind: u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?),
        flags: u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?),
        body: bytes.get(HEADER..length)?,
        next: bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    })
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel's netlink answer cannot be read",
    )
}

/// Appends an attribute.
pub fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Values are a few bytes long.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The attributes in `bytes`, up to the first that is malformed.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::{attributes, put};

    #[test]
    fn attributes_are_read_as_they_were_put() {
        let mut body = Vec::new();
        put(&mut body, 1, b"bpf\0");
        put(&mut body, 7, b"odd");
        put(&mut body, 0x8002, &[1, 2, 3, 4, 5]);
        let read: Vec<_> = attributes(&body).collect();
        let expected: [(u16, &[u8]); 3] = [(1, b"bpf\0"), (7, b"odd"), (2, &[1, 2, 3, 4, 5])];
        assert_eq!(read, expected);
        assert_eq!(attributes(&[9, 0, 1, 0]).count(), 0);
    }
}
