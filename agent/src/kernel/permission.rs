//! Why the kernel refuses a call with EPERM. Missing capabilities are one cause of several, and each has another
//! remedy: so the process looks at itself before it says what is missing.

use std::{fmt, fs, io};

use rustix::{
    process::{Resource, getrlimit},
    thread::{CapabilitySet, capabilities},
};

use crate::{capabilities, kernel::requirements};

/// The profile that the repository ships for container runtimes.
const PROFILE: &str = "deploy/kubernetes/seccomp/bulkhead-agent.json";
/// The kernel that stopped charging maps and programs to the limit of locked memory.
const MEMORY_CONTROL_GROUPS_SINCE: (u32, u32) = (5, 11);

/// What refuses a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The process lacks these capabilities.
    Capabilities(String),
    /// It has them in a user namespace of its own, where they do not count for this.
    UserNamespace,
    /// Its seccomp filter does not let `bpf(2)` pass.
    Seccomp,
    /// What a kernel before 5.11 charges to the limit of locked memory, in bytes, does not fit.
    MemoryLimit(u64),
    /// SELinux or AppArmor, under this label.
    SecurityModule(String),
    /// A file that belongs to another user, or whose mode shuts this one out.
    Ownership,
    /// None of these.
    Unknown,
}

/// What a process can find out about itself.
#[derive(Clone, Debug, Default)]
struct Process {
    /// Names of the required capabilities that are not effective; empty when all are.
    missing: String,
    /// Whether its user namespace is not the machine's.
    in_user_namespace: bool,
    /// Whether a seccomp filter is active.
    is_filtered: bool,
    /// The error number with which `bpf(2)` is refused to it whatever it asks for; `None`: it is not.
    bpf_refused: Option<i32>,
    /// The limit of locked memory, where the kernel charges maps to it and it is finite.
    memory_limit: Option<u64>,
    /// The label under which a security module confines it.
    label: Option<String>,
}

impl Cause {
    /// Why this process may not do what it asked of BPF or of an interface.
    pub fn of_kernel() -> Self {
        Process::look().why()
    }

    /// Why this process may not do what it wanted to do with a file.
    pub fn of_file() -> Self {
        match Process::look().label {
            Some(label) => Self::SecurityModule(label),
            None => Self::Ownership,
        }
    }

    /// Whether something else than the kernel answers `bpf(2)`, and with what.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check_bpf() -> Result<(), (Self, io::Error)> {
        match probe_bpf() {
            None => Ok(()),
            Some(number) => Err((Self::of_kernel(), io::Error::from_raw_os_error(number))),
        }
    }
}

impl Process {
    fn look() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self {
            missing: missing(),
            in_user_namespace: is_partial(&uid_map),
            is_filtered: is_filtered(&status),
            bpf_refused: probe_bpf(),
            memory_limit: memory_limit(),
            label: fs::read_to_string("/proc/self/attr/current")
                .ok()
                .and_then(|label| confining(&label)),
        }
    }

    fn why(self) -> Cause {
        if !self.missing.is_empty() {
            return Cause::Capabilities(self.missing);
        }
        if self.in_user_namespace {
            return Cause::UserNamespace;
        }
        match (self.bpf_refused, self.memory_limit, self.label) {
            // A security module's own answer is EACCES; the answer of a filter is whatever its profile says.
            (Some(number), _, _) if self.is_filtered && number != libc::EACCES => Cause::Seccomp,
            (None, Some(limit), _) => Cause::MemoryLimit(limit),
            (_, _, Some(label)) => Cause::SecurityModule(label),
            (Some(_), _, None) if self.is_filtered => Cause::Seccomp,
            _ => Cause::Unknown,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capabilities(names) => write!(
                f,
                "{names} missing: run the agent as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
            ),
            Self::UserNamespace => f.write_str(
                "the process has its capabilities in a user namespace only, where they do not count for this: run the agent in the host's user namespace (not in a rootless container)",
            ),
            Self::Seccomp => write!(
                f,
                "the capabilities are there, but the process's seccomp filter refuses the bpf system call: in a container, use the seccomp profile {PROFILE} (in Kubernetes as `seccompProfile: {{ type: Localhost, ... }}`, see docs/install-kubernetes.md); in a systemd unit, add bpf to SystemCallFilter"
            ),
            Self::MemoryLimit(bytes) => write!(
                f,
                "the capabilities are there, but the limit of locked memory is {bytes} bytes, and kernels before 5.11 charge BPF maps and programs to it: raise it (LimitMEMLOCK=infinity in the systemd unit of the agent, or of the container runtime)"
            ),
            Self::SecurityModule(label) => write!(
                f,
                "the capabilities are there, but a security module confines the process as {label}: run it unconfined (in Kubernetes: `appArmorProfile: {{ type: Unconfined }}` and `seLinuxOptions: {{ type: spc_t }}`)"
            ),
            Self::Ownership => f.write_str(
                "it belongs to another user, or its mode shuts this one out: run the agent as the user that owns it, which is root unless you changed it",
            ),
            Self::Unknown => f.write_str(
                "the capabilities are there, and no seccomp filter refuses the bpf system call: look into the kernel's log and the audit log for a security module that does",
            ),
        }
    }
}

/// The names of the required capabilities that the process lacks, with the verb; empty when it has all.
fn missing() -> String {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    capabilities::names_of_missing(effective).unwrap_or_default()
}

/// Asks `bpf(2)` for nothing that it has: EINVAL is the kernel's own answer, with the capability.
fn probe_bpf() -> Option<i32> {
    /// No command has this number.
    const NO_COMMAND: libc::c_int = libc::c_int::MAX;
    // SAFETY: the attributes are null and zero bytes long, so the kernel reads and writes no memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            NO_COMMAND,
            std::ptr::null_mut::<libc::c_void>(),
            0,
        )
    };
    let number = io::Error::last_os_error().raw_os_error();
    number.filter(|number| result < 0 && *number != libc::EINVAL)
}

fn memory_limit() -> Option<u64> {
    let is_charged =
        requirements::running().is_some_and(|version| version < MEMORY_CONTROL_GROUPS_SINCE);
    // `None` is no limit.
    getrlimit(Resource::Memlock).current.filter(|_| is_charged)
}

/// Whether `/proc/self/status` says that a seccomp filter is active.
fn is_filtered(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"))
        .is_some_and(|mode| mode.trim() == "2")
}

/// Whether a user namespace does not have all of the machine's users, by `/proc/self/uid_map`.
fn is_partial(uid_map: &str) -> bool {
    let whole = ["0", "0", "4294967295"];
    !uid_map.is_empty() && !uid_map.split_whitespace().eq(whole)
}

/// The label in `/proc/self/attr/current`, if a process under it is confined.
fn confining(label: &str) -> Option<String> {
    let label = label.trim_end_matches(['\0', '\n']);
    let free = ["unconfined", ":spc_t", "(complain)", "kernel"];
    let confines = !label.is_empty() && free.iter().all(|free| !label.contains(free));
    confines.then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_capabilities() -> Process {
        Process::default()
    }

    #[test]
    fn each_cause_is_told_from_the_others() {
        let process = with_capabilities();
        assert_eq!(process.clone().why(), Cause::Unknown);
        let filtered = Process {
            is_filtered: true,
            bpf_refused: Some(libc::EPERM),
            memory_limit: Some(65536),
            ..process.clone()
        };
        assert_eq!(filtered.clone().why(), Cause::Seccomp);
        // The answer of a profile whose default is not EPERM.
        let absent = Process {
            bpf_refused: Some(libc::ENOSYS),
            ..filtered.clone()
        };
        assert_eq!(absent.why(), Cause::Seccomp);
        // A filter that lets bpf(2) pass is not the cause.
        let passed = Process {
            bpf_refused: None,
            ..filtered.clone()
        };
        assert_eq!(passed.clone().why(), Cause::MemoryLimit(65536));
        let unlimited = Process {
            memory_limit: None,
            ..passed
        };
        assert_eq!(unlimited.why(), Cause::Unknown);
        let confined = Process {
            label: Some("container_t".to_owned()),
            bpf_refused: Some(libc::EACCES),
            ..filtered.clone()
        };
        assert_eq!(
            confined.why(),
            Cause::SecurityModule("container_t".to_owned())
        );
        let rootless = Process {
            in_user_namespace: true,
            ..filtered.clone()
        };
        assert_eq!(rootless.why(), Cause::UserNamespace);
        let plain_user = Process {
            missing: "CAP_BPF is".to_owned(),
            ..filtered
        };
        assert_eq!(
            plain_user.why(),
            Cause::Capabilities("CAP_BPF is".to_owned())
        );
    }

    #[test]
    fn the_process_is_read_as_the_kernel_shows_it() {
        assert!(is_filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!is_filtered("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t2\n"));
        assert!(!is_partial("         0          0 4294967295\n"));
        assert!(is_partial("         0       1000          1\n"));
        assert!(is_partial(
            "         0          0       1000\n      1000 5000 10\n"
        ));
        for free in [
            "unconfined\n",
            "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0",
            "system_u:system_r:spc_t:s0\0",
            "",
        ] {
            assert_eq!(confining(free), None, "{free}");
        }
        assert_eq!(
            confining("docker-default (enforce)\n").as_deref(),
            Some("docker-default (enforce)")
        );
    }

    #[test]
    fn the_kernel_answers_a_process_that_may_call_it() {
        assert_eq!(probe_bpf(), None, "this test runs as root");
    }
}
