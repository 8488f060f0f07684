//! What the kernel says of interfaces, addresses and filters as they change, so that an interface that comes
//! is policed before it carries traffic, and one that loses its filters gets them back, and not at the next
//! look.

use std::{collections::BTreeSet, io, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
    netlink::SocketAddrNetlink,
    recv, socket_with,
    sockopt::{self, Timeout},
};

use crate::kernel::{KernelError, netlink::message};

/// Groups of `include/uapi/linux/rtnetlink.h`: RTMGRP_LINK, RTMGRP_TC, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
const GROUPS: u32 = 0x1 | 0x8 | 0x10 | 0x100;
/// RTM_NEWQDISC to RTM_GETTFILTER, and RTM_NEWCHAIN to RTM_GETCHAIN: each is of one interface, whose index
/// is the second word of `struct tcmsg`.
const TRAFFIC_CONTROL: [std::ops::RangeInclusive<u16>; 2] = [36..=46, 100..=102];
/// How long a wait lasts at most.
const WAKE: std::time::Duration = std::time::Duration::from_millis(200);
/// A message of an interface is a few KiB long; of a longer one the beginning is enough.
const BUFFER: usize = 32 << 10;

/// A socket that hears of changes in its network namespace.
#[derive(Debug)]
pub struct Changes(OwnedFd);

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Interfaces or addresses.
    pub network: bool,
    /// The qdiscs or filters of the interfaces of these indexes.
    pub filters: BTreeSet<u32>,
    /// More than is known: anything may have.
    pub anything: bool,
}

impl Changed {
    /// Anything may have changed.
    #[must_use]
    pub fn anything() -> Self {
        Self {
            anything: true,
            ..Self::default()
        }
    }

    /// Whether nothing has.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what else has changed.
    pub fn add(&mut self, other: Self) {
        self.network |= other.network;
        self.anything |= other.anything;
        self.filters.extend(other.filters);
    }

    /// Whether the interfaces and addresses have to be listed anew.
    #[must_use]
    pub fn is_of_network(&self) -> bool {
        self.network || self.anything
    }

    /// Whether the filters of an interface have to be looked at.
    #[must_use]
    pub fn is_of_filters(&self, interface: u32) -> bool {
        self.anything || self.filters.contains(&interface)
    }

    /// Adds what the messages of one read say.
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(message) = message(bytes) else {
                self.anything = true;
                return;
            };
            if TRAFFIC_CONTROL.iter().any(|of| of.contains(&message.kind)) {
                match message.body.get(4..).and_then(|rest| rest.first_chunk()) {
                    Some(index) => _ = self.filters.insert(u32::from_ne_bytes(*index)),
                    None => self.anything = true,
                }
            } else {
                self.network = true;
            }
            bytes = message.next;
        }
    }
}

impl Changes {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`KernelError::Io`].
    pub fn listen() -> Result<Self, KernelError> {
        let listen = || -> io::Result<OwnedFd> {
            // Without a protocol it is `NETLINK_ROUTE`, which is 0.
            let socket = socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                None,
            )?;
            sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(WAKE))?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            Ok(socket)
        };
        listen()
            .map(Self)
            .map_err(|error| KernelError::io("listening to changes of interfaces", error))
    }

    /// Waits for a change, and takes all that are there; nothing when none came for a moment.
    ///
    /// # Errors
    /// [`KernelError::Io`].
    pub fn wait(&self) -> Result<Changed, KernelError> {
        let mut buffer = vec![0; BUFFER];
        let mut changed = Changed::default();
        let mut flags = RecvFlags::empty();
        loop {
            match recv(&self.0, buffer.as_mut_slice(), flags) {
                Ok((_, length)) => changed.read(&buffer[..length.min(BUFFER)]),
                Err(error) => match error.raw_os_error() {
                    libc::EAGAIN | libc::EINTR => return Ok(changed),
                    // More changes than the socket holds.
                    libc::ENOBUFS => changed.anything = true,
                    _ if !changed.is_nothing() => return Ok(changed),
                    _ => {
                        return Err(KernelError::io(
                            "hearing of changes of interfaces",
                            error.into(),
                        ));
                    }
                },
            }
            flags = RecvFlags::DONTWAIT;
        }
    }
}
