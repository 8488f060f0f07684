//! What operators do.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use policy::{PolicySet, Revision, SourceFile, Timestamp, set::OrderedPolicy};
use proto::{
    convert::{address_from_bytes, address_to_bytes},
    v1::{self, Standing},
};

use super::{Caller, Controller, assertions, blocking};
use crate::{
    compiled::Compiled,
    error::{Error, Result},
    guards, labels,
    model::{Host, PolicyFiles, unix_now},
    state::{PolicyInForce, State},
};

/// More of an operator's addresses than these are not looked at.
const MOST_OPERATOR_ADDRESSES: usize = 16;
/// Why files without a policy are refused.
const EMPTY: &str = "there is no Policy in these files: applied, they open every host. If that is meant, \
                     add --allow-empty";

impl Controller {
    /// Checks a policy set, compiles what it changes, decides its assertions, and unless `dry_run`
    /// puts it in force. What is wrong with it is part of the answer; nothing has changed then.
    ///
    /// # Errors
    /// When the store cannot be written; nothing has changed then either.
    pub async fn apply_policy(
        &self,
        operator: &Caller,
        request: v1::ApplyPolicyRequest,
    ) -> Result<v1::ApplyPolicyResponse> {
        let v1::ApplyPolicyRequest {
            files,
            dry_run,
            allow_empty,
            allow_lockout,
            including_the_controller,
            operator_addresses,
        } = request;
        let operator_addresses = operator_addresses
            .iter()
            .take(MOST_OPERATOR_ADDRESSES)
            .map(|bytes| address_from_bytes(bytes).map(|it| it.to_canonical()))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| {
                Error::Invalid(format!("reading the operator's addresses: {error}"))
            })?;
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
            ..v1::ApplyPolicyResponse::default()
        };
        let set = match parsed {
            Ok(set) => Arc::new(set),
            Err(problems) => {
                tracing::info!(
                    operator = operator.name,
                    problems = problems.0.len(),
                    "policy refused"
                );
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
            tracing::info!(operator = operator.name, "policy refused: it does not fit");
            return Ok(refused(unfit));
        }
        let failures = assertions::failures(Arc::clone(&set), state.inventory()).await?;
        if !failures.is_empty() {
            tracing::info!(
                operator = operator.name,
                failures = failures.len(),
                "policy refused: assertions fail"
            );
            return Ok(refused(failures.iter().map(assertions::text).collect()));
        }
        let hosts_changed = count(state.changes(&update));
        self.look_at_this_machine(&mut state).await?;
        let sources = state.operator_sources(operator.source, operator_addresses);
        let now = Timestamp(unix_now());
        let lost = guards::lost_access(&state, &candidate, &sources, now);
        let mut refusals = Vec::new();
        if set.policies.is_empty() && !allow_empty {
            refusals.push(EMPTY.to_owned());
        }
        if !allow_lockout {
            refusals.extend(guards::lockout_refusal(&lost));
        }
        if !including_the_controller {
            let cut_off = guards::cut_off(&state, &candidate, &sources, now);
            refusals.extend(cut_off.map(|it| it.refusal()));
        }
        let (hosts_selected, open) = guards::selection(&state, &candidate);
        let answer = v1::ApplyPolicyResponse {
            revision: in_force.0,
            problems: Vec::new(),
            hosts_changed,
            hosts_selected: count(hosts_selected),
            hosts_not_selected: open.into_iter().map(|name| name.0.clone()).collect(),
            lost_access: lost.iter().map(Into::into).collect(),
            hosts_connected: state.connected(),
            refusals,
        };
        if !answer.refusals.is_empty() {
            let refusals = answer.refusals.join("; ");
            tracing::info!(operator = operator.name, refusals, "policy refused");
        }
        if dry_run || !answer.refusals.is_empty() {
            return Ok(answer);
        }
        let source = PolicyFiles { revision, files };
        self.store
            .add_policy(&source, &identified.new, &operator.name)
            .await?;
        tracing::info!(operator = operator.name, %revision, hosts_changed, "policy applied");
        warn_outside_schema(&state, &set);
        state.put_in_force(PolicyInForce { source, set }, identified);
        state.take_over(Arc::new(candidate), update);
        state.try_again(revision);
        Ok(v1::ApplyPolicyResponse {
            revision: revision.0,
            ..answer
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

    /// Puts a host into quarantine: for itself and for all its peers.
    ///
    /// # Errors
    /// When there is no such host or no reason, or the store cannot be written; and when it would cut
    /// the controller off, unless the request says that it is meant.
    pub async fn quarantine(
        &self,
        operator: &str,
        request: v1::QuarantineRequest,
    ) -> Result<v1::QuarantineResponse> {
        let v1::QuarantineRequest {
            host,
            reason,
            including_the_controller,
        } = request;
        let reason = reason.trim();
        if reason.is_empty() {
            return Err(Error::Invalid("give a reason: it is kept and shown".into()));
        }
        let mut state = self.lock().await;
        if !including_the_controller {
            self.look_at_this_machine(&mut state).await?;
            let named = state.host_named(&host);
            let refusal = named
                .filter(|host| host.quarantine.is_none())
                .and_then(|host| guards::quarantine_refusal(&state, host));
            if let Some(refusal) = refusal {
                tracing::warn!(
                    operator,
                    host,
                    "quarantine refused: the controller runs on it"
                );
                return Err(Error::Guarded(refusal));
            }
        }
        let changed = self
            .set_quarantine(&mut state, operator, &host, Some(reason))
            .await?;
        Ok(v1::QuarantineResponse {
            changed,
            hosts_connected: state.connected(),
        })
    }

    /// Takes a host out of quarantine.
    ///
    /// # Errors
    /// When there is no such host, or the store cannot be written.
    pub async fn release(
        &self,
        operator: &str,
        request: v1::ReleaseRequest,
    ) -> Result<v1::ReleaseResponse> {
        let v1::ReleaseRequest { host } = request;
        let mut state = self.lock().await;
        let changed = self
            .set_quarantine(&mut state, operator, &host, None)
            .await?;
        Ok(v1::ReleaseResponse {
            changed,
            hosts_connected: state.connected(),
        })
    }

    /// Returns whether that changed anything.
    async fn set_quarantine(
        &self,
        state: &mut State,
        operator: &str,
        name: &str,
        reason: Option<&str>,
    ) -> Result<bool> {
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
        self.judge(state, id).await;
        // Before the answer: whoever asks next who is in sync must not hear of the policy before.
        self.publish(state).await?;
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
            hosts_in_sync: hosts(&|host| state.in_sync(host)),
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
            hosts_not_selected: hosts(&|host| {
                matches!(
                    state.standing(host),
                    Standing::NoPolicy | Standing::NotSelected | Standing::Observed
                )
            }),
            hosts_not_protected: hosts(&|host| {
                matches!(
                    state.standing(host),
                    Standing::Detached | Standing::PolicesNothing | Standing::Degraded
                )
            }),
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
        applied_revision: state.applied_revision(host).0,
        in_sync: state.in_sync(host),
        refusal: state.refusal(host),
        quarantined: quarantine.is_some(),
        agent_version: report.agent_version.clone(),
        kernel_release: report.kernel_release.clone(),
        denials_lost: report.denials_lost,
        packets_denied: report.packets_denied,
        flows_percent: report.flows_percent,
        quarantine_reason: quarantine.clone().unwrap_or_default(),
        report: report.host.clone().map(Into::into),
        standing: state.standing(host).into(),
        runs_controller: guards::runs_controller(state, host),
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
