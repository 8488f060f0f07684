//! The state directory: what must survive a reboot, each file replaced whole or not at all.

pub mod controllers;
pub mod identity;
pub mod policy_store;
pub mod rolled_back;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::fail;

/// The state directory; at most one process holds it locked.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Keeps the lock until the process ends; none where the directory is only read.
    _lock: Option<File>,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or directory cannot be read or written.
    #[error("cannot {action} {}; check the owner, the permissions and the free space", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another agent works in the directory.
    #[error("another bulkhead-agent is running on {}; stop it first", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A file is there and does not hold what the agent wrote.
    #[error("{} is damaged ({problem}); {remedy}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
}

impl StateDir {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// When it cannot be made, or another process has it locked.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        make_private_dir(path)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io_error("open", &lock_path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StateError::Locked {
                path: path.to_owned(),
            },
            TryLockError::Error(source) => io_error("lock", &lock_path)(source),
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: Some(lock),
        })
    }

    /// To read only, beside an agent that may be running.
    #[must_use]
    pub fn peek(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _lock: None,
        }
    }

    /// The place of a file in the directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file; none where there is no such file.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// Gives a file new content: after a crash it has the old or the new, whole.
    ///
    /// # Errors
    /// When it cannot be written; the old content then stays.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.file(name);
        fail::step("writing a file").map_err(io_error("write", &path))?;
        replace_file(&path, content).map_err(io_error("write", &path))
    }

    /// Removes a file; one that is not there is as good.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.file(name);
        fail::step("removing a file").map_err(io_error("remove", &path))?;
        match fs::remove_file(&path).and_then(|()| sync_parent(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Gives a file another name, over the file that had it.
    ///
    /// # Errors
    /// When the file system refuses; both files then stay.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), StateError> {
        let (from, to) = (self.file(from), self.file(to));
        fail::step("renaming a file").map_err(io_error("rename", &from))?;
        fs::rename(&from, &to)
            .and_then(|()| sync_parent(&to))
            .map_err(io_error("rename", &from))
    }
}

/// Makes a directory that only its owner can look into, or tightens the one that is there.
///
/// # Errors
/// When the file system refuses.
pub fn make_private_dir(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(io_error("make the directory", path))
}

/// Writes beside the file, then takes its name: content first, then the file's name, on disk.
///
/// # Errors
/// When a step fails; the file then has its old content.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_directory_and_its_files_are_private_to_their_owner() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/state");
        let state = StateDir::open(&path).unwrap();
        state.replace("file", b"content").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(
            fs::metadata(state.file("file"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        assert_eq!(state.read("file").unwrap().unwrap(), b"content");
        assert_eq!(state.read("other").unwrap(), None);
    }

    #[test]
    fn two_agents_cannot_share_a_state_directory() {
        let parent = tempfile::tempdir().unwrap();
        let first = StateDir::open(parent.path()).unwrap();
        assert!(matches!(
            StateDir::open(parent.path()),
            Err(StateError::Locked { .. })
        ));
        drop(first);
        StateDir::open(parent.path()).unwrap();
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_content() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(parent.path()).unwrap();
        state.replace("file", b"old").unwrap();
        // A directory in the way of the temporary file makes the write fail.
        fs::create_dir(state.file("file.new")).unwrap();
        assert!(matches!(
            state.replace("file", b"new"),
            Err(StateError::Io { .. })
        ));
        assert_eq!(state.read("file").unwrap().unwrap(), b"old");
    }
}
