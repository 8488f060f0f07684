//! A policy on trial: the kernel enforces it, and the agent has not heard from its controller since.
//! If it does not for long enough, the agent goes back to the policy before on its own.
//!
//! The trial begins with a flip to a policy that the controller has just sent, so the way was open until
//! then. It ends well with the first proof that it still is: the controller's answer to the ack, a new
//! connection that the controller's certificate vouches for, or a refusal, which says that the way is
//! open and the controller down. From then on a silent controller changes nothing. So what goes back
//! is a policy with which no packet has come from the controller at all. A controller that vanishes
//! without a word in the very moment of a flip looks the same, and costs no more than another apply.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use policy::{HostPolicy, Identity};
use proto::Sha256Digest;
use tracing::{error, info, warn};

use super::{Current, EnforcementTask, Source, amended, log_disk_trouble, quarantine};
use crate::{
    enforcer::EnforceError,
    error::with_causes,
    state::{
        policy_store::{EncodedPolicy, PolicyStore},
        rolled_back::RolledBack,
    },
};

/// After a way back that the kernel refused.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// A policy on trial.
pub(super) struct Trial {
    /// What the host goes back to.
    pub before: (EncodedPolicy, Source),
    /// Names the policy on trial.
    pub digest: Sha256Digest,
    /// When the host goes back.
    pub until: Instant,
}

/// Whether a policy that follows another is put on trial. Quarantine outranks the way to the controller:
/// a step that only puts hosts into quarantine, or takes them out, has no trial. Of one that does more
/// the rest is undone: the way back keeps the peers in quarantine.
pub(super) fn is_due(before: &HostPolicy, policy: &HostPolicy) -> bool {
    let is_in_quarantine = |policy: &HostPolicy| policy.identity == Identity::QUARANTINED;
    let are_peers_the_same = quarantine::addresses(before) == quarantine::addresses(policy);
    is_in_quarantine(before) == is_in_quarantine(policy)
        && (are_peers_the_same || !quarantine::is_all_that_differs(before, policy))
}

impl EnforcementTask {
    /// What a policy would go back to, if it is to be tried: the policy in force, or what that would go
    /// back to while it is on trial itself.
    pub(super) fn before(&self, policy: &EncodedPolicy) -> Option<(EncodedPolicy, Source)> {
        self.rollback_after?;
        let current = self.current.as_ref()?;
        let before = match &self.trial {
            Some(trial) if trial.before.0.digest() == policy.digest() => return None,
            Some(trial) => trial.before.clone(),
            None if current.policy.digest() == policy.digest() => return None,
            None => (current.policy.clone(), current.source),
        };
        is_due(before.0.policy(), policy.policy()).then_some(before)
    }

    /// Puts the policy in force on trial.
    pub(super) fn begin_trial(&mut self, before: (EncodedPolicy, Source), digest: Sha256Digest) {
        let Some(patience) = self.rollback_after else {
            return;
        };
        if self
            .trial
            .as_ref()
            .is_none_or(|trial| trial.digest != digest)
        {
            self.trial = Some(Trial {
                before,
                digest,
                until: Instant::now() + patience,
            });
        }
        self.facts
            .send_if_modified(|facts| facts.trial.replace(digest) != Some(digest));
    }

    /// Goes on with a trial that began before this start, from its beginning.
    pub(super) fn go_on_with_trial(
        &mut self,
        before: Option<(EncodedPolicy, Source)>,
        digest: Sha256Digest,
    ) {
        let Some(current) = &self.current else {
            return;
        };
        let policy = current.policy.policy();
        match before.filter(|(before, _)| is_due(before.policy(), policy)) {
            Some(before) if self.rollback_after.is_some() => self.begin_trial(before, digest),
            _ => self.confirm(),
        }
    }

    /// Makes the policy on trial the last good one.
    fn confirm(&mut self) {
        if let Some(Current { source, .. }) = &mut self.current
            && *source == Source::Trial
            && log_disk_trouble(PolicyStore::new(&self.state).confirm())
        {
            *source = Source::Disk;
        }
    }

    /// Ends the trial, if there is one, whatever came of it.
    pub(super) fn end_trial(&mut self) -> Option<Trial> {
        self.facts
            .send_if_modified(|facts| facts.trial.take().is_some());
        self.trial.take()
    }

    /// How long until the host goes back.
    pub(super) fn until_rollback(&self) -> Option<Duration> {
        let trial = self.trial.as_ref()?;
        Some(trial.until.saturating_duration_since(Instant::now()))
    }

    /// The controller was reached while this policy was in force: it stays.
    pub(super) fn reached(&mut self, digest: Sha256Digest) {
        if self
            .trial
            .as_ref()
            .is_none_or(|trial| trial.digest != digest)
        {
            return;
        }
        self.end_trial();
        self.confirm();
        info!("the controller is reached with this policy in force: it stays");
    }

    /// Goes back to the policy before the one on trial, and remembers why.
    pub(super) fn roll_back(&mut self) {
        let (Some(trial), Some(current)) = (&mut self.trial, &self.current) else {
            return;
        };
        if current.policy.digest() != trial.digest {
            self.end_trial();
            return;
        }
        // Once more if this one does not come through.
        trial.until = Instant::now() + TRY_AGAIN;
        let (before, source) = trial.before.clone();
        let (before, source) =
            amended(&before, source, current.policy.policy()).unwrap_or((before, source));
        let rolled_back = RolledBack {
            revision: current.policy.policy().revision,
            digest: trial.digest,
            after_seconds: self.rollback_after.unwrap_or_default().as_secs(),
            at: Timestamp::now(),
        };
        // The disk first: an agent that is ended in between goes on with this at its next start.
        if let Err(error) = rolled_back.save(&self.state) {
            error!(error = %with_causes(&error), "what is rolled back is not on disk: after a restart the host takes it once more");
        }
        match self.go_back(rolled_back, before, source) {
            Ok(()) => {}
            Err(error) => {
                error!(error = %with_causes(&error), "the policy before cannot be enforced again; it is tried again");
            }
        }
    }

    /// Enforces what was enforced before a policy that is rolled back.
    pub(super) fn go_back(
        &mut self,
        rolled_back: RolledBack,
        before: EncodedPolicy,
        source: Source,
    ) -> Result<(), EnforceError> {
        let applied = self.install(before, source)?;
        self.end_trial();
        if let Err(error) = PolicyStore::new(&self.state).end_trial() {
            warn!(error = %with_causes(&error), "the policy that is rolled back stays on disk, and is not used");
        }
        error!(
            revision = %applied.revision,
            generation = applied.generation,
            reason = rolled_back.reason(),
            "the host enforces the policy before"
        );
        self.note_rolled_back(Some(rolled_back));
        Ok(())
    }

    /// Tells the others.
    pub(super) fn note_rolled_back(&mut self, rolled_back: Option<RolledBack>) {
        self.rolled_back.clone_from(&rolled_back);
        self.facts.send_if_modified(|facts| {
            let changes = facts.rolled_back != rolled_back;
            facts.rolled_back = rolled_back;
            changes
        });
    }

    /// Forgets what was rolled back once a policy of another revision is in force.
    pub(super) fn forget_rolled_back(&mut self, policy: &HostPolicy) {
        let another = self
            .rolled_back
            .as_ref()
            .is_some_and(|rolled_back| rolled_back.revision != policy.revision);
        if another {
            if let Err(error) = RolledBack::forget(&self.state) {
                warn!(error = %with_causes(&error), "what was rolled back once is still on disk");
            }
            self.note_rolled_back(None);
        }
    }
}

#[cfg(test)]
mod tests;
