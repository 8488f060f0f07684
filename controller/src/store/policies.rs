//! Policy sets, by revision. Old ones are kept.

use std::collections::BTreeMap;

use policy::{Identity, Labels, Revision, SourceFile};
use sqlx::Row as _;

use super::{
    Store, StoreError,
    hosts::add_identity,
    values::{from_json, json, signed, unsigned},
};
use crate::model::{PolicyFiles, unix_now};

impl Store {
    /// The newest policy set; without one, the empty set as revision 0.
    pub async fn policy(&self) -> Result<PolicyFiles, StoreError> {
        let row = sqlx::query("SELECT * FROM revisions ORDER BY revision DESC LIMIT 1")
            .fetch_optional(&self.reader)
            .await?;
        let Some(row) = row else {
            return Ok(PolicyFiles::default());
        };
        let files: Vec<(String, String)> = from_json(row.try_get("files")?, "policy files")?;
        Ok(PolicyFiles {
            revision: Revision(unsigned(row.try_get("revision")?)),
            files: files
                .into_iter()
                .map(|(path, content)| SourceFile { path, content })
                .collect(),
        })
    }

    /// In one transaction: keeps a new policy set, and the identities that its label schema makes.
    pub async fn add_policy(
        &self,
        policy: &PolicyFiles,
        identities: &BTreeMap<Identity, Labels>,
        applied_by: &str,
    ) -> Result<(), StoreError> {
        let files: Vec<_> = policy
            .files
            .iter()
            .map(|file| (&file.path, &file.content))
            .collect();
        let mut transaction = self.writer.begin().await?;
        for (identity, labels) in identities {
            add_identity(&mut transaction, *identity, labels).await?;
        }
        sqlx::query("INSERT INTO revisions VALUES (?, ?, ?, ?)")
            .bind(signed(policy.revision.0))
            .bind(applied_by)
            .bind(signed(unix_now()))
            .bind(json(&files)?)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }
}
