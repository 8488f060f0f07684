//! Why the store could not be read or written, in words that say what to do.

use std::path::{Path, PathBuf};

/// SQLite's primary result codes, <https://www.sqlite.org/rescode.html>.
const CORRUPT: u32 = 11;
const FULL: u32 = 13;
const NOT_A_DATABASE: u32 = 26;

/// What went wrong with the store. Whatever it is, nothing was half written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no file.
    #[error(
        "there is no store at {}: run `bulkhead-controller init` first, or name the right path",
        path.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is a file where a new store should be made.
    #[error(
        "{} is there already: if an interrupted `bulkhead-controller init` left it, remove it and \
         try again",
        path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is a file, and it is something else.
    #[error("{} is not a store of a Bulkhead controller: name the right path", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// A newer controller made it.
    #[error(
        "the store {} has version {found} and this controller knows {known}: run the newer \
         controller; nothing was changed",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema's version.
        found: i64,
        /// The newest version that is known here.
        known: i64,
    },
    /// SQLite cannot make sense of it.
    #[error(
        "the store {} is damaged ({detail}): put it aside and bring back a copy of it from a \
         backup; nothing was changed",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// It cannot be opened for another reason.
    #[error("opening the store {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: sqlx::Error,
    },
    /// No space is left.
    #[error("the disk of the store is full: free some space and try again; nothing was changed")]
    Full,
    /// A statement failed.
    #[error("reading or writing the store")]
    Sql(#[source] sqlx::Error),
    /// A row holds what this controller never writes.
    #[error("the store holds {0} that cannot be read: bring back a copy of it from a backup")]
    Content(&'static str),
}

impl StoreError {
    /// The error of opening the file at `path`.
    pub fn opening(path: &Path, source: sqlx::Error) -> Self {
        let path = path.to_owned();
        match code(&source) {
            Some(CORRUPT) => Self::Damaged {
                path,
                detail: source.to_string(),
            },
            Some(NOT_A_DATABASE) => Self::NotOurs { path },
            Some(FULL) => Self::Full,
            _ => Self::Open { path, source },
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(source: sqlx::Error) -> Self {
        if code(&source) == Some(FULL) {
            Self::Full
        } else {
            Self::Sql(source)
        }
    }
}

/// SQLite's primary result code: the low byte of the extended one.
fn code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}
