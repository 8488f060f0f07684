//! The life of `bulkhead-agent run`: every task of the process is listed here.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use proto::token::EnrolmentToken;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::{JoinError, JoinSet, block_in_place},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    clock::Clock,
    config::Config,
    control::{Control, first_enrolment},
    denials,
    enforcement::{Enforcement, EnforcementTask, Settings},
    enforcer::{Enforcer, EnforcerOptions},
    enrol::read_token,
    error::{AgentError, with_causes},
    local_tiers::LocalTiers,
    renewal,
    spool::{Spool, shared::SharedSpool},
    state::{
        StateDir,
        controllers::{Controllers, WayToControllers},
        identity::HostIdentity,
    },
    systemd,
};

/// How long the tasks may take to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Everything that can be found wrong before anything is changed.
pub struct Preflight {
    config: Arc<Config>,
    config_file: PathBuf,
    state: Arc<StateDir>,
    spool: Spool,
    standing: Standing,
}

/// What the host can show a controller.
enum Standing {
    Enrolled(HostIdentity),
    Token(EnrolmentToken),
}

/// The signals that mean something to the agent, and those that would end a process that does not expect
/// them.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Nothing comes of them.
    _ignored: Vec<Signal>,
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// To end.
    Stop,
    /// To read the configuration again.
    Reload,
}

/// The tasks, all of which run until they are cancelled.
struct Tasks {
    reload: Reload,
    set: JoinSet<(&'static str, Result<(), AgentError>)>,
    cancel: CancellationToken,
    spool: SharedSpool,
}

impl Preflight {
    /// Looks at the state directory, and at the token where one is needed.
    ///
    /// # Errors
    /// When the state directory cannot be used, or the host has neither certificate nor token.
    pub fn check(config: Config, config_file: PathBuf) -> Result<Self, AgentError> {
        let state = StateDir::open(&config.state_dir)?;
        let standing = match HostIdentity::load(&state)? {
            Some(identity) => Standing::Enrolled(identity),
            None => Standing::Token(read_token(config.token_file.as_deref())?),
        };
        let spool = Spool::open(&state.file("spool"), config.spool_bytes())?;
        Ok(Self {
            config: config.into(),
            config_file,
            state: state.into(),
            spool,
            standing,
        })
    }
}

/// Runs the agent until a signal, or until a task fails. Enforcement outlives it.
///
/// # Errors
/// What kept it from starting, or ended it.
pub async fn run(preflight: Preflight) -> Result<(), AgentError> {
    let mut signals = Signals::listen()?;
    let tasks = tokio::select! {
        () = signals.stop() => return Ok(()),
        tasks = start(preflight) => tasks?,
    };
    tasks.supervise(signals).await
}

async fn start(preflight: Preflight) -> Result<Tasks, AgentError> {
    let Preflight {
        config,
        config_file,
        state,
        spool,
        standing,
    } = preflight;
    if let Some(warning) = config.warning() {
        warn!("{warning}");
    }
    // Before the token is spent: a kernel that cannot enforce ends it here.
    let options = EnforcerOptions {
        pin_dir: config.pin_dir(),
        interfaces: settings(&config).interfaces,
        flows: config.flow_slots(),
        behaviour: config.behaviour(),
        hooking: config.hooking,
    };
    systemd::status("loading the kernel programs");
    let enforcer = block_in_place(|| Enforcer::open(options))?;
    let mut controllers = Controllers::load(&config.controllers, &state);
    let identity = match standing {
        Standing::Enrolled(identity) => identity,
        Standing::Token(token) => {
            // This host was never given a policy, so there is none for the network to wait for; and
            // enrolling takes the network.
            systemd::ready();
            first_enrolment(&config, &state, &mut controllers, &token).await?
        }
    };
    // With the addresses that are known: at boot, enforcement does not wait for a resolver.
    controllers.read_resolvers();
    let addresses = controllers.addresses();
    let local = local_tiers(&config, &config_file, controllers.way());
    systemd::status("putting the last good policy into the kernel");
    let started = block_in_place(|| {
        let (clock, rollback_after) = (Clock::of_host(), config.rollback_after());
        EnforcementTask::start(enforcer, Arc::clone(&state), local, clock, rollback_after)
    })?;
    systemd::ready();

    let spool = SharedSpool::new(spool);
    let facts = started.enforcement.facts();
    let events_lost = facts.borrow().events_lost;
    spool.with(|spool| spool.count_kernel_losses(events_lost, started.maps_are_new));

    let (identity, _) = watch::channel(Arc::new(identity));
    let (addresses, address_watch) = watch::channel(addresses);
    let mut tasks = Tasks {
        reload: Reload {
            file: config_file,
            config: Arc::clone(&config),
            enforcement: started.enforcement.clone(),
        },
        set: JoinSet::new(),
        cancel: CancellationToken::new(),
        spool: spool.clone(),
    };
    let cancel = tasks.cancel.clone();
    tasks.spawn("enforcement", started.task.run(cancel.clone()));
    tasks.spawn(
        "denials",
        denials::run(started.denials, spool.clone(), facts, cancel.clone()),
    );
    let renewal = renewal::run(
        Arc::clone(&state),
        identity.clone(),
        address_watch,
        cancel.clone(),
    );
    tasks.spawn("renewal", renewal);
    tasks.spawn(
        "watchdog",
        systemd::watchdog(started.enforcement.clone(), cancel.clone()),
    );
    let enforcement = started.enforcement;
    let control = Control {
        config,
        state,
        controllers,
        addresses,
        identity,
        enforcement,
        spool,
    };
    tasks.spawn("control", control.run(cancel));
    Ok(tasks)
}

/// What the host knows of itself, but for its own addresses.
pub fn local_tiers(config: &Config, file: &Path, way: WayToControllers) -> LocalTiers {
    let Settings {
        failsafe_subnets,
        failsafe_tcp_ports,
        interfaces: _,
    } = settings(config);
    LocalTiers {
        failsafe_subnets,
        failsafe_tcp_ports,
        dhcp_servers: config.dhcp.servers.clone(),
        // The task knows them best.
        own_addresses: Vec::new(),
        other_ethertypes: config.other_ethertypes,
        config_file: file.display().to_string(),
        ..LocalTiers::default()
    }
    .with_way(way)
}

/// What can change while the agent runs.
fn settings(config: &Config) -> Settings {
    let ports = config.failsafe.tcp_ports.iter();
    let interfaces = config.interfaces.iter().cloned();
    Settings {
        failsafe_subnets: config.failsafe.subnets.clone(),
        failsafe_tcp_ports: ports.map(|port| port.number()).collect(),
        interfaces: interfaces.map(String::from).collect(),
    }
}

/// What it takes to read the configuration again.
struct Reload {
    file: PathBuf,
    /// As it was read last.
    config: Arc<Config>,
    enforcement: Enforcement,
}

impl Reload {
    /// Takes up the settings that can change while the agent runs. A configuration with a mistake changes
    /// nothing.
    async fn reload(&mut self) {
        let config = match block_in_place(|| Config::load(&self.file)) {
            Ok(config) => config,
            Err(error) => {
                error!(error = %with_causes(&error), "the configuration is not read again; the settings of before stay");
                return;
            }
        };
        // What is left is the same but for what is taken up.
        let rest = Config {
            failsafe: self.config.failsafe.clone(),
            interfaces: self.config.interfaces.clone(),
            ..config.clone()
        };
        if rest != *self.config {
            warn!(
                "some settings that have changed are taken up only when the agent starts again: all but `failsafe` and `interfaces`"
            );
        }
        // The task has ended only where the process is about to.
        if self.enforcement.reload(settings(&config)).await.is_ok() {
            info!("the configuration is read again: `failsafe` and `interfaces` are in force");
        }
        let Config {
            failsafe,
            interfaces,
            ..
        } = config;
        self.config = Arc::new(Config {
            failsafe,
            interfaces,
            ..Config::clone(&self.config)
        });
    }
}

impl Tasks {
    fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), AgentError>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await) });
    }

    async fn supervise(mut self, mut signals: Signals) -> Result<(), AgentError> {
        let outcome = loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Stop => {
                        info!("stopping; what the kernel enforces stays");
                        break Ok(());
                    }
                    Asked::Reload => self.reload.reload().await,
                },
                Some(ended) = self.set.join_next() => break Err(early_end(ended)),
            }
        };
        systemd::stopping();
        self.cancel.cancel();
        let drain = async {
            while let Some(ended) = self.set.join_next().await {
                if let Ok((task, Err(error))) = ended {
                    error!(task, error = %with_causes(&error), "a task ended with an error");
                }
            }
        };
        tokio::select! {
            () = drain => {}
            () = sleep(GRACE) => error!("some tasks did not stop in time"),
            () = signals.stop() => return Err(AgentError::Impatient),
        }
        self.spool.with(|spool| spool.settle());
        outcome
    }
}

/// Why a task has ended that was not told to.
fn early_end(ended: Result<(&'static str, Result<(), AgentError>), JoinError>) -> AgentError {
    match ended {
        Ok((_, Err(error))) => error,
        Ok((task, Ok(()))) => AgentError::TaskEnded(task),
        // The panic's own message is in the log already.
        Err(_) => AgentError::TaskEnded("that has panicked"),
    }
}

impl Signals {
    fn listen() -> Result<Self, AgentError> {
        let listen = |kind| {
            signal(kind).map_err(|source| AgentError::Process {
                action: "listen to signals",
                source,
            })
        };
        let ignored = [
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
            SignalKind::io(),
            SignalKind::from_raw(libc::SIGPWR),
            SignalKind::from_raw(libc::SIGSTKFLT),
            SignalKind::from_raw(libc::SIGVTALRM),
            SignalKind::from_raw(libc::SIGPROF),
        ];
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            _ignored: ignored.into_iter().map(listen).collect::<Result<_, _>>()?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Returns when the process is to end. What else is asked for has no meaning meanwhile.
    async fn stop(&mut self) {
        while self.next().await != Asked::Stop {
            info!("SIGHUP is ignored while the agent starts or stops");
        }
    }
}
