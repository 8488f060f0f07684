//! The revision that cost the host its controller. It is not taken again, also after a restart.

use jiff::Timestamp;
use policy::{HostPolicy, Identity, Revision};
use proto::Sha256Digest;
use serde::{Deserialize, Serialize};

use super::{StateDir, StateError};

const FILE: &str = "rolled-back.json";

/// A revision that this host went back from on its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// Of the policy set.
    pub revision: Revision,
    /// Of the host policy that was enforced.
    pub digest: Sha256Digest,
    /// Seconds without a controller.
    pub after_seconds: u64,
    /// When it went back.
    pub at: Timestamp,
}

impl RolledBack {
    /// What the state directory remembers.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn load(state: &StateDir) -> Result<Option<Self>, StateError> {
        let Some(content) = state.read(FILE)? else {
            return Ok(None);
        };
        serde_json::from_slice(&content)
            .map(Some)
            .map_err(|error| StateError::Damaged {
                path: state.file(FILE),
                problem: error.to_string(),
                remedy: "remove it: the agent then takes the newest revision, and goes back from it once more if that cuts it off",
            })
    }

    /// Remembers it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, state: &StateDir) -> Result<(), StateError> {
        let content = serde_json::to_vec(self).map_err(|error| StateError::Damaged {
            path: state.file(FILE),
            problem: error.to_string(),
            remedy: "it will be written again",
        })?;
        state.replace(FILE, &content)
    }

    /// Forgets it: another revision is enforced.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(state: &StateDir) -> Result<(), StateError> {
        state.remove(FILE)
    }

    /// Whether a policy is of this revision, and not to be taken again. The revision counts and not the
    /// digest: a host that comes or goes makes another digest of the same rules. One that puts this host
    /// in quarantine is always taken.
    #[must_use]
    pub fn bars(&self, policy: &HostPolicy) -> bool {
        policy.revision == self.revision && policy.identity != Identity::QUARANTINED
    }

    /// What the operator reads.
    #[must_use]
    pub fn reason(&self) -> String {
        let Self {
            revision,
            after_seconds,
            at,
            ..
        } = self;
        format!(
            "rolled back: with revision {revision} the host could not reach its controller for {after_seconds} s, so at {at:.0} it went back to the policy before, and takes no policy of revision {revision} again; apply one that leaves the way to the controller open"
        )
    }
}
