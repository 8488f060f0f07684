//! How hosts stand with the policy in force.

use std::{collections::BTreeSet, net::IpAddr};

use policy::Revision;
use proto::{Sha256Digest, host_report::Enforcement, v1::Standing};

use super::State;
use crate::{guards::Selection, model::Host};

impl State {
    /// The newest policy that was compiled for a host.
    pub fn desired(&self, host: &Host) -> Option<Sha256Digest> {
        let publication = self.publisher.current(host.id)?;
        Some(publication.digest)
    }

    /// Why a host does not take the newest policy; a refusal of an older one says nothing about it.
    /// Empty: it does not refuse it.
    pub fn refusal(&self, host: &Host) -> String {
        if let Some(unfit) = self.unfit.get(&host.id) {
            return unfit.clone();
        }
        let report = &host.report;
        if report.refused_digest.is_some() && report.refused_digest == self.desired(host) {
            report.refusal.clone()
        } else {
            String::new()
        }
    }

    /// How a host stands with the policy in force, as far as is known: what it reports of itself comes
    /// before what it has acknowledged.
    pub fn standing(&self, host: &Host) -> Standing {
        let reported = host.report.host.as_ref().map(|report| report.enforcement);
        match reported {
            Some(Enforcement::Detached) => return Standing::Detached,
            Some(Enforcement::PolicesNothing) => return Standing::PolicesNothing,
            _ => {}
        }
        if !self.refusal(host).is_empty() {
            return Standing::Refused;
        }
        if reported == Some(Enforcement::Degraded) {
            return Standing::Degraded;
        }
        let Some(publication) = self.publisher.current(host.id) else {
            return Standing::Pending;
        };
        if host.report.applied_digest != Some(publication.digest)
            || reported == Some(Enforcement::NoPolicyYet)
        {
            return Standing::Pending;
        }
        match Selection::of(&publication.policy) {
            Selection::Enforced => Standing::Enforced,
            Selection::Observed => Standing::Observed,
            Selection::Nothing if self.policy.source.revision == Revision(0) => Standing::NoPolicy,
            Selection::Nothing => Standing::NotSelected,
        }
    }

    /// Whether a host is connected, has the newest policy that was compiled for it, and polices all
    /// that it is to.
    pub fn in_sync(&self, host: &Host) -> bool {
        self.sessions.contains_key(&host.id)
            && matches!(
                self.standing(host),
                Standing::NoPolicy
                    | Standing::NotSelected
                    | Standing::Observed
                    | Standing::Enforced
            )
    }

    /// The revision that a host enforces. One whose policy means the same under the revision in force
    /// enforces that, whichever its policy was compiled under; but only while that is known. 0: it
    /// enforces nothing.
    pub fn applied_revision(&self, host: &Host) -> Revision {
        match self.standing(host) {
            Standing::Detached | Standing::PolicesNothing => Revision(0),
            _ if self.in_sync(host) => self.policy.source.revision,
            _ => host.report.applied_revision,
        }
    }

    /// Where an operator works: the far end of the call's connection. For a call from the controller's
    /// own machine it is what the operator's tool says of the session in which it runs; without that, the
    /// address of the call, or the controller's announced addresses for one over loopback.
    pub fn operator_sources(
        &self,
        caller: IpAddr,
        said: impl IntoIterator<Item = IpAddr>,
    ) -> BTreeSet<IpAddr> {
        if !caller.is_loopback() && !self.own.addresses.contains(&caller) {
            return BTreeSet::from([caller]);
        }
        let mut sources: BTreeSet<IpAddr> = said.into_iter().collect();
        sources.retain(|source| !source.is_loopback() && !source.is_unspecified());
        if !sources.is_empty() {
            return sources;
        }
        if caller.is_loopback() {
            self.own.announced.clone()
        } else {
            BTreeSet::from([caller])
        }
    }

    /// The names of the hosts that are connected, sorted.
    pub fn connected(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .sessions
            .keys()
            .filter_map(|id| Some(self.host(*id)?.name.0.clone()))
            .collect();
        names.sort_unstable();
        names
    }
}
