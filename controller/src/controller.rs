//! The controller's decisions, one at a time.
//!
//! Each call takes the lock, decides from memory, writes the store, and only then changes memory
//! and publishes. A call that was begun is finished even when its caller goes away: the gRPC side
//! runs each as a task of its own.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use proto::spiffe::HostId;
use tokio::sync::{Mutex, MutexGuard, Notify, broadcast, watch};

use crate::{
    ca::CertificateAuthority,
    compiled::Compiled,
    error::{Error, Result, causes},
    guards,
    state::{PolicyInForce, State},
    store::{KeptDenial, Store},
};

mod assertions;
mod denials;
mod enrol;
mod operate;
mod session;
mod whereabouts;

pub use session::{Hello, SessionHandle, claim, reported};

/// Denials that a follower may be behind before it misses some.
const FOLLOWERS_BACKLOG: usize = 8_192;

/// What can be set about a controller's behaviour.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Denials that are kept; the oldest beyond it are given up.
    pub denials: u64,
    /// How long the addresses of a host that went away stay its own, whoever claims them.
    pub grace: Duration,
}

/// Who calls, and from where.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The operator's name.
    pub name: String,
    /// Where the connection comes from.
    pub source: IpAddr,
}

/// The controller.
#[derive(Debug)]
pub struct Controller {
    store: Store,
    ca: CertificateAuthority,
    limits: Limits,
    state: Mutex<State>,
    /// Hosts or addresses have changed since the last compilation.
    stale: Notify,
    /// They have changed since the assertions were last decided.
    doubt: Notify,
    denials: broadcast::Sender<Arc<KeptDenial>>,
    /// Where agents find the controller; none until its names have resolved once.
    announced: watch::Sender<Option<Vec<SocketAddr>>>,
    security_events: AtomicU64,
}

impl Controller {
    /// Reads the state from the store and compiles the policy in force.
    ///
    /// # Errors
    /// When the store cannot be read, or this version does not understand the policy in it.
    pub async fn load(
        store: Store,
        ca: CertificateAuthority,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let source = store.policy().await?;
        let set = policy::parse(&source.files).map_err(|problems| {
            anyhow!(
                "the policy in force, revision {}, was written by another version of the \
                 controller and cannot be read by this one: run that version, or apply a policy \
                 with it that both understand\n{problems}",
                source.revision
            )
        })?;
        let known = store.known(&set).await?;
        let state = State::new(
            known,
            PolicyInForce {
                source,
                set: Arc::new(set),
            },
        );
        let controller = Self {
            store,
            ca,
            limits,
            state: Mutex::new(state),
            stale: Notify::new(),
            doubt: Notify::new(),
            denials: broadcast::Sender::new(FOLLOWERS_BACKLOG),
            announced: watch::Sender::new(None),
            security_events: AtomicU64::new(0),
        };
        let mut state = controller.state.lock().await;
        controller
            .publish(&mut state)
            .await
            .context("compiling the policy in force")?;
        drop(state);
        Ok(controller)
    }

    async fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().await
    }

    /// Compiles what has changed about the hosts, and publishes what differs. Gives what is compiled
    /// for the hosts as they are.
    async fn publish(&self, state: &mut State) -> Result<Arc<Compiled>> {
        if let Some(compiled) = state.compiled() {
            return Ok(compiled);
        }
        let work = state.take_work();
        let (compiled, update) = blocking("compiling a policy", move || work.run()).await?;
        let reached = update.len();
        let given = state.take_over(Arc::clone(&compiled), update);
        tracing::debug!(reached, given, revision = %state.policy.source.revision, "published");
        self.doubt.notify_one();
        Ok(compiled)
    }

    /// Publishes whenever hosts or addresses have changed; changes that come together are
    /// published together. Ends never.
    pub async fn publish_changes(&self) {
        loop {
            self.stale.notified().await;
            let mut state = self.lock().await;
            if let Err(error) = self.publish(&mut state).await {
                tracing::error!(error = %causes(&error), "publishing");
            }
        }
    }

    /// What is done every few seconds: refused claims are judged again, and what hosts said about
    /// themselves is saved.
    pub async fn tidy(&self) {
        let mut state = self.lock().await;
        for id in state.hosts_to_judge_again() {
            self.judge(&mut state, id).await;
        }
        self.save_reports(&mut state).await;
    }

    /// Closes the store, once nobody calls any more.
    pub async fn close(&self) {
        let mut state = self.lock().await;
        self.save_reports(&mut state).await;
        self.store.close().await;
    }

    async fn save_reports(&self, state: &mut State) {
        let reports: Vec<_> = state
            .unsaved_reports
            .iter()
            .filter_map(|id| state.host(*id))
            .map(|host| (host.id, host.report.clone()))
            .collect();
        if reports.is_empty() {
            return;
        }
        match self.store.set_reports(&reports).await {
            Ok(()) => state.unsaved_reports.clear(),
            Err(error) => tracing::error!(error = %causes(&error), "saving the hosts' reports"),
        }
    }

    /// Judges the claim of a host's live stream, keeps what is believed, and has it published.
    async fn judge(&self, state: &mut State, id: HostId) {
        let Some(session) = state.sessions.get(&id) else {
            return;
        };
        let judged = state.judge(id, session.source, &session.claimed, self.limits.grace);
        let source = session.source;
        let name = state
            .host(id)
            .map_or_else(String::new, |host| host.name.to_string());
        let refused = state.note_refused(id, judged.refused);
        if !refused.is_empty() {
            // A host may claim thousands: they are counted one by one, and said in one line.
            self.security_events
                .fetch_add(refused.len() as u64, Ordering::Relaxed);
            let addresses: Vec<String> = refused.iter().map(ToString::to_string).collect();
            let addresses = guards::names(addresses.iter().map(String::as_str));
            tracing::warn!(
                security_event = true,
                "the host {name}, connected from {source}, claims {addresses}: refused, because its \
                 token allows no such address, or a host has it that is live or in quarantine"
            );
        }
        let mut changes: Vec<(HostId, BTreeSet<IpAddr>)> = judged.left_to.into_iter().collect();
        changes.push((id, judged.accepted));
        changes.retain(|(id, addresses)| {
            state
                .host(*id)
                .is_some_and(|host| host.addresses != *addresses)
        });
        if changes.is_empty() {
            return;
        }
        // The store first; without it the host keeps the addresses that it had.
        if let Err(error) = self.store.set_addresses(&changes).await {
            tracing::error!(host = name, error = %causes(&error), "keeping a host's addresses");
            return;
        }
        for (id, addresses) in changes {
            state.set_addresses(id, addresses);
        }
        self.stale.notify_one();
    }

    fn security_event(&self, what: std::fmt::Arguments<'_>) {
        self.security_events.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(security_event = true, "{what}");
    }
}

/// Does something on a thread where that may take its time.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Bug(format!("{what}: {error}")))
}
