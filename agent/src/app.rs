//! The life of `bulkhead-agent run`: every task of the process is listed here.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

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
    enforcement::EnforcementTask,
    enforcer::{Enforcer, EnforcerOptions},
    enrol::read_token,
    error::{AgentError, with_causes},
    local_tiers::LocalTiers,
    renewal,
    spool::{Spool, shared::SharedSpool},
    state::{StateDir, controllers::Controllers, identity::HostIdentity},
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

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// The tasks, all of which run until they are cancelled.
struct Tasks {
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
        () = signals.next() => return Ok(()),
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
        interfaces: config
            .interfaces
            .iter()
            .cloned()
            .map(String::from)
            .collect(),
        flows: config.flow_slots(),
        behaviour: config.behaviour(),
        hooking: config.hooking,
    };
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
    let addresses = controllers.addresses();
    let local = local_tiers(&config, &config_file, addresses.clone());
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
pub fn local_tiers(
    config: &Config,
    file: &std::path::Path,
    controllers: Vec<SocketAddr>,
) -> LocalTiers {
    LocalTiers {
        controllers,
        failsafe_subnets: config.failsafe.subnets.clone(),
        failsafe_tcp_ports: config
            .failsafe
            .tcp_ports
            .iter()
            .map(|port| port.number())
            .collect(),
        dhcp_servers: config.dhcp.servers.clone(),
        // The task knows them best.
        own_addresses: Vec::new(),
        other_ethertypes: config.other_ethertypes,
        config_file: file.display().to_string(),
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
        let outcome = tokio::select! {
            () = signals.next() => {
                info!("stopping; what the kernel enforces stays");
                Ok(())
            }
            Some(ended) = self.set.join_next() => Err(early_end(ended)),
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
            () = signals.next() => return Err(AgentError::Impatient),
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
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
