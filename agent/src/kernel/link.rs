//! Ending a pinned link at once. Unlinking the pin ends it too, but some time after the call returns:
//! the kernel frees the inode, and with it the link, from a work queue.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Commands of `bpf(2)` that aya has no call for, from `include/uapi/linux/bpf.h`.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Detaches the link behind a pin; when it returns, no further packet meets its program.
///
/// # Errors
/// As the system calls report.
pub fn detach(pin: &Path) -> io::Result<()> {
    let link = open(pin)?;
    let attributes = LinkDetach {
        link_fd: descriptor_number(link.as_raw_fd())?,
    };
    bpf(BPF_LINK_DETACH, &attributes).map(drop)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attributes = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let number = bpf(BPF_OBJ_GET, &attributes)?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn descriptor_number(number: RawFd) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Calls `bpf(2)`.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a live value, takes those beyond as zero, and
    // writes nothing for these commands.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes as *const T,
            size_of::<T>(),
        )
    };
    match RawFd::try_from(result) {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(io::Error::last_os_error()),
    }
}
