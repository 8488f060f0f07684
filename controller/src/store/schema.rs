//! The tables, and whether a file has them.

use std::path::Path;

use sqlx::{ConnectOptions as _, Connection as _, SqlitePool, sqlite::SqliteConnectOptions};

use super::StoreError;

/// `BKHD`: marks the file as ours.
const APPLICATION_ID: i64 = 0x424b_4844;
/// Of the tables below; a change of them takes the next number.
const VERSION: i64 = 1;

/// Lists and maps are JSON; digests and ids are blobs; times are seconds since the Unix
/// epoch. The numbers of denials have no holes, so the first and the last of them say how
/// many were kept and how many were given up.
const TABLES: &str = "
BEGIN;
PRAGMA application_id = 0x424b4844;
PRAGMA user_version = 1;
CREATE TABLE identities (
    identity INTEGER PRIMARY KEY,
    labels TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE tokens (
    secret_sha256 BLOB PRIMARY KEY,
    labels TEXT NOT NULL,
    address_subnets TEXT NOT NULL,
    host_name TEXT,
    created_by TEXT NOT NULL,
    expires_unix INTEGER NOT NULL,
    used_by TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE hosts (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    labels TEXT NOT NULL,
    address_subnets TEXT NOT NULL,
    addresses TEXT NOT NULL,
    quarantine TEXT,
    report TEXT NOT NULL,
    last_batch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE revisions (
    revision INTEGER PRIMARY KEY,
    applied_by TEXT NOT NULL,
    applied_unix INTEGER NOT NULL,
    files TEXT NOT NULL
) STRICT;
CREATE TABLE denials (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    message BLOB NOT NULL
) STRICT;
CREATE INDEX denials_by_host ON denials (host, id);
COMMIT;
";

/// Makes the tables in an empty file.
pub async fn create(pool: &SqlitePool) -> sqlx::Result<()> {
    sqlx::raw_sql(TABLES).execute(pool).await.map(|_| ())
}

/// Refuses a file that is not an undamaged store of a known version. Reads only: not even the
/// journal mode is touched.
pub async fn check(path: &Path) -> Result<(), StoreError> {
    let opening = |source| StoreError::opening(path, source);
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = options.connect().await.map_err(opening)?;
    let application: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut connection)
        .await
        .map_err(opening)?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut connection)
        .await
        .map_err(opening)?;
    if application != APPLICATION_ID {
        return Err(StoreError::NotOurs {
            path: path.to_owned(),
        });
    }
    if version > VERSION {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(&mut connection)
        .await
        .map_err(opening)?;
    if verdict != "ok" {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            detail: verdict,
        });
    }
    connection.close().await.map_err(opening)
}
