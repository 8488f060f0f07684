//! What can go wrong between the agent and the kernel, and what to do about it.

use std::{error::Error, io, path::PathBuf};

use aya::programs::ProgramError;

use crate::kernel::permission::Cause;

/// As much of the verifier's log as is shown: its end tells what it refused.
const LOG_LINES: usize = 20;

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
    /// The kernel was built without the traffic control that programs are attached with.
    #[error(
        "the kernel cannot attach programs to interfaces: it needs CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, built in or loaded as modules"
    )]
    NoTc,
    /// The kernel is older than TCX links, which the config asks for.
    #[error(
        "this host runs Linux {release}, and TCX links came with 6.6: set `hooking` in the agent's config to \"automatic\""
    )]
    NoTcx {
        /// As `uname -r` prints it.
        release: String,
    },
    /// Something refuses the process what it asked for.
    #[error("{doing} was not permitted: {why}")]
    NotPermitted {
        /// What was being done.
        doing: String,
        /// What refuses it, and what to do.
        why: Cause,
        /// What the kernel said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The verifier refused a program.
    #[error(
        "{doing}: the kernel's verifier refuses the program ({reason}); please report this with the kernel's version and what follows\n{log}"
    )]
    Rejected {
        /// What was being done.
        doing: String,
        /// What the system call said.
        reason: String,
        /// The end of the verifier's log.
        log: String,
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
        problem: String,
    },
    /// The pins are gone, and cannot be made again.
    #[error(
        "the pins in {} are gone, so what is enforced ends when the agent stops: {problem}",
        .pin_dir.display()
    )]
    PinsLost {
        /// Where they were.
        pin_dir: PathBuf,
        /// Why they cannot be made again, and what to do.
        problem: String,
    },
    /// The file system is read-only for this process.
    #[error(
        "{doing}: the file system is read-only for this process: in a systemd unit, add ReadWritePaths= for it and leave out ProtectKernelTunables=, which makes /sys read-only whatever else is said; in a container, mount it writable"
    )]
    ReadOnly {
        /// What was being done, on what.
        doing: String,
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

/// Of a step that a test fails; all others say what they were doing.
impl From<io::Error> for KernelError {
    fn from(source: io::Error) -> Self {
        Self::syscall("taking a step", source)
    }
}

impl KernelError {
    /// Wraps a failed BPF operation; finds out what refused it, or whether the whole of BPF is missing.
    pub fn bpf(doing: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        let doing = doing.into();
        let number = error_number(&source);
        let source = Box::new(source);
        match number.and_then(cause) {
            Some(Some(why)) => Self::NotPermitted { doing, why, source },
            Some(None) => Self::NoBpf,
            None => Self::Bpf { doing, source },
        }
    }

    /// Wraps a program that could not be loaded.
    pub fn load(doing: impl Into<String>, error: ProgramError) -> Self {
        let doing = doing.into();
        match &error {
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } if is_rejection(&error) => Self::Rejected {
                doing,
                reason: io_error.to_string(),
                log: tail(&verifier_log.to_string()),
            },
            _ => Self::bpf(doing, error),
        }
    }

    /// Wraps a failed system call on links, filters and interfaces.
    pub fn syscall(doing: impl Into<String>, source: io::Error) -> Self {
        let doing = doing.into();
        match source.raw_os_error().and_then(cause) {
            Some(Some(why)) => Self::NotPermitted {
                doing,
                why,
                source: source.into(),
            },
            Some(None) => Self::NoBpf,
            None => Self::Io { doing, source },
        }
    }

    /// Wraps a failed system call on files.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        let doing = doing.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted {
                doing,
                why: Cause::of_file(),
                source: source.into(),
            },
            Some(libc::EROFS) => Self::ReadOnly { doing },
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
            | Self::NoTc
            | Self::PinsLost { .. }
            | Self::NotPermitted { .. }
            | Self::ReadOnly { .. } => 69,
            Self::NoTcx { .. } | Self::Shape { .. } | Self::Interface { .. } => 78,
            Self::ReadBack { .. } | Self::Io { .. } | Self::Bpf { .. } | Self::Rejected { .. } => {
                70
            }
        }
    }
}

/// What an error number of a call on BPF or an interface says about permission: `None` when it says nothing, and
/// `Some(None)` when it says that the kernel has no BPF.
fn cause(number: i32) -> Option<Option<Cause>> {
    match number {
        libc::EPERM => Some(Some(Cause::of_kernel())),
        // A seccomp profile may answer so as well.
        libc::ENOSYS => Some(Some(Cause::of_kernel()).filter(|why| *why == Cause::Seccomp)),
        // Without a security module it is not about permission: the verifier says it, or a map that is read-only.
        libc::EACCES => match Cause::of_kernel() {
            why @ Cause::SecurityModule(_) => Some(Some(why)),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the verifier refused a program: not rights, not memory, not a kernel without BPF.
pub fn is_rejection(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { .. })
        && !matches!(
            error_number(error),
            Some(libc::EPERM | libc::ENOMEM | libc::ENOSYS)
        )
}

/// The first error number in a chain of causes.
fn error_number(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(number: i32, log: &str) -> ProgramError {
        ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(number),
            verifier_log: aya_obj::VerifierLog::new(log.to_owned()),
        }
    }

    #[test]
    fn what_the_verifier_refuses_is_not_taken_for_missing_rights() {
        let log: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let error = KernelError::load("loading x", refused(libc::EACCES, &log));
        let text = error.to_string();
        assert!(text.contains("verifier refuses"), "{text}");
        assert!(
            text.ends_with("line 99") && !text.contains("line 79"),
            "{text}"
        );
        assert_eq!(error.exit_code(), 70);
    }

    #[test]
    fn missing_rights_are_named_with_what_the_kernel_said() {
        for error in [
            KernelError::load("loading x", refused(libc::EPERM, "")),
            KernelError::io("reading x", io::Error::from_raw_os_error(libc::EACCES)),
        ] {
            assert!(matches!(error, KernelError::NotPermitted { .. }));
            assert!(error.source().is_some());
            assert_eq!(error.exit_code(), 69);
        }
    }

    #[test]
    fn a_read_only_file_system_is_named_as_such() {
        let error = io::Error::from_raw_os_error(libc::EROFS);
        let error = KernelError::io("creating /sys/fs/bpf/bulkhead", error);
        assert!(error.to_string().contains("read-only"), "{error}");
        assert_eq!(error.exit_code(), 69);
    }
}
