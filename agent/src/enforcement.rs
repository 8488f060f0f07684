//! The task that owns the kernel side: it starts enforcement, applies what comes, and looks after
//! interfaces and counters.

pub(crate) mod beginning;
mod changes;
mod handle;
mod pressure;
mod quarantine;
mod report;
mod trial;
mod trouble;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use policy::{HostPolicy, Revision, Timestamp};
use proto::host_report::Incident;
use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

#[cfg(test)]
pub use self::beginning::bootstrap_policy;
pub use self::beginning::own_policies;
pub use self::handle::{Applied, ApplyAnswer, Command, Enforcement, Facts, Gone, Settings};
use self::{
    pressure::Pressure,
    trial::Trial,
    trouble::{Change, Trouble},
};
use crate::{
    brief::{brief, difference},
    clock::Clock,
    denial_reader::DenialReader,
    enforcer::{EnforceError, Enforcer},
    error::{AgentError, with_causes},
    exceptions,
    kernel::Changed,
    local_tiers::LocalTiers,
    state::{
        StateDir,
        controllers::WayToControllers,
        policy_store::{EncodedPolicy, PolicyStore},
        rolled_back::RolledBack,
    },
};

/// How soon another tool's program is noticed that was put before ours, and a clock that was set. Interfaces,
/// addresses and filters tell of themselves.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Each so many looks everything is looked at, in case a change was not told.
const THOROUGH: u32 = 15;

/// The task before it runs.
pub struct EnforcementTask {
    enforcer: Enforcer,
    state: Arc<StateDir>,
    local: LocalTiers,
    clock: Clock,
    current: Option<Current>,
    /// How long a host waits for its controller after a flip; none: for ever.
    rollback_after: Option<Duration>,
    /// The current policy's, until the controller is heard.
    trial: Option<Trial>,
    /// What is not taken again.
    rolled_back: Option<RolledBack>,
    commands: mpsc::Receiver<Command>,
    facts: watch::Sender<Facts>,
    /// Why the last look at the interfaces failed.
    trouble: Trouble,
    /// What others did to the programs, oldest first.
    incidents: VecDeque<Incident>,
    /// Whether the flow tables have room.
    pressure: Pressure,
    /// Until then a host that has had no policy yet learns its flows: everything is allowed, and its flow
    /// tables fill with the connections that live on it. So the first policy finds them there: those
    /// that it allows go on, those that it denies are cut.
    learns_until: Option<Instant>,
}

/// What this process has applied.
struct Current {
    policy: EncodedPolicy,
    source: Source,
    /// Rules that end then or before are left out.
    last_end: Option<Timestamp>,
}

/// Where a policy comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// It is not on disk yet.
    Controller,
    /// It is one from disk, with quarantines of a policy that was refused; not on disk yet.
    Amended,
    /// It is on disk, and on trial.
    Trial,
    /// It is the last good one on disk.
    Disk,
    /// The agent's own; never on disk, and the controller knows no digest of it.
    Own,
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

impl EnforcementTask {
    /// Enforces what was enforced before, or a policy of the agent's own, then takes the interfaces.
    /// Blocks for as long as the kernel takes.
    ///
    /// # Errors
    /// When the kernel refuses; what it enforced before stays.
    pub fn start(
        enforcer: Enforcer,
        state: Arc<StateDir>,
        local: LocalTiers,
        clock: Clock,
        rollback_after: Option<Duration>,
    ) -> Result<Started, EnforceError> {
        let (facts, facts_receiver) = watch::channel(Facts::default());
        let (enforcement, commands) = Enforcement::new(facts_receiver);
        let mut task = Self {
            enforcer,
            state,
            local,
            clock,
            current: None,
            rollback_after,
            trial: None,
            rolled_back: None,
            commands,
            facts,
            trouble: Trouble::default(),
            incidents: VecDeque::new(),
            pressure: Pressure::default(),
            learns_until: None,
        };
        task.enforcer.list_network()?;
        task.local.own_addresses = task.enforcer.local_addresses();
        let live = task.enforcer.live()?;
        task.take_up(live.as_ref().map(|live| live.digest))?;
        let denials = task.enforcer.denials()?;
        match task.enforcer.attach() {
            Ok(interfaces) => info!(interfaces = brief(interfaces), "interfaces are policed"),
            // The others are policed, and the controller is told.
            Err(EnforceError::Shortfall(shortfall)) if shortfall.is_of_single_interfaces() => {
                task.note(Err(EnforceError::Shortfall(shortfall)));
            }
            Err(error) => return Err(error),
        }
        task.look_around()?;
        if live.is_none() && task.has_no_policy() {
            task.learn(task.enforcer.warm_start());
        }
        Ok(Started {
            task,
            enforcement,
            denials,
            maps_are_new: live.is_none(),
        })
    }

    /// Disk, kernel, disk. A disk that cannot be written does not stop a policy: a host that
    /// is to be quarantined is quarantined also when its disk is full.
    fn install(&mut self, policy: EncodedPolicy, source: Source) -> Result<Applied, EnforceError> {
        let state = Arc::clone(&self.state);
        let store = PolicyStore::new(&state);
        let comes = source == Source::Controller;
        let is_new = comes || source == Source::Amended;
        let before = comes.then(|| self.before(&policy)).flatten();
        let staged = is_new && log_disk_trouble(store.stage(&policy));
        let now = self.clock.timestamp();
        let live = self
            .enforcer
            .apply(policy.policy(), policy.digest(), &self.local, now)?;
        let source = match &before {
            _ if !staged => source,
            Some(_) if log_disk_trouble(store.try_out()) => Source::Trial,
            None if log_disk_trouble(store.promote()) => Source::Disk,
            _ => source,
        };
        let applied = Applied {
            digest: policy.digest(),
            revision: policy.policy().revision,
            generation: live.generation,
        };
        let last_end = exceptions::last_end(policy.policy(), now);
        if comes {
            self.forget_rolled_back(policy.policy());
        }
        self.current = Some(Current {
            policy,
            source,
            last_end,
        });
        match before {
            Some(before) => self.begin_trial(before, applied.digest),
            None if is_new => drop(self.end_trial()),
            None => {}
        }
        let known = (source != Source::Own).then(|| applied.clone());
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
        let mut changes = changes::hear();
        let mut hears = true;
        let mut looks = 0;
        let mut count_flows = interval(pressure::COUNT_AGAIN);
        count_flows.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let end = self.until_next_end();
            let rollback = self.until_rollback();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = until(self.learns_until), if self.learns_until.is_some() => {
                    self.learns_until = None;
                    self.facts.send_modify(|facts| facts.learns = false);
                }
                _ = look.tick() => {
                    looks += 1;
                    let changed = match hears && looks % THOROUGH != 0 {
                        true => Changed::default(),
                        false => Changed::anything(),
                    };
                    block_in_place(|| self.look_after(&changed));
                }
                _ = count_flows.tick() => block_in_place(|| self.count_flows()),
                changed = changes.next(), if hears => match changed {
                    Some(changed) => block_in_place(|| self.look_after(&changed)),
                    None => hears = false,
                },
                () = sleep(end.unwrap_or_default()), if end.is_some() => {
                    block_in_place(|| self.look_after(&Changed::default()));
                }
                () = sleep(rollback.unwrap_or_default()), if rollback.is_some() => {
                    block_in_place(|| self.roll_back());
                }
                command = self.commands.recv() => match command {
                    Some(command) => block_in_place(|| self.obey(command)),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Has the first policy wait; a quarantine does not.
    fn learn(&mut self, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        info!(
            seconds = duration.as_secs(),
            "the host learns its flows before its first policy"
        );
        self.learns_until = Some(Instant::now() + duration);
        self.facts.send_modify(|facts| facts.learns = true);
    }

    /// Whether the host was never given a policy.
    fn has_no_policy(&self) -> bool {
        let revision = |current: &Current| current.policy.policy().revision;
        self.current.as_ref().map(revision) == Some(Revision::default())
            && PolicyStore::new(&self.state)
                .good()
                .is_ok_and(|good| good.is_none())
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may be gone by now: then nobody hears the answer, which is fine.
        match command {
            Command::Apply { policy, answer } => {
                let _ = answer.send(self.take_and_protect(*policy));
            }
            Command::Reached { digest, answer } => {
                self.reached(digest);
                let _ = answer.send(());
            }
            Command::SetControllers { way, answer } => {
                self.set_controllers(way);
                let _ = answer.send(());
            }
            Command::Reload { settings, answer } => {
                self.reload(settings);
                let _ = answer.send(());
            }
            Command::Look { answer } => {
                self.look_after(&Changed {
                    network: true,
                    ..Changed::default()
                });
                let _ = answer.send(());
            }
            Command::Ping { answer } => {
                let _ = answer.send(());
            }
        }
    }

    /// Takes a policy that the controller sends, or says why not.
    fn take(&mut self, policy: EncodedPolicy) -> Result<Applied, String> {
        let revision = policy.policy().revision;
        let rolled_back = self.rolled_back.as_ref();
        let result = match rolled_back.filter(|barred| barred.bars(policy.policy())) {
            Some(barred) => {
                let reason = barred.reason();
                Err(reason + &self.take_quarantines(policy.policy()))
            }
            None => self
                .install(policy, Source::Controller)
                .map_err(|error| with_causes(&error)),
        };
        if let Err(reason) = &result {
            error!(%revision, %reason, "a policy was refused; the old one stays");
        }
        result
    }

    /// As [`EnforcementTask::take`]. A policy that the kernel has taken and that no interface is policed by is
    /// refused: it protects nothing.
    fn take_and_protect(&mut self, policy: EncodedPolicy) -> Result<Applied, String> {
        let applied = self.take(policy)?;
        let Some(reason) = self.why_nothing_is_policed() else {
            return Ok(applied);
        };
        // It cannot cost the host its controller.
        self.reached(applied.digest);
        error!(revision = %applied.revision, %reason, "the policy is in the kernel and protects nothing");
        Err(reason)
    }

    /// Has the policy in force cut also the peers that one which is refused has in quarantine. What is to
    /// be said of it.
    fn take_quarantines(&mut self, refused: &HostPolicy) -> String {
        if quarantine::addresses(refused).is_empty() {
            return String::new();
        }
        let Some(Current { policy, source, .. }) = &self.current else {
            return "; the peers that it has in quarantine are not cut: the policy in force is not on disk".into();
        };
        let Some((amended, source)) = amended(policy, *source, refused) else {
            return "; the peers that it has in quarantine are cut".into();
        };
        match self.install(amended, source) {
            Ok(_) => {
                info!("the policy in force cuts the peers in quarantine too");
                "; the peers that it has in quarantine are cut".into()
            }
            Err(error) => format!(
                "; the peers that it has in quarantine are not cut: {}",
                with_causes(&error)
            ),
        }
    }

    fn set_controllers(&mut self, way: WayToControllers) {
        if let Some(addresses) = difference(&self.local.controllers, &way.addresses) {
            info!(addresses, "the controllers have other addresses");
        }
        if self.local.controller_ports != way.ports_here {
            info!(
                ports = brief(&way.ports_here),
                "a controller listens on this host"
            );
        }
        let local = self.local.clone().with_way(way);
        if self.local == local {
            return;
        }
        if let Err(error) = self.set_local_tiers(local) {
            error!(error = %with_causes(&error), "the way to the controllers is not open; it is tried again");
        }
    }

    /// Takes up what the operator has changed in the configuration.
    fn reload(&mut self, settings: Settings) {
        let Settings {
            failsafe_subnets,
            failsafe_tcp_ports,
            interfaces,
        } = settings;
        self.enforcer.set_interfaces(interfaces);
        let local = LocalTiers {
            failsafe_subnets,
            failsafe_tcp_ports,
            ..self.local.clone()
        };
        if self.local != local
            && let Err(error) = self.set_local_tiers(local)
        {
            error!(error = %with_causes(&error), "the failsafe of the configuration is not in force; restart the agent");
        }
        self.look_after(&Changed::anything());
    }

    /// Enforces the same policy with other rules of this host's own.
    fn set_local_tiers(&mut self, local: LocalTiers) -> Result<(), EnforceError> {
        let before = std::mem::replace(&mut self.local, local);
        // Without a policy in hand they come in with the next one.
        let installed = self.install_again();
        if installed.is_err() {
            self.local = before;
        }
        installed
    }

    fn install_again(&mut self) -> Result<(), EnforceError> {
        let Some(Current { policy, source, .. }) = &self.current else {
            return Ok(());
        };
        self.install(policy.clone(), *source).map(|_| ())
    }

    /// Enforces the same policy without the exceptions that have ended since it was last applied.
    fn end_exceptions(&mut self) -> Result<(), EnforceError> {
        let now = self.clock.timestamp();
        let Some(Current {
            policy, last_end, ..
        }) = &self.current
        else {
            return Ok(());
        };
        let ended = exceptions::last_end(policy.policy(), now);
        if ended == *last_end {
            return Ok(());
        }
        let exceptions = exceptions::ended_since(policy.policy(), *last_end, ended).join(", ");
        self.install_again()?;
        info!(exceptions, "what they allowed is cut: they have ended");
        Ok(())
    }

    fn until_next_end(&mut self) -> Option<Duration> {
        let now = self.clock.now();
        let policy = self.current.as_ref()?.policy.policy();
        exceptions::until_next_end(policy, now)
    }

    fn look_after(&mut self, changed: &Changed) {
        let ended = self.end_exceptions();
        let attached = self.enforcer.look(changed).map(|interfaces| {
            if !interfaces.is_empty() {
                info!(interfaces = brief(interfaces), "interfaces are policed");
            }
        });
        let looked = self.look_around();
        self.note(ended.and(attached).and(looked));
    }

    /// Tells the others what was found, and the kernel when this host has other addresses.
    fn look_around(&mut self) -> Result<(), EnforceError> {
        let addresses = self.enforcer.addresses();
        let counters = self.enforcer.counters();
        self.facts.send_if_modified(|facts| {
            let before = (facts.packets_denied, facts.events_lost);
            let other_addresses = facts.addresses != addresses;
            facts.addresses = addresses;
            if let Ok(counters) = &counters {
                facts.packets_denied = counters.packets_denied;
                facts.events_lost = counters.events_lost;
            }
            other_addresses || before != (facts.packets_denied, facts.events_lost)
        });
        self.report();
        let own_addresses = self.enforcer.local_addresses();
        if let Some(addresses) = difference(&self.local.own_addresses, &own_addresses) {
            info!(addresses, "this host has other addresses");
            let local = LocalTiers {
                own_addresses,
                ..self.local.clone()
            };
            self.set_local_tiers(local)?;
        }
        counters.map(|_| ())
    }

    fn count_flows(&mut self) {
        match self.enforcer.census() {
            Ok(census) => {
                let percent = self.pressure.note(census);
                self.facts.send_if_modified(|facts| {
                    std::mem::replace(&mut facts.flows_percent, percent) != percent
                });
            }
            Err(error) => warn!(error = %with_causes(&error), "the flow tables cannot be counted"),
        }
    }

    fn note(&mut self, outcome: Result<(), EnforceError>) {
        match self
            .trouble
            .note(outcome.map_err(|error| with_causes(&error)))
        {
            Some(Change::Began(error)) => error!(
                error,
                "the kernel side cannot be looked after; it is tried again"
            ),
            Some(Change::Ended) => info!("the kernel side is looked after again"),
            None => {}
        }
    }
}

/// A policy with the peers in quarantine that another one has; none where it has them already.
fn amended(
    policy: &EncodedPolicy,
    source: Source,
    other: &HostPolicy,
) -> Option<(EncodedPolicy, Source)> {
    let amended = quarantine::with_those_of(policy.policy(), other)?;
    let source = match source {
        // Not on disk, nor is this.
        Source::Own => Source::Own,
        Source::Controller | Source::Amended | Source::Trial | Source::Disk => Source::Amended,
    };
    Some((EncodedPolicy::encode(amended), source))
}

async fn until(moment: Option<Instant>) {
    sleep_until(moment.unwrap_or_else(Instant::now)).await;
}

/// True when there was none.
fn log_disk_trouble(result: Result<(), crate::state::StateError>) -> bool {
    if let Err(error) = &result {
        error!(error = %with_causes(error), "the policy is enforced but not on disk: a reboot would bring the one before");
    }
    result.is_ok()
}

#[cfg(test)]
mod tests;
