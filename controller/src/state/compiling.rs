//! What of the state is to be compiled, and what becomes of what was.

use std::{collections::BTreeMap, mem, sync::Arc};

use policy::Revision;
use proto::spiffe::HostId;

use super::State;
use crate::compiled::{Compiled, HostChange, Update, Work};

impl State {
    /// What is compiled; none when hosts have changed since, or nothing is compiled yet.
    pub fn compiled(&self) -> Option<Arc<Compiled>> {
        self.compiled
            .clone()
            .filter(|_| self.changed_hosts.is_empty())
    }

    /// What is to be compiled now. Until its result is taken over nothing is compiled: if it is
    /// lost, the next work is everything.
    pub fn take_work(&mut self) -> Work {
        let changed = mem::take(&mut self.changed_hosts);
        match self.compiled.take() {
            Some(compiled) => Work::Changes {
                compiled,
                hosts: changed
                    .into_iter()
                    .map(|name| {
                        let host = self.host_named(&name.0);
                        let now = host.map(|host| (host.identity, host.to_policy()));
                        HostChange { name, now }
                    })
                    .collect(),
            },
            None => Work::Everything {
                set: Arc::clone(&self.policy.set),
                revision: self.policy.source.revision,
                identities: self.identities.clone(),
                inventory: self.inventory(),
                enforced: self
                    .hosts()
                    .filter_map(|host| {
                        let digest = host.report.applied_digest?;
                        Some((host.name.clone(), (host.report.applied_revision, digest)))
                    })
                    .collect(),
            },
        }
    }

    /// Publishes what was compiled to the hosts for which it means something else. Those whose
    /// newest policy does not fit keep what they have. Returns how many were given another one.
    pub fn take_over(&mut self, compiled: Arc<Compiled>, update: Update) -> usize {
        self.compiled = Some(compiled);
        let mut given = 0;
        let mut unfit: BTreeMap<String, usize> = BTreeMap::new();
        for (name, outcome) in update {
            let Some(id) = self.names.get(&name).copied() else {
                continue;
            };
            match outcome {
                Ok(publication) => {
                    self.unfit.remove(&id);
                    given += usize::from(self.publisher.publish(id, publication));
                }
                Err(error) => {
                    let text = format!("the newest policy does not fit: {error}");
                    *unfit.entry(text.clone()).or_default() += 1;
                    self.unfit.insert(id, text);
                }
            }
        }
        for (text, hosts) in unfit {
            tracing::error!(hosts, "{text}; they keep the one they have");
        }
        given
    }

    /// For how many hosts an update would mean something else.
    pub fn changes(&self, update: &Update) -> usize {
        update
            .iter()
            .filter(|(name, outcome)| {
                let (Some(id), Ok(publication)) = (self.names.get(name), outcome) else {
                    return false;
                };
                self.publisher.changes(*id, publication)
            })
            .count()
    }

    /// Gives the hosts that refused what they are to enforce the same once more, as of this
    /// revision: an apply is another try.
    pub fn try_again(&mut self, revision: Revision) {
        let refused: Vec<(HostId, _)> = self
            .hosts()
            .filter_map(|host| {
                let current = self.publisher.current(host.id)?;
                let is_refused = host.report.refused_digest == Some(current.digest);
                is_refused.then(|| (host.id, Arc::new(current.at(revision))))
            })
            .collect();
        for (id, publication) in refused {
            self.publisher.send(id, publication);
        }
    }
}

#[cfg(test)]
mod tests;
