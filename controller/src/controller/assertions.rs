//! Assertions: one that fails stops an apply, and is told of when hosts make it fail later.

use std::{collections::BTreeSet, sync::Arc};

use policy::{
    Inventory, PolicySet, Timestamp,
    assertion::{self, Failure},
};

use super::{Controller, blocking};
use crate::{
    error::{Result, causes},
    model::unix_now,
};

impl Controller {
    /// Decides the assertions in force whenever hosts or addresses have changed, and logs each that
    /// begins to fail or holds again. The policy stays: it was right when it was applied. Ends never.
    pub async fn watch_assertions(&self) {
        let mut failing = BTreeSet::new();
        loop {
            self.doubt.notified().await;
            let (set, inventory) = {
                let state = self.lock().await;
                (Arc::clone(&state.policy.set), state.inventory())
            };
            match failures(set, inventory).await {
                Ok(failures) => failing = note(&failing, &failures),
                Err(error) => tracing::error!(error = %causes(&error), "deciding assertions"),
            }
        }
    }
}

/// Says what has changed, and gives the names of those that fail now.
fn note(before: &BTreeSet<String>, failures: &[Failure]) -> BTreeSet<String> {
    let now: BTreeSet<String> = failures.iter().map(|it| it.assertion.clone()).collect();
    for failure in failures {
        if !before.contains(&failure.assertion) {
            tracing::warn!("since hosts have changed, {}", text(failure));
        }
    }
    for assertion in before.difference(&now) {
        tracing::info!(assertion, "the assertion does not fail any more");
    }
    now
}

/// The assertions of a set that fail for these hosts. What exceptions allow counts until they end.
///
/// # Errors
/// When deciding panics.
pub(super) async fn failures(set: Arc<PolicySet>, inventory: Inventory) -> Result<Vec<Failure>> {
    if set.assertions.is_empty() {
        return Ok(Vec::new());
    }
    blocking("deciding assertions", move || {
        let set = PolicySet::clone(&set).at(Timestamp(unix_now()));
        assertion::check(&set, &inventory)
    })
    .await
}

/// A failure with its place.
pub(super) fn text(failure: &Failure) -> String {
    let origin = &failure.origin;
    format!("{}:{}: {failure}", origin.file, origin.line)
}
