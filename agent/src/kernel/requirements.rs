//! What a host must have before anything is loaded.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::kernel::{KernelError, permission::Cause};

/// `BPF_FS_MAGIC` of `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
/// The oldest kernel that the programs are made for.
const OLDEST: (u32, u32) = (5, 10);

/// Checks the kernel's release, that it has BPF and lets this process call it, and that `bpffs` is a BPF file system.
///
/// # Errors
/// [`KernelError::TooOld`], [`KernelError::NoBpf`], [`KernelError::NotPermitted`] and [`KernelError::NoBpffs`].
pub fn check(bpffs: &Path) -> Result<(), KernelError> {
    if running().is_none_or(|version| version < OLDEST) {
        return Err(KernelError::TooOld { release: release() });
    }
    // Before the file system: a kernel without BPF has none to mount.
    if std::fs::read_to_string("/proc/filesystems").is_ok_and(|list| !knows_bpf(&list)) {
        return Err(KernelError::NoBpf);
    }
    Cause::check_bpf().map_err(|(why, source)| KernelError::NotPermitted {
        doing: "calling bpf(2)".to_owned(),
        why,
        source: source.into(),
    })?;
    if is_bpffs(bpffs) {
        Ok(())
    } else {
        Err(KernelError::NoBpffs {
            path: bpffs.to_owned(),
        })
    }
}

/// Whether a directory is on a BPF file system.
pub fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path)
        .is_ok_and(|status| u32::try_from(status.f_type).is_ok_and(|kind| kind == BPF_FS_MAGIC))
}

/// Lets the process hold as many descriptors as it may: it holds two links for each interface.
pub fn lift_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let lifted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, lifted) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

/// How many descriptors the process may hold.
pub fn most_files() -> usize {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Whether a list such as `/proc/filesystems` has the BPF file system, which comes with `bpf(2)`.
fn knows_bpf(list: &str) -> bool {
    list.lines()
        .any(|line| line.split_whitespace().last() == Some("bpf"))
}

/// Before 5.11 the kernel counts maps against the limit of locked memory, 64 KiB by default.
pub fn lift_memory_limit() {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        // Newer kernels do not ask for it; on older ones the error of making the maps names the limit.
        tracing::debug!(%error, "the limit of locked memory stays");
    }
}

/// The running kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// The first two numbers of the running kernel's release.
pub fn running() -> Option<(u32, u32)> {
    version(&release())
}

/// The first two numbers of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::{knows_bpf, version};

    #[test]
    fn a_kernel_without_bpf_is_told_from_one_where_it_is_not_mounted() {
        assert!(knows_bpf("nodev\tsysfs\nnodev\tbpf\n\text4\n"));
        assert!(!knows_bpf("nodev\tsysfs\nnodev\tbpf_preload\n\text4\n"));
    }

    #[test]
    fn a_release_is_read_up_to_its_minor_number() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.10.218"), Some((5, 10)));
        assert_eq!(version("6.18-rc1"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
    }
}
