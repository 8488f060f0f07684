//! What the host says of itself: how far it is protected, and what was done to its programs.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::host_report::{Enforcement, HostReport, Incident, PolicedInterface, UnpolicedInterface};
use tracing::warn;

use super::{Current, EnforcementTask, beginning::bootstrap_policy};
use crate::{enforcer::Coverage, interfaces::Unpoliced};

/// As many incidents are remembered.
const INCIDENTS: usize = 16;

impl EnforcementTask {
    /// Tells the others how far the host is protected.
    pub(super) fn report(&mut self) {
        for disturbance in self.enforcer.take_disturbances() {
            let text = disturbance.to_string();
            warn!("{text}");
            self.incidents.push_back(incident(
                text,
                self.incidents.back().map_or(0, |last| last.time_ns),
            ));
            if self.incidents.len() > INCIDENTS {
                self.incidents.pop_front();
            }
        }
        let report = self.host_report();
        self.facts.send_if_modified(|facts| {
            let changes = facts.report != report;
            facts.report = report;
            changes
        });
    }

    fn host_report(&self) -> HostReport {
        let Coverage {
            policed,
            unpoliced,
            problems,
        } = self.enforcer.coverage();
        let enforcement = if self.enforces_no_policy_yet() {
            Enforcement::NoPolicyYet
        } else if policed.is_empty() {
            Enforcement::PolicesNothing
        } else if problems.is_empty() {
            Enforcement::Enforcing
        } else {
            Enforcement::Degraded
        };
        let mut problems = problems.clone();
        if enforcement == Enforcement::PolicesNothing {
            problems.insert(
                0,
                "no interface of this host is policed, so everything passes".into(),
            );
        }
        HostReport {
            enforcement,
            policed: policed
                .iter()
                .map(|interface| PolicedInterface {
                    name: interface.name.clone(),
                    index: interface.index,
                })
                .collect(),
            unpoliced: unpoliced.iter().map(of_interface).collect(),
            problems,
            failsafe_subnets: self.local.failsafe_subnets.clone(),
            failsafe_tcp_ports: self.local.failsafe_tcp_ports.clone(),
            hosts_controller: self.local.hosts_controller(),
            incidents: self.incidents.iter().cloned().collect(),
        }
    }

    /// Whether everything is allowed because no policy has come.
    fn enforces_no_policy_yet(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|Current { policy, .. }| *policy.policy() == bootstrap_policy())
    }

    /// Why a policy that the kernel has taken protects nothing; none where it protects something.
    pub(super) fn why_nothing_is_policed(&mut self) -> Option<String> {
        self.report();
        let facts = self.facts.borrow();
        let report = &facts.report;
        (report.enforcement == Enforcement::PolicesNothing).then(|| report.problems.join("; "))
    }
}

fn of_interface(unpoliced: &Unpoliced) -> UnpolicedInterface {
    let Unpoliced {
        name,
        reason,
        is_problem,
        carries_traffic,
    } = unpoliced;
    UnpolicedInterface {
        name: name.clone(),
        reason: reason.word().to_owned(),
        carries_traffic: *carries_traffic,
        is_problem: *is_problem,
    }
}

/// An incident of now, after the one before.
fn incident(text: String, before: u64) -> Incident {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Incident {
        time_ns: now.max(before.saturating_add(1)),
        text,
    }
}
