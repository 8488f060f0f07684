//! The last good policy on disk, exact across a crash at any moment.
//!
//! A policy is written as `candidate` before the kernel gets it. Once the kernel enforces it, it takes
//! the name `trial`, until it has shown that it leaves the way to the controller open; then `good`. The
//! good one stays beside it that long, to go back to. A crash in between is settled on the next start
//! by asking the kernel which policy is live. So a policy that does not work is never the good one,
//! and a restart never brings an older policy back.

use policy::HostPolicy;
use proto::{DecodeError, Sha256Digest};

use super::{StateDir, StateError};
use crate::error::with_causes;

const GOOD: &str = "policy.good";
const TRIAL: &str = "policy.trial";
const CANDIDATE: &str = "policy.candidate";
const MAGIC: &[u8] = b"bulkhead policy 1\n";

/// A policy with the bytes that it came in. They are kept as they are: a controller of a later
/// version may say more in them than this agent knows, and the digest is of all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPolicy {
    policy: HostPolicy,
    encoded: Vec<u8>,
    digest: Sha256Digest,
}

/// What a start finds.
#[derive(Debug)]
pub enum Recovered {
    /// The last good policy.
    Good(EncodedPolicy),
    /// One that is enforced and on trial, and the good one before it; none where there never was one.
    Trial(EncodedPolicy, Option<EncodedPolicy>),
    /// The one that was about to be enforced, and why the last good one cannot be, where it is there.
    Candidate(EncodedPolicy, Option<StateError>),
    /// No policy.
    Nothing,
}

/// The three files.
#[derive(Clone, Copy, Debug)]
pub struct PolicyStore<'a> {
    state: &'a StateDir,
}

impl EncodedPolicy {
    /// What the controller sent, or the disk kept.
    ///
    /// # Errors
    /// When the bytes do not have the digest, or hold no policy.
    pub fn decode(encoded: Vec<u8>, digest: &[u8]) -> Result<Self, DecodeError> {
        let policy = proto::decode_host_policy(&encoded, digest)?;
        let digest = digest.try_into().map_err(|_| DecodeError::Digest)?;
        Ok(Self {
            policy,
            encoded,
            digest,
        })
    }

    /// A policy of this agent's own.
    #[must_use]
    pub fn encode(policy: HostPolicy) -> Self {
        let (encoded, digest) = proto::encode_host_policy(&policy);
        Self {
            policy,
            encoded,
            digest,
        }
    }

    /// What is to be enforced.
    #[must_use]
    pub fn policy(&self) -> &HostPolicy {
        &self.policy
    }

    /// Names the policy, to the controller and to the kernel.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    fn to_file(&self) -> Vec<u8> {
        [MAGIC, &self.digest, &self.encoded].concat()
    }

    fn from_file(content: &[u8]) -> Result<Self, String> {
        let (digest, encoded) = content
            .strip_prefix(MAGIC)
            .ok_or("it is not a policy file")?
            .split_first_chunk::<32>()
            .ok_or("it is cut short")?;
        Self::decode(encoded.to_vec(), digest).map_err(|error| with_causes(&error))
    }
}

impl<'a> PolicyStore<'a> {
    /// The store in a state directory.
    #[must_use]
    pub fn new(state: &'a StateDir) -> Self {
        Self { state }
    }

    /// The policy that a start takes up. Where the kernel enforces one, `live` names it, and it is
    /// that one, or none where it is not on disk. Otherwise it is the one on trial, or the last good one, or
    /// where that one is not there or cannot be used, the candidate.
    ///
    /// # Errors
    /// When there is no other than one that is damaged or cannot be read, or a file cannot be renamed.
    pub fn recover(&self, live: Option<Sha256Digest>) -> Result<Recovered, StateError> {
        let trial = self.read(TRIAL);
        let candidate = self.read(CANDIDATE);
        let Some(live) = live else {
            return match (self.good(), trial, candidate) {
                (Ok(good), Ok(Some(trial)), _) => Ok(Recovered::Trial(trial, good)),
                // There is nothing to go back to.
                (Err(_), Ok(Some(trial)), _) => {
                    self.confirm()?;
                    Ok(Recovered::Good(trial))
                }
                (Ok(Some(good)), _, _) => Ok(Recovered::Good(good)),
                (Ok(None), Ok(None), Ok(Some(candidate))) => {
                    Ok(Recovered::Candidate(candidate, None))
                }
                (Err(damage), _, Ok(Some(candidate)))
                | (Ok(None), Err(damage), Ok(Some(candidate))) => {
                    Ok(Recovered::Candidate(candidate, Some(damage)))
                }
                (Ok(None), Ok(None), Ok(None)) => Ok(Recovered::Nothing),
                // A file that is there and cannot be used is not a policy that never was.
                (Err(damage), _, _)
                | (Ok(None), Err(damage), _)
                | (Ok(None), Ok(None), Err(damage)) => Err(damage),
            };
        };
        let is_live = |policy: &EncodedPolicy| policy.digest == live;
        if let Ok(Some(good)) = self.good()
            && is_live(&good)
        {
            return Ok(Recovered::Good(good));
        }
        // Only a candidate that the kernel took was enforced. One that was never taken, or that a crash
        // cut short, is left for the next one to overwrite.
        let trial = match candidate.ok().flatten().filter(is_live) {
            Some(candidate) => {
                self.try_out()?;
                Some(candidate)
            }
            // One that cannot be used is as good as none: the one before it is there.
            None => trial.ok().flatten().filter(is_live),
        };
        match (trial, self.good()) {
            (Some(trial), Ok(good)) => Ok(Recovered::Trial(trial, good)),
            // There is nothing to go back to.
            (Some(trial), Err(_)) => {
                self.confirm()?;
                Ok(Recovered::Good(trial))
            }
            (None, good) => good.map(|_| Recovered::Nothing),
        }
    }

    /// The last good policy as its file stands.
    ///
    /// # Errors
    /// When the file is damaged or cannot be read.
    pub fn good(&self) -> Result<Option<EncodedPolicy>, StateError> {
        self.read(GOOD)
    }

    /// The policy that a reboot would bring: the one on trial, or the last good one.
    ///
    /// # Errors
    /// As [`PolicyStore::good`].
    pub fn next_boot(&self) -> Result<Option<EncodedPolicy>, StateError> {
        match self.read(TRIAL) {
            Ok(Some(trial)) => Ok(Some(trial)),
            _ => self.good(),
        }
    }

    /// Every policy on disk that can be used.
    #[must_use]
    pub fn all(&self) -> Vec<EncodedPolicy> {
        [GOOD, TRIAL, CANDIDATE]
            .into_iter()
            .filter_map(|name| self.read(name).ok().flatten())
            .collect()
    }

    /// Writes a policy that the kernel is about to get.
    ///
    /// # Errors
    /// When it cannot be written. The kernel gets it all the same: a full disk does not keep a host from
    /// its quarantine. The policy must then not be promoted.
    pub fn stage(&self, policy: &EncodedPolicy) -> Result<(), StateError> {
        self.state.replace(CANDIDATE, &policy.to_file())
    }

    /// Makes the candidate, which the kernel now enforces, the one on trial.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn try_out(&self) -> Result<(), StateError> {
        self.state.rename(CANDIDATE, TRIAL)
    }

    /// Makes the policy on trial the last good one.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn confirm(&self) -> Result<(), StateError> {
        self.state.rename(TRIAL, GOOD)
    }

    /// Makes the candidate, which the kernel now enforces, the last good policy, without a trial.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn promote(&self) -> Result<(), StateError> {
        self.state.rename(CANDIDATE, GOOD)?;
        self.end_trial()
    }

    /// Forgets the policy on trial: the kernel enforces another.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn end_trial(&self) -> Result<(), StateError> {
        self.state.remove(TRIAL)
    }

    fn read(&self, name: &str) -> Result<Option<EncodedPolicy>, StateError> {
        let Some(content) = self.state.read(name)? else {
            return Ok(None);
        };
        EncodedPolicy::from_file(&content)
            .map(Some)
            .map_err(|problem| StateError::Damaged {
                path: self.state.file(name),
                problem,
                remedy: "leave it: the controller sends the policy again, which replaces it, and without the file a reboot would allow everything until then",
            })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use policy::{Identity, Revision};

    use super::*;
    use crate::enforcement::bootstrap_policy;

    /// The policy to be enforced; a candidate is none that was.
    fn policy_of(recovered: Recovered) -> Option<EncodedPolicy> {
        match recovered {
            Recovered::Good(policy) => Some(policy),
            Recovered::Nothing => None,
            Recovered::Trial(..) => panic!("a trial in place of the good policy"),
            Recovered::Candidate(..) => panic!("the candidate in place of the good policy"),
        }
    }

    fn policy(revision: u64) -> EncodedPolicy {
        EncodedPolicy::encode(HostPolicy {
            revision: Revision(revision),
            identity: Identity::FIRST,
            addresses: [("10.0.0.1".parse().unwrap(), Identity::FIRST)].into(),
            ..bootstrap_policy()
        })
    }

    fn store_with_good(state: &StateDir, revision: u64) -> EncodedPolicy {
        let store = PolicyStore::new(state);
        let good = policy(revision);
        store.stage(&good).unwrap();
        store.promote().unwrap();
        good
    }

    #[test]
    fn a_crash_before_the_kernel_took_a_policy_keeps_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let store = PolicyStore::new(&state);
        assert_eq!(policy_of(store.recover(None).unwrap()), None);

        let good = store_with_good(&state, 1);
        store.stage(&policy(2)).unwrap();
        assert_eq!(
            policy_of(store.recover(Some(good.digest)).unwrap()),
            Some(good.clone())
        );
        // After a reboot the kernel enforces nothing.
        assert_eq!(policy_of(store.recover(None).unwrap()), Some(good));
    }

    /// The policy on trial and the one to go back to.
    fn trial_of(recovered: Recovered) -> (EncodedPolicy, Option<EncodedPolicy>) {
        match recovered {
            Recovered::Trial(policy, before) => (policy, before),
            other => panic!("{other:?} in place of a trial"),
        }
    }

    #[test]
    fn a_crash_after_the_kernel_took_a_policy_keeps_the_new_one_and_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let store = PolicyStore::new(&state);
        let good = store_with_good(&state, 1);
        let newer = policy(2);
        store.stage(&newer).unwrap();
        let on_trial = (newer.clone(), Some(good.clone()));
        let live = Some(newer.digest);
        assert_eq!(trial_of(store.recover(live).unwrap()), on_trial);
        // Also after a reboot, when the kernel enforces nothing.
        for live in [live, None] {
            assert_eq!(trial_of(store.recover(live).unwrap()), on_trial);
        }
        // The agent went back, and was ended before it could say so.
        let went_back = store.recover(Some(good.digest)).unwrap();
        assert_eq!(policy_of(went_back), Some(good));
        store.confirm().unwrap();
        for live in [live, None] {
            assert_eq!(policy_of(store.recover(live).unwrap()), Some(newer.clone()));
        }
    }

    #[test]
    fn a_trial_outlives_the_next_candidate_and_ends_with_a_promotion() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let store = PolicyStore::new(&state);
        let good = store_with_good(&state, 1);
        let tried = policy(2);
        store.stage(&tried).unwrap();
        store.try_out().unwrap();
        store.stage(&policy(3)).unwrap();
        let recovered = store.recover(Some(tried.digest)).unwrap();
        assert_eq!(trial_of(recovered), (tried, Some(good)));
        store.promote().unwrap();
        assert_eq!(policy_of(store.recover(None).unwrap()), Some(policy(3)));
    }

    #[test]
    fn a_damaged_policy_is_never_enforced() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let good = store_with_good(&state, 1);
        let whole = state.read(GOOD).unwrap().unwrap();
        for length in 0..whole.len() {
            state.replace(GOOD, &whole[..length]).unwrap();
            let error = PolicyStore::new(&state)
                .recover(Some(good.digest))
                .unwrap_err();
            assert!(
                matches!(error, StateError::Damaged { .. }),
                "cut to {length}: {error}"
            );
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        state.replace(GOOD, &flipped).unwrap();
        assert!(PolicyStore::new(&state).good().is_err());
    }

    #[test]
    fn a_damaged_trial_is_not_a_policy_that_never_was() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        state.replace(TRIAL, b"junk").unwrap();
        let store = PolicyStore::new(&state);
        assert!(matches!(
            store.recover(None),
            Err(StateError::Damaged { .. })
        ));
        let good = store_with_good(&state, 1);
        state.replace(TRIAL, b"junk").unwrap();
        assert_eq!(policy_of(store.recover(None).unwrap()), Some(good));
    }

    #[test]
    fn a_torn_candidate_does_not_stand_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let good = store_with_good(&state, 1);
        state.replace(CANDIDATE, b"bulkhead pol").unwrap();
        let store = PolicyStore::new(&state);
        assert_eq!(
            policy_of(store.recover(Some(good.digest)).unwrap()),
            Some(good)
        );
    }

    #[test]
    fn what_the_kernel_enforces_is_not_replaced_by_an_older_policy() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let good = store_with_good(&state, 1);
        let store = PolicyStore::new(&state);
        assert_eq!(policy_of(store.recover(Some([7; 32])).unwrap()), None);
        assert_eq!(policy_of(store.recover(None).unwrap()), Some(good));
    }
}
