//! TCX links by `bpf(2)`: aya attaches by name, which another interface may bear a moment later, and
//! has no call that ends a link.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Commands, attach types and flags from `include/uapi/linux/bpf.h`.
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_F_BEFORE: u32 = 1 << 3;

/// As many programs at one point as are looked at.
const MOST: usize = 64;

/// Where a link is attached on its interface.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// `BPF_TCX_INGRESS`.
    Ingress = 46,
    /// `BPF_TCX_EGRESS`.
    Egress = 47,
}

/// The part of `union bpf_attr` that `BPF_OBJ_PIN` and `BPF_OBJ_GET` read.
#[repr(C)]
struct Obj {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part that `BPF_LINK_CREATE` reads; what follows is zero: no relative, any revision.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The part that `BPF_LINK_UPDATE` reads.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The part that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// The part that `BPF_LINK_GET_FD_BY_ID` reads; what follows is zero.
#[repr(C)]
struct LinkById {
    link_id: u32,
}

/// The part that `BPF_PROG_QUERY` reads, and writes numbers into.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// An open TCX link.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// Where a link runs among the programs of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    First,
    /// Another tool's program runs before it.
    Behind,
    /// Not there: its interface is gone, or was moved to another network namespace, link and all.
    Absent,
}

/// What a link says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The kernel's number of the link.
    pub id: u32,
    /// The index of its interface, in whatever namespace that is; `None` when it is gone, and the link dead.
    pub interface: Option<u32>,
    /// The kernel's number of its program.
    pub program: u32,
}

impl Link {
    /// Attaches a program to an interface, before all others at that point.
    ///
    /// # Errors
    /// `ENODEV` when the interface is gone, and as `bpf(2)` reports.
    pub fn create(program: BorrowedFd<'_>, interface: u32, point: Point) -> io::Result<Self> {
        let attributes = LinkCreate {
            prog_fd: number(program)?,
            target_ifindex: interface,
            attach_type: point as u32,
            flags: BPF_F_BEFORE,
        };
        bpf(BPF_LINK_CREATE, &attributes).map(|raw| Self(owned(raw)))
    }

    /// Opens a pinned link; `None` when there is no such pin.
    ///
    /// # Errors
    /// As `bpf(2)` reports.
    pub fn open(pin: &Path) -> io::Result<Option<Self>> {
        match get(pin) {
            Ok(object) => Ok(Some(Self(object))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a link by the kernel's number of it.
    ///
    /// # Errors
    /// As `bpf(2)` reports.
    pub fn by_id(id: u32) -> io::Result<Self> {
        let attributes = LinkById { link_id: id };
        bpf(BPF_LINK_GET_FD_BY_ID, &attributes).map(|raw| Self(owned(raw)))
    }

    /// Pins it, so that it outlives this process.
    ///
    /// # Errors
    /// As `bpf(2)` reports.
    pub fn pin(&self, pin: &Path) -> io::Result<()> {
        self::pin(self.0.as_fd(), pin)
    }

    /// Puts another program in its place in one step.
    ///
    /// # Errors
    /// `ENOLINK` when the link is dead, and as `bpf(2)` reports.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let attributes = LinkUpdate {
            link_fd: number(self.0.as_fd())?,
            new_prog_fd: number(program)?,
            flags: 0,
            old_prog_fd: 0,
        };
        bpf(BPF_LINK_UPDATE, &attributes).map(drop)
    }

    /// Ends it; when this returns, no further packet meets its program. Unlinking the pin ends it
    /// too, but some time later: the kernel frees the inode, and with it the link, from a work queue.
    ///
    /// # Errors
    /// `ENOLINK` when it was dead before, and as `bpf(2)` reports.
    pub fn detach(&self) -> io::Result<()> {
        let attributes = LinkDetach {
            link_fd: number(self.0.as_fd())?,
        };
        bpf(BPF_LINK_DETACH, &attributes).map(drop)
    }

    /// Asks the kernel where it runs on an interface of this namespace. The index that it says itself
    /// may be one of another namespace.
    ///
    /// # Errors
    /// As `bpf(2)` reports.
    pub fn place(&self, interface: u32, point: Point) -> io::Result<Place> {
        let id = self.state()?.id;
        let running = running_at(interface, point)?;
        Ok(
            match running.iter().position(|running| running.link == id) {
                Some(0) => Place::First,
                Some(_) => Place::Behind,
                None => Place::Absent,
            },
        )
    }

    /// Asks the kernel for its state.
    ///
    /// # Errors
    /// When `/proc` cannot be read, or this is no TCX link.
    pub fn state(&self) -> io::Result<LinkState> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()))?;
        state(&text)
    }
}

/// Pins a pinned object, of whatever kind, at a second place.
///
/// # Errors
/// As `bpf(2)` reports.
pub fn pin_again(from: &Path, to: &Path) -> io::Result<()> {
    pin(get(from)?.as_fd(), to)
}

/// A program at a point of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// The kernel's number of the program.
    pub program: u32,
    /// The kernel's number of its link; 0 for a program without one.
    pub link: u32,
}

/// What runs at a point of an interface of this namespace, in order. Nothing on an interface that is not
/// there, and on a kernel without TCX.
///
/// # Errors
/// As `bpf(2)` reports.
pub fn running_at(interface: u32, point: Point) -> io::Result<Vec<Running>> {
    let (mut programs, mut links) = ([0u32; MOST], [0u32; MOST]);
    let mut attributes = ProgQuery {
        target_ifindex: interface,
        attach_type: point as u32,
        prog_ids: programs.as_mut_ptr() as u64,
        count: MOST as u32,
        link_ids: links.as_mut_ptr() as u64,
        ..ProgQuery::default()
    };
    #[cfg(test)]
    crate::kernel::testing::count_question();
    // SAFETY: the kernel reads and writes `size_of::<ProgQuery>()` bytes of a live value that is ours alone,
    // and at most `count` numbers where `prog_ids` and `link_ids` point, which live as long.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut attributes,
            size_of::<ProgQuery>(),
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // A kernel before 6.6 does not know the point.
            Some(libc::ENODEV | libc::ENOENT | libc::EINVAL) => return Ok(Vec::new()),
            // There are more; the first ones are written.
            Some(libc::ENOSPC) => {}
            _ => return Err(error),
        }
    }
    let count = programs.iter().take_while(|program| **program != 0).count();
    let running = programs.into_iter().zip(links).take(count);
    Ok(running
        .map(|(program, link)| Running { program, link })
        .collect())
}

/// Whether any program runs at a point of an interface.
///
/// # Errors
/// As `bpf(2)` reports.
#[cfg(test)]
pub fn runs_any(interface: u32, point: Point) -> io::Result<bool> {
    running_at(interface, point).map(|running| !running.is_empty())
}

/// Opens a pinned object, of whatever kind.
///
/// # Errors
/// As `bpf(2)` reports.
pub fn get(pin: &Path) -> io::Result<OwnedFd> {
    let path = path(pin)?;
    let attributes = Obj {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    bpf(BPF_OBJ_GET, &attributes).map(owned)
}

/// Pins an object of whatever kind.
///
/// # Errors
/// As `bpf(2)` reports.
pub fn pin(object: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let path = path(pin)?;
    let attributes = Obj {
        pathname: path.as_ptr() as u64,
        bpf_fd: number(object)?,
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attributes).map(drop)
}

fn state(fdinfo: &str) -> io::Result<LinkState> {
    let field = |name: &str| -> io::Result<u32> {
        fdinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(field, _)| *field == name)
            .and_then(|(_, value)| value.trim().parse().ok())
            .ok_or_else(|| {
                let text = format!("the kernel tells no {name} of this link: it is not a TCX link");
                io::Error::new(io::ErrorKind::InvalidData, text)
            })
    };
    let interface = field("ifindex")?;
    Ok(LinkState {
        id: field("link_id")?,
        interface: (interface != 0).then_some(interface),
        program: field("prog_id")?,
    })
}

fn path(pin: &Path) -> io::Result<CString> {
    Ok(CString::new(pin.as_os_str().as_bytes())?)
}

fn number(descriptor: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(descriptor.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn owned(raw: RawFd) -> OwnedFd {
    // SAFETY: called on what a successful `bpf(2)` returned: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(raw) }
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

/// Loads a classifier that returns `TC_ACT_OK`, as another tool would.
#[cfg(test)]
pub fn load_two_instructions() -> io::Result<OwnedFd> {
    /// The part that `BPF_PROG_LOAD` reads; what follows is zero.
    #[repr(C)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
    }
    // r0 = 0; exit
    let instructions: [u64; 2] = [0xb7, 0x95];
    let attributes = ProgLoad {
        prog_type: 3, // BPF_PROG_TYPE_SCHED_CLS
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    bpf(5, &attributes).map(owned)
}

#[cfg(test)]
mod tests {
    use super::{LinkState, state};

    #[test]
    fn only_index_0_says_that_the_interface_is_gone() {
        let text =
            |index| format!("link_type:\ttcx\nlink_id:\t9\nprog_id:\t42\nifindex:\t{index}\n");
        let (id, program) = (9, 42);
        let state_of = |index| state(&text(index)).ok();
        assert_eq!(
            state_of(0),
            Some(LinkState {
                id,
                interface: None,
                program
            })
        );
        assert_eq!(
            state_of(7),
            Some(LinkState {
                id,
                interface: Some(7),
                program
            })
        );
        assert!(state("link_type:\ttcx\nprog_id:\t42\n").is_err());
    }
}
