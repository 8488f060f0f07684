//! Everything that the controller decides from.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use policy::{HostName, IdentityTable, Inventory, PolicySet};
use proto::{Sha256Digest, spiffe::HostId};
use tokio_util::sync::CancellationToken;

use crate::{
    compiled::Compiled,
    model::{Host, PolicyFiles, Report, Token, unix_now},
    own::Own,
    publish::Publisher,
    store::Known,
};

mod claims;
mod compiling;
mod identities;
mod names;
mod standing;

/// The policy set that holds now.
#[derive(Clone, Debug, Default)]
pub struct PolicyInForce {
    /// As it was sent, with its revision.
    pub source: PolicyFiles,
    /// As it was understood.
    pub set: Arc<PolicySet>,
}

/// The control stream of one agent.
#[derive(Debug)]
pub struct Session {
    /// Tells this stream from an earlier one of the same host.
    pub number: u64,
    /// Where the connection comes from.
    pub source: IpAddr,
    /// The addresses that the host says it has.
    pub claimed: BTreeSet<IpAddr>,
    /// Ends the stream.
    pub end: CancellationToken,
}

/// The state. Hosts are changed through its methods, which keep its indexes right.
#[derive(Debug)]
pub struct State {
    /// Every identity that was ever given; what of each host's labels makes identity has one.
    pub identities: IdentityTable,
    /// By the hash of the secret.
    pub tokens: HashMap<Sha256Digest, Token>,
    /// What is in force.
    pub policy: PolicyInForce,
    /// Where the controller itself is.
    pub own: Own,
    /// Live control streams.
    pub sessions: BTreeMap<HostId, Session>,
    /// What each host is to enforce.
    pub publisher: Publisher,
    /// Hosts whose newest policy does not fit, and why.
    pub unfit: BTreeMap<HostId, String>,
    /// Hosts whose report is newer than the store's.
    pub unsaved_reports: BTreeSet<HostId>,
    compiled: Option<Arc<Compiled>>,
    /// Others to policy than when they were compiled.
    changed_hosts: BTreeSet<HostName>,
    hosts: BTreeMap<HostId, Host>,
    names: BTreeMap<HostName, HostId>,
    owners: HashMap<IpAddr, HostId>,
    /// Addresses that were claimed and not believed.
    refused: BTreeMap<HostId, BTreeSet<IpAddr>>,
    /// When a host without a stream had one last.
    last_live: BTreeMap<HostId, Instant>,
    next_session: u64,
}

impl State {
    /// The state after a start: nobody is connected, and each host may come back.
    pub fn new(known: Known, policy: PolicyInForce) -> Self {
        let Known {
            identities,
            tokens,
            hosts,
        } = known;
        let now = Instant::now();
        let mut state = Self {
            identities,
            tokens: tokens
                .into_iter()
                .map(|token| (token.secret_sha256, token))
                .collect(),
            policy,
            own: Own::default(),
            sessions: BTreeMap::new(),
            publisher: Publisher::default(),
            unfit: BTreeMap::new(),
            unsaved_reports: BTreeSet::new(),
            compiled: None,
            changed_hosts: BTreeSet::new(),
            hosts: BTreeMap::new(),
            names: BTreeMap::new(),
            owners: HashMap::new(),
            refused: BTreeMap::new(),
            last_live: hosts.iter().map(|host| (host.id, now)).collect(),
            next_session: 1,
        };
        for host in hosts {
            state.insert_host(host);
        }
        state
    }

    /// Every host, by id.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// The host of an id; none when it is gone, also when it enrolled again since.
    pub fn host(&self, id: HostId) -> Option<&Host> {
        self.hosts.get(&id)
    }

    /// The host of a name.
    pub fn host_named(&self, name: &str) -> Option<&Host> {
        self.names
            .get(&HostName(name.to_owned()))
            .and_then(|id| self.hosts.get(id))
    }

    /// The host that an address counts as.
    pub fn owner(&self, address: IpAddr) -> Option<&Host> {
        self.owners.get(&address).and_then(|id| self.hosts.get(id))
    }

    /// Takes a host in, in place of one that may have its name.
    pub fn insert_host(&mut self, host: Host) {
        if let Some(id) = self.names.insert(host.name.clone(), host.id) {
            self.forget(id);
        }
        self.owners
            .extend(host.addresses.iter().map(|address| (*address, host.id)));
        self.changed_hosts.insert(host.name.clone());
        self.hosts.insert(host.id, host);
    }

    fn forget(&mut self, id: HostId) {
        self.hosts.remove(&id);
        self.owners.retain(|_, owner| *owner != id);
        self.refused.remove(&id);
        self.last_live.remove(&id);
        self.unsaved_reports.remove(&id);
        self.unfit.remove(&id);
        self.publisher.forget(id);
        if let Some(session) = self.sessions.remove(&id) {
            session.end.cancel();
        }
    }

    /// Changes what a host says about itself.
    pub fn report(&mut self, id: HostId, change: impl FnOnce(&mut Report)) {
        if let Some(host) = self.hosts.get_mut(&id) {
            change(&mut host.report);
            host.report.last_seen_unix = unix_now();
            self.unsaved_reports.insert(id);
        }
    }

    /// Puts a host into quarantine or takes it out.
    pub fn set_quarantine(&mut self, id: HostId, reason: Option<String>) {
        if let Some(host) = self.hosts.get_mut(&id) {
            host.quarantine = reason;
            self.changed_hosts.insert(host.name.clone());
        }
    }

    /// Opens a control stream; one that the host had before is ended.
    pub fn open_session(&mut self, id: HostId, source: IpAddr) -> (u64, CancellationToken) {
        let number = self.next_session;
        self.next_session += 1;
        let end = CancellationToken::new();
        let session = Session {
            number,
            source,
            claimed: BTreeSet::new(),
            end: end.clone(),
        };
        if let Some(old) = self.sessions.insert(id, session) {
            old.end.cancel();
        }
        (number, end)
    }

    /// Notes that a control stream is over, unless another has taken its place.
    pub fn close_session(&mut self, id: HostId, number: u64) {
        if self
            .sessions
            .get(&id)
            .is_some_and(|session| session.number == number)
        {
            self.sessions.remove(&id);
            self.last_live.insert(id, Instant::now());
        }
    }

    /// Whether a host has a stream, or had one less than `grace` ago.
    pub fn is_live(&self, id: HostId, grace: Duration) -> bool {
        self.sessions.contains_key(&id)
            || self
                .last_live
                .get(&id)
                .is_some_and(|since| since.elapsed() < grace)
    }

    /// Every host as policy sees it.
    pub fn inventory(&self) -> Inventory {
        Inventory {
            hosts: self.hosts().map(Host::to_policy).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
