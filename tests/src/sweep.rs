//! Removing what a killed run left behind.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

use crate::ip;

/// How the directories of labs are called, in the directory for temporary files.
pub(crate) const DIRECTORY: &str = "bulkhead-lab-";

/// In a lab's directory: the process that owns it and the prefix of its namespaces, a line each.
const OWNER: &str = "owner";

/// Marks a lab's directory as owned by this process.
pub(crate) fn claim(directory: &Path, prefix: &str) -> Result<()> {
    let path = directory.join(OWNER);
    fs::write(&path, format!("{}\n{prefix}\n", std::process::id()))
        .with_context(|| format!("writing {}", path.display()))
}

/// The process that owns a lab's directory, and its prefix; none when nobody claimed it yet.
fn owner(directory: &Path) -> Option<(i32, String)> {
    let text = fs::read_to_string(directory.join(OWNER)).ok()?;
    let mut lines = text.lines();
    Some((lines.next()?.parse().ok()?, lines.next()?.to_owned()))
}

/// Removes every lab whose process is gone.
pub(crate) fn sweep() -> Result<()> {
    for entry in fs::read_dir(env::temp_dir()).context("listing the temporary files")? {
        let directory = entry.context("listing the temporary files")?.path();
        if directory
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(DIRECTORY))
            && let Some((process, prefix)) = owner(&directory)
            && !Path::new(&format!("/proc/{process}")).exists()
        {
            remove(&directory, &prefix)
                .with_context(|| format!("removing what a killed run left in {directory:?}"))?;
        }
    }
    Ok(())
}

fn remove(directory: &PathBuf, prefix: &str) -> Result<()> {
    for line in ip::query(&["netns", "list"])?.lines() {
        let Some(name) = line
            .split_whitespace()
            .next()
            .filter(|name| name.starts_with(prefix))
        else {
            continue;
        };
        for process in ip::query(&["netns", "pids", name])?.split_whitespace() {
            if let Some(process) = process.parse().ok().and_then(Pid::from_raw) {
                // Gone already is as good.
                let _ = kill_process(process, Signal::KILL);
            }
        }
        ip::query(&["netns", "delete", name])?;
    }
    for entry in fs::read_dir(directory)? {
        unmount_bpffs(&entry?.path().join("bpf"));
    }
    // Another run may sweep the same directory at the same time.
    let _ = fs::remove_dir_all(directory);
    Ok(())
}

/// Unmounts a host's bpffs, if one is mounted.
pub(crate) fn unmount_bpffs(path: &Path) {
    if path.is_dir() {
        // Not mounted is as good.
        let _ = unmount(path, UnmountFlags::DETACH);
    }
}
