//! Identities, tokens and hosts.

use std::{collections::BTreeSet, net::IpAddr};

use policy::{HostName, Identity, IdentityTable, Labels, PolicySet};
use proto::{Sha256Digest, spiffe::HostId};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    Store, StoreError,
    values::{array, from_json, json, signed, unsigned},
};
use crate::model::{Host, Report, Token, unix_now};

/// Tokens are remembered this long after they expired, in seconds, so that whoever still tries one
/// is told what it was.
const REMEMBER_TOKENS: u64 = 90 * 86_400;

/// Everyone whom the store knows.
#[derive(Debug)]
pub struct Known {
    /// Every identity that was ever given.
    pub identities: IdentityTable,
    /// Tokens, also used and lately expired ones.
    pub tokens: Vec<Token>,
    /// Every enrolled host.
    pub hosts: Vec<Host>,
}

impl Store {
    /// Reads identities, tokens and hosts, as the policy in force sees them.
    pub async fn known(&self, set: &PolicySet) -> Result<Known, StoreError> {
        let forgotten = signed(unix_now().saturating_sub(REMEMBER_TOKENS));
        sqlx::query("DELETE FROM tokens WHERE expires_unix < ?")
            .bind(forgotten)
            .execute(&self.writer)
            .await?;
        let mut identities: IdentityTable = sqlx::query("SELECT identity, labels FROM identities")
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(identity_from_row)
            .collect::<Result<_, StoreError>>()?;
        let tokens = sqlx::query("SELECT * FROM tokens")
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(token_from_row)
            .collect::<Result<_, _>>()?;
        let hosts = sqlx::query("SELECT * FROM hosts")
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(|row| host_from_row(row, set, &mut identities))
            .collect::<Result<_, _>>()?;
        Ok(Known {
            identities,
            tokens,
            hosts,
        })
    }

    /// Keeps a new token.
    pub async fn add_token(&self, token: &Token) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)")
            .bind(token.secret_sha256.as_slice())
            .bind(json(&token.labels)?)
            .bind(json(&token.address_subnets)?)
            .bind(token.host_name.as_ref().map(|name| name.0.as_str()))
            .bind(&token.created_by)
            .bind(signed(token.expires_unix))
            .bind(token.used_by.as_ref().map(|name| name.0.as_str()))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// In one transaction: keeps the identity, which stands for these labels, uses the token up, and
    /// keeps the host in place of one that may have its name.
    pub async fn enrol(
        &self,
        host: &Host,
        identity_labels: &Labels,
        token: &Sha256Digest,
    ) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        add_identity(&mut transaction, host.identity, identity_labels).await?;
        let used = sqlx::query(
            "UPDATE tokens SET used_by = ? WHERE secret_sha256 = ? AND used_by IS NULL",
        )
        .bind(&host.name.0)
        .bind(token.as_slice())
        .execute(&mut *transaction)
        .await?;
        if used.rows_affected() != 1 {
            return Err(StoreError::Content("a token's state"));
        }
        sqlx::query("DELETE FROM hosts WHERE name = ?")
            .bind(&host.name.0)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("INSERT INTO hosts VALUES (?, ?, ?, ?, ?, ?, ?, 0)")
            .bind(host.id.0.as_slice())
            .bind(&host.name.0)
            .bind(json(&host.labels)?)
            .bind(json(&host.address_subnets)?)
            .bind(json(&host.addresses)?)
            .bind(host.quarantine.as_deref())
            .bind(json(&host.report)?)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Keeps the addresses of some hosts, all or none.
    pub async fn set_addresses(
        &self,
        changes: &[(HostId, BTreeSet<IpAddr>)],
    ) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        for (id, addresses) in changes {
            let addresses = json(addresses)?;
            set_column(
                &mut transaction,
                "UPDATE hosts SET addresses = ? WHERE id = ?",
                Some(&addresses),
                *id,
            )
            .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Keeps why a host is in quarantine, or that it is not.
    pub async fn set_quarantine(&self, id: HostId, reason: Option<&str>) -> Result<(), StoreError> {
        let mut connection = self.writer.acquire().await?;
        set_column(
            &mut connection,
            "UPDATE hosts SET quarantine = ? WHERE id = ?",
            reason,
            id,
        )
        .await
    }

    /// Keeps what some hosts said about themselves, all or none.
    pub async fn set_reports(&self, reports: &[(HostId, Report)]) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        for (id, report) in reports {
            let report = json(report)?;
            set_column(
                &mut transaction,
                "UPDATE hosts SET report = ? WHERE id = ?",
                Some(&report),
                *id,
            )
            .await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// Keeps what an identity stands for, unless it is kept already.
pub(super) async fn add_identity(
    connection: &mut SqliteConnection,
    identity: Identity,
    labels: &Labels,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO identities VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(identity.0)
        .bind(json(labels)?)
        .execute(connection)
        .await?;
    Ok(())
}

async fn set_column(
    connection: &mut SqliteConnection,
    sql: &'static str,
    value: Option<&str>,
    id: HostId,
) -> Result<(), StoreError> {
    sqlx::query(sql)
        .bind(value)
        .bind(id.0.as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

fn identity_from_row(row: &SqliteRow) -> Result<(Identity, Labels), StoreError> {
    let labels = from_json(row.try_get("labels")?, "labels")?;
    Ok((Identity(row.try_get("identity")?), labels))
}

fn token_from_row(row: &SqliteRow) -> Result<Token, StoreError> {
    let name = |column| {
        row.try_get::<Option<String>, _>(column)
            .map(|name| name.map(HostName))
    };
    Ok(Token {
        secret_sha256: array(row.try_get("secret_sha256")?, "a token")?,
        labels: from_json(row.try_get("labels")?, "labels")?,
        address_subnets: from_json(row.try_get("address_subnets")?, "subnets")?,
        host_name: name("host_name")?,
        created_by: row.try_get("created_by")?,
        expires_unix: unsigned(row.try_get("expires_unix")?),
        used_by: name("used_by")?,
    })
}

fn host_from_row(
    row: &SqliteRow,
    set: &PolicySet,
    identities: &mut IdentityTable,
) -> Result<Host, StoreError> {
    let labels = from_json(row.try_get("labels")?, "labels")?;
    Ok(Host {
        id: HostId(array(row.try_get("id")?, "a host id")?),
        name: HostName(row.try_get("name")?),
        // Its enrolment has kept one, or the apply that brought the label schema in force.
        identity: identities.assign(&set.identity_labels(&labels)),
        labels,
        address_subnets: from_json(row.try_get("address_subnets")?, "subnets")?,
        addresses: from_json(row.try_get("addresses")?, "addresses")?,
        quarantine: row.try_get("quarantine")?,
        report: from_json(row.try_get("report")?, "a host's report")?,
    })
}
