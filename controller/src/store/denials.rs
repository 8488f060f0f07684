//! Denials, oldest first, bounded by count.

use prost::Message as _;
use proto::{spiffe::HostId, v1};
use sqlx::Row as _;

use super::{
    Store, StoreError,
    values::{signed, unsigned},
};

/// How many rows a reader takes at once.
const PAGE: i64 = 1_000;

/// A denial that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptDenial {
    /// Grows by one with each denial.
    pub id: i64,
    /// The denial and whose it is.
    pub denial: v1::HostDenial,
}

/// How many denials there are and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DenialCounts {
    /// In the store now.
    pub kept: u64,
    /// Given up because the store's limit was reached.
    pub given_up: u64,
}

impl Store {
    /// In one transaction: keeps a batch of a host's denials, notes its sequence, and gives up the
    /// oldest beyond `limit`. Returns the first denial's id; none when the batch, or a later one,
    /// was kept before.
    pub async fn add_denials(
        &self,
        host: HostId,
        sequence: u64,
        denials: &[v1::HostDenial],
        limit: u64,
    ) -> Result<Option<i64>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let noted =
            sqlx::query("UPDATE hosts SET last_batch = ?1 WHERE id = ?2 AND last_batch < ?1")
                .bind(signed(sequence))
                .bind(host.0.as_slice())
                .execute(&mut *transaction)
                .await?;
        if noted.rows_affected() == 0 {
            return Ok(None);
        }
        let mut last = 0;
        for denial in denials {
            last = sqlx::query("INSERT INTO denials (host, message) VALUES (?, ?)")
                .bind(&denial.host)
                .bind(denial.encode_to_vec())
                .execute(&mut *transaction)
                .await?
                .last_insert_rowid();
        }
        sqlx::query("DELETE FROM denials WHERE id <= (SELECT max(id) FROM denials) - ?")
            .bind(signed(limit))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let count = i64::try_from(denials.len()).unwrap_or(i64::MAX);
        Ok(Some(last - count + 1))
    }

    /// How many denials there are and were.
    pub async fn denial_counts(&self) -> Result<DenialCounts, StoreError> {
        let row = sqlx::query("SELECT min(id) AS first, max(id) AS last FROM denials")
            .fetch_one(&self.reader)
            .await?;
        let first: Option<i64> = row.try_get("first")?;
        let last: Option<i64> = row.try_get("last")?;
        Ok(first
            .zip(last)
            .map_or(DenialCounts::default(), |(first, last)| DenialCounts {
                kept: unsigned(last - first + 1),
                given_up: unsigned(first - 1),
            }))
    }

    /// Where to begin reading to get the newest `limit` denials of a host (empty: of every host),
    /// and where to end.
    pub async fn denials_range(&self, host: &str, limit: u64) -> Result<(i64, i64), StoreError> {
        let sql = if host.is_empty() {
            "SELECT min(id) AS first, max(id) AS last FROM
             (SELECT id FROM denials WHERE ?1 = '' ORDER BY id DESC LIMIT ?2)"
        } else {
            "SELECT min(id) AS first, (SELECT max(id) FROM denials) AS last FROM
             (SELECT id FROM denials WHERE host = ?1 ORDER BY id DESC LIMIT ?2)"
        };
        let row = sqlx::query(sql)
            .bind(host)
            .bind(signed(limit))
            .fetch_one(&self.reader)
            .await?;
        let last = row.try_get::<Option<i64>, _>("last")?.unwrap_or(0);
        Ok((
            row.try_get::<Option<i64>, _>("first")?.unwrap_or(last + 1),
            last,
        ))
    }

    /// A page of the denials from `first` to `last`, oldest first, of a host (empty: of every
    /// host), and where the next page begins; none after the last page.
    pub async fn denials_page(
        &self,
        host: &str,
        first: i64,
        last: i64,
    ) -> Result<(Vec<KeptDenial>, Option<i64>), StoreError> {
        let sql = if host.is_empty() {
            "SELECT id, message FROM denials
             WHERE ?1 = '' AND id BETWEEN ?2 AND ?3 ORDER BY id LIMIT ?4"
        } else {
            "SELECT id, message FROM denials
             WHERE host = ?1 AND id BETWEEN ?2 AND ?3 ORDER BY id LIMIT ?4"
        };
        let page = sqlx::query(sql)
            .bind(host)
            .bind(first)
            .bind(last)
            .bind(PAGE)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(|row| {
                let denial = v1::HostDenial::decode(row.try_get::<&[u8], _>("message")?)
                    .map_err(|_| StoreError::Content("a denial"))?;
                Ok(KeptDenial {
                    id: row.try_get("id")?,
                    denial,
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let full = i64::try_from(page.len()).is_ok_and(|length| length == PAGE);
        let next = page.last().map(|kept| kept.id + 1).filter(|_| full);
        Ok((page, next))
    }
}
