//! What can go wrong between the agent and the kernel, and what to do about it.

use std::{error::Error, io, path::PathBuf};

/// A kernel operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel is too old.
    #[error("this host runs Linux {release}; Bulkhead needs 5.10 or newer: upgrade the kernel")]
    TooOld {
        /// As `uname -r` prints it.
        release: String,
    },
    /// The pin directory's file system is not a bpffs.
    #[error(
        "{} is not a BPF file system: run `mount -t bpf bpf {}`, or set `bpffs` in the agent's config to where one is mounted",
        .path.display(), .path.display()
    )]
    NoBpffs {
        /// Where one was expected.
        path: PathBuf,
    },
    /// The kernel was built without BPF, or it is locked away.
    #[error(
        "the kernel has no bpf system call: it needs CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF"
    )]
    NoBpf,
    /// Not enough rights.
    #[error(
        "{doing} was not permitted: run the agent as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (before Linux 5.8: CAP_SYS_ADMIN)"
    )]
    NotPermitted {
        /// What was being done.
        doing: String,
    },
    /// Pinned maps of another shape than this agent's.
    #[error(
        "the map {map} pinned in {} has another shape ({pinned}) than this agent's ({expected}): run `bulkhead-agent detach`, then start the agent again",
        .pin_dir.display()
    )]
    Shape {
        /// Its name.
        map: String,
        /// The directory of the pins.
        pin_dir: PathBuf,
        /// What is there.
        pinned: String,
        /// What was expected.
        expected: String,
    },
    /// An interface that cannot be policed.
    #[error("interface {interface}: {problem}")]
    Interface {
        /// Its name.
        interface: String,
        /// Why, and what to do.
        problem: &'static str,
    },
    /// A map did not hold what was written to it.
    #[error("map {map}: entry {index} does not read back as it was written")]
    ReadBack {
        /// Its name.
        map: &'static str,
        /// Which entry.
        index: u32,
    },
    /// A system call on files or interfaces failed.
    #[error("{doing}")]
    Io {
        /// What was being done, on what.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A BPF operation failed.
    #[error("{doing}")]
    Bpf {
        /// What was being done, on what.
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl KernelError {
    /// Wraps a failed BPF operation; finds out whether rights or the whole of BPF were missing.
    pub fn bpf(doing: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        let doing = doing.into();
        match io_cause(&source).and_then(io::Error::raw_os_error) {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { doing },
            Some(libc::ENOSYS) => Self::NoBpf,
            _ => Self::Bpf {
                doing,
                source: Box::new(source),
            },
        }
    }

    /// Wraps a failed system call.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        let doing = doing.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { doing },
            _ => Self::Io { doing, source },
        }
    }

    /// The exit code that fits: 69 what the host lacks, 78 what its config gets wrong, 70 the rest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::TooOld { .. }
            | Self::NoBpffs { .. }
            | Self::NoBpf
            | Self::NotPermitted { .. } => 69,
            Self::Shape { .. } | Self::Interface { .. } => 78,
            Self::ReadBack { .. } | Self::Io { .. } | Self::Bpf { .. } => 70,
        }
    }
}

/// The first error number in a chain of causes.
fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}
