//! What the kernel says of interfaces and addresses as they change, so that one that comes is policed
//! before it carries traffic, and not at the next look.

use std::{io, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
    netlink::SocketAddrNetlink,
    recv, socket_with,
    sockopt::{self, Timeout},
};

use crate::kernel::KernelError;

/// Groups of `include/uapi/linux/rtnetlink.h`: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// How long a wait lasts at most.
const WAKE: std::time::Duration = std::time::Duration::from_millis(200);
/// What is said is not read: it only says that there is something to look at.
const BUFFER: usize = 8 << 10;

/// A socket that hears of changes in its network namespace.
#[derive(Debug)]
pub struct Changes(OwnedFd);

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

    /// Waits for a change, and takes all that are there; false when none came for a moment.
    ///
    /// # Errors
    /// [`KernelError::Io`].
    pub fn wait(&self) -> Result<bool, KernelError> {
        let mut buffer = [0; BUFFER];
        match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
            Ok(_) => {
                // What fails here fails again at the next wait.
                while recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT).is_ok() {}
                Ok(true)
            }
            Err(error) => match error.raw_os_error() {
                libc::EAGAIN | libc::EINTR => Ok(false),
                // More changes than the socket holds: there is something to look at.
                libc::ENOBUFS => Ok(true),
                _ => Err(KernelError::io(
                    "hearing of changes of interfaces",
                    error.into(),
                )),
            },
        }
    }
}
