//! The host on which the controller runs: who cuts it off cuts every host off from the controller.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use policy::{Direction, HostName, Origin, Timestamp};

use super::lockout::denial;
use crate::{compiled::Compiled, model::Host, state::State};

/// How an apply would cut the controller off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// The host on which it runs.
    pub host: HostName,
    /// Somebody who could not reach it any more.
    pub source: IpAddr,
    /// The controller's TCP port.
    pub port: u16,
    /// What denies it.
    pub origin: Arc<Origin>,
}

impl CutOff {
    /// Why an apply that does so is refused.
    pub fn refusal(&self) -> String {
        let Self {
            host,
            source,
            port,
            origin,
        } = self;
        let place = origin
            .place()
            .map_or_else(String::new, |place| format!(" ({place})"));
        format!(
            "{host} runs this controller, and {}{place} would deny {source} the way to it on tcp/{port}. \
             Allow tcp/{port} to {host} in the policy; or say that it is meant with \
             --including-the-controller",
            origin.rule
        )
    }
}

/// Whether the controller runs on a host, as far as can be told: the host says so, it has one of the
/// controller's addresses, or it connects from the controller's own machine and names one of its addresses or
/// none. What a host elsewhere claims does not count: it could have its own quarantine refused.
pub fn runs_controller(state: &State, host: &Host) -> bool {
    let own = |address: &IpAddr| state.own.addresses.contains(address);
    let reported = host.report.host.as_ref();
    if reported.is_some_and(|report| report.hosts_controller) || host.addresses.iter().any(own) {
        return true;
    }
    state.sessions.get(&host.id).is_some_and(|session| {
        let is_local = session.source.is_loopback() || own(&session.source);
        is_local && (session.claimed.is_empty() || session.claimed.iter().any(own))
    })
}

/// Whether an agent keeps the controller's port open, whatever a policy says: one that knows that a
/// controller listens on its host does.
fn keeps_way_open(host: &Host) -> bool {
    let reported = host.report.host.as_ref();
    reported.is_some_and(|report| report.hosts_controller)
}

/// Whom `candidate` would cut off from the controller who reaches it under the policy in force: any
/// host, or the operator at `sources`.
pub fn cut_off(
    state: &State,
    candidate: &Compiled,
    sources: &BTreeSet<IpAddr>,
    now: Timestamp,
) -> Option<CutOff> {
    let port = state.own.port;
    state
        .hosts()
        .filter(|host| host.quarantine.is_none())
        .filter(|host| runs_controller(state, host) && !keeps_way_open(host))
        .find_map(|host| {
            let after = candidate.publication(&host.name)?;
            let before = state.publisher.current(host.id);
            let others = state.hosts().filter(|other| {
                // Whoever is in quarantine is cut off from this host already, but for the lifeline.
                other.id != host.id && other.quarantine.is_none()
            });
            let others = others.flat_map(|other| other.addresses.iter());
            let from = sources.iter().chain(others);
            // What comes from the machine itself passes no interface.
            from.filter(|source| {
                !host.addresses.contains(source) && !state.own.addresses.contains(source)
            })
            .find_map(|&source| {
                let was_closed = before.as_ref().is_some_and(|before| {
                    denial(before, Direction::Ingress, source, port, now).is_some()
                });
                let origin = denial(after, Direction::Ingress, source, port, now)?;
                (!was_closed).then(|| CutOff {
                    host: host.name.clone(),
                    source,
                    port,
                    origin,
                })
            })
        })
}

/// Why a quarantine of a host is refused, if it would cut the controller off.
pub fn quarantine_refusal(state: &State, host: &Host) -> Option<String> {
    let name = &host.name;
    let port = state.own.port;
    (runs_controller(state, host) && !keeps_way_open(host)).then(|| {
        format!(
            "{name} runs this controller: a quarantine would cut every host and operator off from it, as \
             the agent of {name} does not report that it keeps tcp/{port} open. Nothing has changed. If \
             it is meant, add --including-the-controller; `bulkhead-agent detach` on {name} is then the \
             way back"
        )
    })
}
