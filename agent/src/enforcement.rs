//! The task that owns the kernel side: it starts enforcement, applies what comes, and looks after
//! interfaces and counters.

mod handle;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use policy::{
    Direction, Effect, HostPolicy, Identity, Mode, Origin, PeerMatch, Revision, Rule, Tier,
};
use proto::Sha256Digest;
use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::handle::{Applied, ApplyAnswer, Command, Enforcement, Facts, Gone};
use crate::{
    enforcer::{DenialReader, EnforceError, Enforcer},
    error::{AgentError, with_causes},
    local_tiers::LocalTiers,
    state::{
        StateDir,
        policy_store::{EncodedPolicy, PolicyStore},
    },
};

/// How soon a new interface is policed and a new address is claimed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The task before it runs.
pub struct EnforcementTask {
    enforcer: Enforcer,
    state: Arc<StateDir>,
    local: LocalTiers,
    current: Option<Current>,
    commands: mpsc::Receiver<Command>,
    facts: watch::Sender<Facts>,
    /// Why the last look at the interfaces failed; logged once.
    trouble: Option<String>,
}

/// What this process has applied.
struct Current {
    policy: EncodedPolicy,
    source: Source,
}

/// Where a policy comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// It is not on disk yet.
    Controller,
    /// It is the last good one on disk.
    Disk,
    /// The agent's own; never on disk, and the controller knows no digest of it.
    Bootstrap,
}

/// What a start brings.
pub struct Started {
    /// To run.
    pub task: EnforcementTask,
    /// To reach the task.
    pub enforcement: Enforcement,
    /// Denials from the kernel.
    pub denials: DenialReader,
    /// The maps were made anew, and the counters in them.
    pub maps_are_new: bool,
}

/// What a host enforces that has never had a policy: everything is allowed, and says so.
#[must_use]
pub fn bootstrap_policy() -> HostPolicy {
    let origin = Arc::new(Origin {
        rule: "default".to_owned(),
        file: String::new(),
        line: 0,
    });
    let rules = Direction::ALL.map(|direction| Rule {
        direction,
        tier: Tier::Default,
        effect: Effect::Allow,
        mode: Mode::Enforce,
        peers: PeerMatch::Any,
        ports: Vec::new(),
        log: false,
        origin: Arc::clone(&origin),
    });
    HostPolicy {
        revision: Revision::default(),
        identity: Identity::UNMANAGED,
        rules: rules.into(),
        addresses: Default::default(),
    }
}

impl EnforcementTask {
    /// Enforces what was enforced before, or the bootstrap policy, then takes the interfaces.
    /// Blocks for as long as the kernel takes.
    ///
    /// # Errors
    /// When the kernel refuses; what it enforced before stays.
    pub fn start(
        enforcer: Enforcer,
        state: Arc<StateDir>,
        local: LocalTiers,
    ) -> Result<Started, EnforceError> {
        let (facts, facts_receiver) = watch::channel(Facts::default());
        let (enforcement, commands) = Enforcement::new(facts_receiver);
        let mut task = Self {
            enforcer,
            state,
            local,
            current: None,
            commands,
            facts,
            trouble: None,
        };
        task.local.own_addresses = task.enforcer.addresses();
        let live = task.enforcer.live()?;
        task.take_up(live.as_ref().map(|live| live.digest))?;
        let denials = task.enforcer.denials()?;
        let interfaces = task.enforcer.attach()?;
        info!(?interfaces, "interfaces are policed");
        task.look_around();
        Ok(Started {
            task,
            enforcement,
            denials,
            maps_are_new: live.is_none(),
        })
    }

    /// Goes on with the policy that the kernel enforces, or enforced before the reboot.
    fn take_up(&mut self, live: Option<Sha256Digest>) -> Result<(), EnforceError> {
        let recovered = PolicyStore::new(&self.state).recover(live);
        let recovered = recovered.unwrap_or_else(|error| {
            error!(error = %with_causes(&error), "the last good policy cannot be used");
            None
        });
        if let Some(policy) = recovered {
            let applied = self.install(policy, Source::Disk)?;
            info!(revision = %applied.revision, generation = applied.generation, "the last good policy is enforced");
            return Ok(());
        }
        let bootstrap = EncodedPolicy::encode(bootstrap_policy());
        if live.is_some_and(|live| live != bootstrap.digest()) {
            warn!(
                "what the kernel enforces stays; its policy is not on disk, so the controller has to send it"
            );
        } else {
            self.install(bootstrap, Source::Bootstrap)?;
            info!("there is no policy yet: everything is allowed until the controller sends one");
        }
        Ok(())
    }

    /// Disk, kernel, disk. A disk that cannot be written does not stop a policy: a host that
    /// is to be quarantined is quarantined also when its disk is full.
    fn install(&mut self, policy: EncodedPolicy, source: Source) -> Result<Applied, EnforceError> {
        let state = Arc::clone(&self.state);
        let store = PolicyStore::new(&state);
        let staged = source == Source::Controller && log_disk_trouble(store.stage(&policy));
        let live = self
            .enforcer
            .apply(policy.policy(), policy.digest(), &self.local)?;
        let on_disk = source == Source::Disk || (staged && log_disk_trouble(store.promote()));
        let applied = Applied {
            digest: policy.digest(),
            revision: policy.policy().revision,
            generation: live.generation,
        };
        let source = if on_disk { Source::Disk } else { source };
        self.current = Some(Current { policy, source });
        let known = (source != Source::Bootstrap).then(|| applied.clone());
        self.facts.send_modify(|facts| facts.applied = known);
        Ok(applied)
    }

    /// Runs until cancelled; the kernel goes on enforcing.
    ///
    /// # Errors
    /// Never; what fails is answered or logged, and tried again.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), AgentError> {
        let mut look = interval(LOOK_AGAIN);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                _ = look.tick() => block_in_place(|| self.attach_and_look()),
                command = self.commands.recv() => match command {
                    Some(command) => block_in_place(|| self.obey(command)),
                    None => return Ok(()),
                },
            }
        }
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may be gone by now: then nobody hears the answer, which is fine.
        match command {
            Command::Apply { policy, answer } => {
                let revision = policy.policy().revision;
                let result = self.install(*policy, Source::Controller).map_err(|error| {
                    let reason = with_causes(&error);
                    error!(%revision, %reason, "a policy was refused; the old one stays");
                    reason
                });
                let _ = answer.send(result);
            }
            Command::SetControllers { addresses, answer } => {
                self.set_controllers(addresses);
                let _ = answer.send(());
            }
            Command::Ping { answer } => {
                let _ = answer.send(());
            }
        }
    }

    fn set_controllers(&mut self, addresses: Vec<SocketAddr>) {
        if self.local.controllers != addresses {
            info!(?addresses, "the controllers have other addresses");
            let local = LocalTiers {
                controllers: addresses,
                ..self.local.clone()
            };
            self.set_local_tiers(local);
        }
    }

    /// Enforces the same policy with other rules of this host's own.
    fn set_local_tiers(&mut self, local: LocalTiers) {
        let before = std::mem::replace(&mut self.local, local);
        // Without a policy in hand they come in with the next one.
        let Some(Current { policy, source }) = self.current.take() else {
            return;
        };
        if let Err(error) = self.install(policy.clone(), source) {
            self.note_trouble(&error);
            self.local = before;
            self.current = Some(Current { policy, source });
        }
    }

    fn attach_and_look(&mut self) {
        match self.enforcer.attach() {
            Ok(interfaces) => {
                if !interfaces.is_empty() && self.trouble.take().is_some() {
                    info!(?interfaces, "interfaces are policed again");
                }
            }
            Err(error) => self.note_trouble(&error),
        }
        self.look_around();
    }

    fn look_around(&mut self) {
        let addresses = self.enforcer.addresses();
        if self.local.own_addresses != addresses {
            info!(?addresses, "this host has other addresses");
            let local = LocalTiers {
                own_addresses: addresses.clone(),
                ..self.local.clone()
            };
            self.set_local_tiers(local);
        }
        let counters = self.enforcer.counters();
        self.facts.send_if_modified(|facts| {
            let before = facts.clone();
            facts.addresses = addresses;
            if let Ok(counters) = &counters {
                facts.packets_denied = counters.packets_denied;
                facts.events_lost = counters.events_lost;
            }
            *facts != before
        });
        if let Err(error) = counters {
            self.note_trouble(&error);
        }
    }

    fn note_trouble(&mut self, error: &EnforceError) {
        let text = with_causes(error);
        if self.trouble.as_ref() != Some(&text) {
            error!(
                error = text,
                "the kernel side cannot be looked after; it is tried again"
            );
            self.trouble = Some(text);
        }
    }
}

/// True when there was none.
fn log_disk_trouble(result: Result<(), crate::state::StateError>) -> bool {
    if let Err(error) = &result {
        error!(error = %with_causes(error), "the policy is enforced but not on disk: a reboot would bring the one before");
    }
    result.is_ok()
}
