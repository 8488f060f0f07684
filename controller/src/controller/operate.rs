//! What operators do.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use policy::{PolicySet, Revision, SourceFile, Timestamp, set::OrderedPolicy};
use proto::{Sha256Digest, convert::address_to_bytes, v1};

use super::{Controller, assertions, blocking};
use crate::{
    compiled::Compiled,
    error::{Error, Result},
    labels,
    model::{Host, PolicyFiles, unix_now},
    state::{PolicyInForce, State},
};

impl Controller {
    /// Checks a policy set, compiles what it changes, decides its assertions, and unless `dry_run`
    /// puts it in force. What is wrong with it is part of the answer; nothing has changed then.
    ///
    /// # Errors
    /// When the store cannot be written; nothing has changed then either.
    pub async fn apply_policy(
        &self,
        operator: &str,
        request: v1::ApplyPolicyRequest,
    ) -> Result<v1::ApplyPolicyResponse> {
        let v1::ApplyPolicyRequest { files, dry_run } = request;
        let files: Vec<_> = files
            .into_iter()
            .map(|v1::PolicyFile { path, content }| SourceFile { path, content })
            .collect();
        let (files, parsed) = blocking("parsing a policy", move || {
            let parsed = policy::parse(&files);
            (files, parsed)
        })
        .await?;

        let mut state = self.lock().await;
        let in_force = state.policy.source.revision;
        let refused = |problems| v1::ApplyPolicyResponse {
            revision: in_force.0,
            problems,
            hosts_changed: 0,
        };
        let set = match parsed {
            Ok(set) => Arc::new(set),
            Err(problems) => {
                tracing::info!(operator, problems = problems.0.len(), "policy refused");
                return Ok(refused(
                    problems.0.iter().map(policy::Problem::render).collect(),
                ));
            }
        };
        let revision = Revision(in_force.0 + 1);
        let identified = state.identified(&set);
        let compiled = self.publish(&mut state).await?;
        let candidate = (Arc::clone(&set), identified.new.clone());
        let (candidate, update) = blocking("compiling a policy", move || {
            let (set, new) = candidate;
            let mut candidate = Compiled::clone(&compiled);
            let update = candidate.apply(revision, set, new);
            (candidate, update)
        })
        .await?;
        let unfit = unfit(&candidate);
        if !unfit.is_empty() {
            tracing::info!(operator, "policy refused: it does not fit");
            return Ok(refused(unfit));
        }
        let failures = assertions::failures(Arc::clone(&set), state.inventory()).await?;
        if !failures.is_empty() {
            tracing::info!(
                operator,
                failures = failures.len(),
                "policy refused: assertions fail"
            );
            return Ok(refused(failures.iter().map(assertions::text).collect()));
        }
        let hosts_changed = count(state.changes(&update));
        if dry_run {
            return Ok(v1::ApplyPolicyResponse {
                revision: in_force.0,
                problems: Vec::new(),
                hosts_changed,
            });
        }
        let source = PolicyFiles { revision, files };
        self.store
            .add_policy(&source, &identified.new, operator)
            .await?;
        tracing::info!(operator, %revision, hosts_changed, "policy applied");
        warn_outside_schema(&state, &set);
        state.put_in_force(PolicyInForce { source, set }, identified);
        state.take_over(Arc::new(candidate), update);
        state.try_again(revision);
        Ok(v1::ApplyPolicyResponse {
            revision: revision.0,
            problems: Vec::new(),
            hosts_changed,
        })
    }

    /// The policy files in force.
    pub async fn policy_files(&self) -> v1::GetPolicyResponse {
        let PolicyFiles { revision, files } = self.lock().await.policy.source.clone();
        v1::GetPolicyResponse {
            revision: revision.0,
            files: files
                .into_iter()
                .map(|SourceFile { path, content }| v1::PolicyFile { path, content })
                .collect(),
        }
    }

    /// Puts a host into quarantine: for itself and for all its peers. Returns false if it was.
    ///
    /// # Errors
    /// When there is no such host or no reason, or the store cannot be written.
    pub async fn quarantine(&self, operator: &str, host: &str, reason: &str) -> Result<bool> {
        let reason = reason.trim();
        if reason.is_empty() {
            return Err(Error::Invalid("give a reason: it is kept and shown".into()));
        }
        self.set_quarantine(operator, host, Some(reason)).await
    }

    /// Takes a host out of quarantine. Returns false if it was not in it.
    ///
    /// # Errors
    /// When there is no such host, or the store cannot be written.
    pub async fn release(&self, operator: &str, host: &str) -> Result<bool> {
        self.set_quarantine(operator, host, None).await
    }

    async fn set_quarantine(
        &self,
        operator: &str,
        name: &str,
        reason: Option<&str>,
    ) -> Result<bool> {
        let mut state = self.lock().await;
        let host = state
            .host_named(name)
            .ok_or_else(|| Error::NotFound(state.no_such_host(name)))?;
        if host.quarantine.is_some() == reason.is_some() {
            return Ok(false);
        }
        let id = host.id;
        self.store.set_quarantine(id, reason).await?;
        tracing::warn!(
            operator,
            host = name,
            reason,
            quarantined = reason.is_some(),
            "quarantine"
        );
        state.set_quarantine(id, reason.map(ToOwned::to_owned));
        // What quarantine kept of its addresses is judged by its claim again.
        self.judge(&mut state, id).await;
        // Before the answer: whoever asks next who is in sync must not hear of the policy before.
        self.publish(&mut state).await?;
        Ok(true)
    }

    /// Every host and how it is, by name.
    pub async fn host_statuses(&self) -> Vec<v1::HostStatus> {
        let state = self.lock().await;
        let mut hosts: Vec<_> = state.hosts().collect();
        hosts.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        hosts
            .into_iter()
            .map(|host| host_status(&state, host))
            .collect()
    }

    /// The controller in numbers.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn status(&self) -> Result<v1::StatusResponse> {
        let denials = self.store.denial_counts().await?;
        let state = self.lock().await;
        let hosts = |filter: &dyn Fn(&Host) -> bool| {
            count(state.hosts().filter(|host| filter(host)).count())
        };
        let set = &state.policy.set;
        let now = Timestamp(unix_now());
        let ended = set.exceptions.iter().filter(|it| it.expires <= now).count();
        let lost: u64 = state.hosts().map(|host| host.report.denials_lost).sum();
        Ok(v1::StatusResponse {
            controller_version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: state.policy.source.revision.0,
            hosts: hosts(&|_| true),
            hosts_connected: hosts(&|host| state.sessions.contains_key(&host.id)),
            hosts_in_sync: hosts(&|host| in_sync(&state, host)),
            hosts_quarantined: hosts(&|host| host.quarantine.is_some()),
            denials_kept: denials.kept,
            denials_lost: lost + denials.given_up,
            security_events: self.security_events.load(Ordering::Relaxed),
            policies: count(set.policies.len()),
            segments: count(set.segments.len()),
            guardrails: count(names(&set.guardrails).count()),
            exceptions: count(set.exceptions.len()),
            exceptions_ended: count(ended),
            baselines: count(names(&set.baselines).count()),
            assertions: count(set.assertions.len()),
        })
    }
}

/// Says which hosts have labels that the schema of a set does not know: they keep them.
fn warn_outside_schema(state: &State, set: &PolicySet) {
    let mut outside = state.hosts().filter_map(|host| {
        let objection = labels::objection(set.schema.as_ref(), &host.labels)?;
        Some((&host.name, objection))
    });
    if let Some((host, objection)) = outside.next() {
        let more = outside.count();
        tracing::warn!(%host, more, "a host has labels from before the label schema: {objection}");
    }
}

/// The names of guardrails or baselines, each once: one Isolation stands for several.
fn names(policies: &[OrderedPolicy]) -> impl Iterator<Item = &str> {
    let names: BTreeSet<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
    names.into_iter()
}

/// The newest policy that was compiled for a host.
fn desired(state: &State, host: &Host) -> Option<Sha256Digest> {
    let publication = state.publisher.current(host.id)?;
    Some(publication.digest)
}

/// Why a host does not enforce the newest policy; a refusal of an older one says nothing about it.
fn refusal(state: &State, host: &Host) -> String {
    if let Some(unfit) = state.unfit.get(&host.id) {
        return unfit.clone();
    }
    let report = &host.report;
    if report.refused_digest.is_some() && report.refused_digest == desired(state, host) {
        report.refusal.clone()
    } else {
        String::new()
    }
}

/// Whether a host enforces the newest policy that was compiled for it.
fn in_sync(state: &State, host: &Host) -> bool {
    let desired = desired(state, host);
    desired.is_some()
        && desired == host.report.applied_digest
        && !state.unfit.contains_key(&host.id)
}

/// The revision that a host enforces. One whose policy means the same under the revision in force
/// enforces that, whichever its policy was compiled under.
fn applied_revision(state: &State, host: &Host) -> Revision {
    if in_sync(state, host) {
        state.policy.source.revision
    } else {
        host.report.applied_revision
    }
}

fn host_status(state: &State, host: &Host) -> v1::HostStatus {
    let Host {
        id,
        name,
        labels,
        identity: _,
        address_subnets: _,
        addresses,
        quarantine,
        report,
    } = host;
    v1::HostStatus {
        name: name.0.clone(),
        identity: host.effective_identity().0,
        labels: labels.clone().into_iter().collect(),
        addresses: addresses.iter().copied().map(address_to_bytes).collect(),
        refused_addresses: state.refused(*id).map(address_to_bytes).collect(),
        connected: state.sessions.contains_key(id),
        last_seen_unix: report.last_seen_unix,
        applied_revision: applied_revision(state, host).0,
        in_sync: in_sync(state, host),
        refusal: refusal(state, host),
        quarantined: quarantine.is_some(),
        agent_version: report.agent_version.clone(),
        kernel_release: report.kernel_release.clone(),
        denials_lost: report.denials_lost,
        packets_denied: report.packets_denied,
        flows_percent: report.flows_percent,
        quarantine_reason: quarantine.clone().unwrap_or_default(),
    }
}

/// One text for each policy that does not fit, with the hosts that it is for.
fn unfit(compiled: &Compiled) -> Vec<String> {
    compiled
        .unfit()
        .map(|(hosts, error)| {
            let first = hosts.first().map_or("nobody", |name| name.0.as_str());
            let others = match hosts.len() {
                0 | 1 => String::new(),
                all => format!(" and {} more", all - 1),
            };
            format!(
                "the policy of {first}{others} does not fit the kernel maps: {error}; use fewer or \
                 coarser rules, or subnets in place of single addresses"
            )
        })
        .collect()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
