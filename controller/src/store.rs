//! What survives a restart: one SQLite file in WAL mode.
//!
//! One connection writes, so that transactions queue here and never meet SQLITE_BUSY; a few others
//! read. Each write is on the disk when its call returns.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt as _, path::Path};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

mod denials;
mod error;
mod hosts;
mod policies;
mod schema;
#[cfg(test)]
mod tests;
mod values;

pub use denials::KeptDenial;
pub use error::StoreError;
pub use hosts::Known;

/// Readers: denials that are being listed.
const READERS: u32 = 4;

/// The store.
#[derive(Clone, Debug)]
pub struct Store {
    writer: SqlitePool,
    reader: SqlitePool,
}

impl Store {
    /// Opens a store that is there.
    ///
    /// # Errors
    /// [`StoreError`] when the file is missing, damaged, no store, or of a newer version. It is
    /// not changed then.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.is_file() {
            return Err(StoreError::Missing {
                path: path.to_owned(),
            });
        }
        schema::check(path).await?;
        Self::connect(path).await
    }

    /// Makes a new, empty store that only its owner can read.
    ///
    /// # Errors
    /// [`StoreError`] when there is a file already, or it cannot be written.
    pub async fn create(path: &Path) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        file.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Exists {
                path: path.to_owned(),
            },
            _ => StoreError::opening(path, source.into()),
        })?;
        let store = Self::connect(path).await?;
        schema::create(&store.writer).await?;
        Ok(store)
    }

    async fn connect(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().filename(path);
        let opening = |source| StoreError::opening(path, source);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(
                options
                    .clone()
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full),
            )
            .await
            .map_err(opening)?;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await
            .map_err(opening)?;
        Ok(Self { writer, reader })
    }

    /// Closes the file; what was written is in it already.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}
