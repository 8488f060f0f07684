//! The task that keeps a stream to a controller: policy comes down, denials go up.

pub mod detached;
mod session;

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use proto::{client::ChannelError, host_report::Announcement};
use tokio::{
    sync::watch,
    task::block_in_place,
    time::{Instant, interval_at, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::session::{Session, SessionError, SessionParts};
use crate::{
    config::Config,
    enforcement::{Enforcement, Gone},
    enrol::{EnrolError, enrol, read_token},
    error::{AgentError, with_causes},
    interfaces, listeners,
    spool::shared::SharedSpool,
    state::{StateDir, controllers::Controllers, identity::HostIdentity},
    systemd,
};

/// The waits between attempts, when a controller is away. Each is up to twice as long by jitter, so
/// that the hosts of a controller that comes back do not come all at once.
const RETRIES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(250))
    .with_max_delay(Duration::from_secs(8))
    .with_jitter()
    .without_max_times();
/// How often it is looked for a controller that listens on this host.
const LOOK_FOR_CONTROLLER: Duration = Duration::from_secs(30);
/// How long one that does may take to show its certificate.
const VERIFY_WITHIN: Duration = Duration::from_secs(3);
/// A stream that lasted this long was a good one: the next attempt comes soon.
const SETTLED: Duration = Duration::from_secs(10);

/// The task before it runs.
pub struct Control {
    /// The operator's settings.
    pub config: Arc<Config>,
    /// To keep what is learned.
    pub state: Arc<StateDir>,
    /// Where the controllers are.
    pub controllers: Controllers,
    /// Tells other tasks where they are.
    pub addresses: watch::Sender<Vec<SocketAddr>>,
    /// Who this host is; another task may renew it.
    pub identity: watch::Sender<Arc<HostIdentity>>,
    /// The kernel side.
    pub enforcement: Enforcement,
    /// Denials that wait.
    pub spool: SharedSpool,
}

impl Control {
    /// Runs until cancelled.
    ///
    /// # Errors
    /// When the enforcement task has ended.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), AgentError> {
        let mut retries = RETRIES.build();
        loop {
            let begun = Instant::now();
            let outcome = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                outcome = self.attempt() => outcome,
            };
            if matches!(outcome, SessionError::EnforcementGone(Gone)) {
                return Err(AgentError::TaskEnded("enforcement"));
            }
            if begun.elapsed() >= SETTLED {
                retries = RETRIES.build();
            }
            if matches!(outcome, SessionError::Renumbered) {
                info!("{outcome}");
                continue;
            }
            let wait = next_wait(&mut retries);
            let error = with_causes(&outcome);
            warn!(
                error,
                wait_ms = wait.as_millis(),
                "no controller; what is enforced stays"
            );
            systemd::status(&format!("enforcing without a controller: {error}"));
            let mut facts = self.enforcement.facts();
            let addresses = facts.borrow_and_update().addresses.clone();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = sleep(wait) => {}
                // With another address there may be a way that there was not.
                Ok(_) = facts.wait_for(|facts| facts.addresses != addresses) => {
                    retries = RETRIES.build();
                }
            }
        }
    }

    /// One connection, from the names of the controllers to its end.
    async fn attempt(&mut self) -> SessionError {
        if let Err(gone) = self.find_controllers().await {
            return gone.into();
        }
        if let Err(error) = self.replace_expired_identity().await {
            return error;
        }
        let identity = Arc::clone(&self.identity.borrow());
        let mut addresses: Vec<String> = self
            .controllers
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        if !addresses.is_empty() {
            // Any controller is as good as another: hosts spread over them.
            let first = rand::random_range(0..addresses.len());
            addresses.rotate_left(first);
        }
        let HostIdentity {
            host_name: _,
            ca_pem,
            certificate_chain_pem,
            key_pem,
        } = &*identity;
        // As it is before the first packet: one that is put on trial later is not proven by this.
        let on_trial = self.enforcement.facts().borrow().trial;
        let channel =
            proto::client::channel_and_address(&addresses, ca_pem, certificate_chain_pem, key_pem)
                .await;
        if let Some(digest) = on_trial.filter(|_| is_the_way_open(&channel, is_elsewhere))
            && let Err(gone) = self.enforcement.reached(digest).await
        {
            return gone.into();
        }
        match channel {
            Ok((channel, address)) => {
                let (announced, announcements) = watch::channel(None);
                let session = Session::new(SessionParts {
                    enforcement: self.enforcement.clone(),
                    spool: self.spool.clone(),
                    rollback_after: self.config.rollback_after(),
                    source: source_towards(&address),
                    announced,
                });
                self.look_after_way(session.run(channel), announcements)
                    .await
            }
            Err(error) => error.into(),
        }
    }

    /// Keeps the way to the controllers up to date as long as a stream lasts.
    async fn look_after_way(
        &mut self,
        session: impl Future<Output = SessionError>,
        mut announcements: watch::Receiver<Option<Announcement>>,
    ) -> SessionError {
        let mut session = pin!(session);
        let mut look = interval_at(Instant::now() + LOOK_FOR_CONTROLLER, LOOK_FOR_CONTROLLER);
        loop {
            let opened = tokio::select! {
                error = &mut session => return error,
                _ = look.tick() => {
                    self.find_controllers_here().await;
                    self.open_way().await
                }
                Ok(()) = announcements.changed() => {
                    let announced = announcements.borrow_and_update().clone();
                    let Announcement { addresses, same_host } = announced.unwrap_or_default();
                    self.controllers.announce(addresses);
                    self.controllers.runs_here(same_host);
                    self.find_controllers_here().await;
                    self.open_way().await
                }
            };
            if let Err(gone) = opened {
                return gone.into();
            }
        }
    }

    /// Resolves names, and opens the way to the addresses before they are dialled.
    async fn find_controllers(&mut self) -> Result<(), Gone> {
        // The resolvers may be others than when the way was opened last.
        let before = self.controllers.way();
        self.controllers.read_resolvers();
        if self.controllers.way() != before {
            self.open_way().await?;
        }
        self.controllers.resolve().await;
        self.find_controllers_here().await;
        self.open_way().await
    }

    /// Keeps what is known of the controllers, and has no policy cut the way to them.
    async fn open_way(&mut self) -> Result<(), Gone> {
        if let Err(error) = block_in_place(|| self.controllers.save(&self.state)) {
            warn!(error = %with_causes(&error), "the controllers' addresses are not kept");
        }
        let addresses = self.controllers.addresses();
        self.addresses.send_if_modified(|known| {
            let changes = *known != addresses;
            *known = addresses;
            changes
        });
        self.enforcement
            .set_controllers(self.controllers.way())
            .await
    }

    /// Looks for the port on which a controller of this host listens, once a controller has said that it runs here:
    /// it knows that from the connection. A listener is taken for it when its certificate says so. One that was
    /// found stays known while nobody listens, since a controller that starts again is not gone.
    async fn find_controllers_here(&mut self) {
        if !self.controllers.run_here() {
            return;
        }
        let listening = match block_in_place(listeners::reachable) {
            Ok(listening) => listening,
            Err(error) => {
                warn!(%error, "whether a controller listens on this host is not known");
                return;
            }
        };
        let ca_pem = self.identity.borrow().ca_pem.clone();
        let mut here = self.controllers.ports_here().clone();
        for port in self.controllers.ports() {
            let at_port = listening.iter().filter(|at| at.port() == port);
            let addresses: Vec<String> = at_port.flat_map(|at| dialled(*at)).collect();
            if addresses.is_empty() {
                continue;
            }
            let dial = proto::client::channel_without_certificate(&addresses, &ca_pem);
            match timeout(VERIFY_WITHIN, dial).await {
                Ok(Ok(_)) => _ = here.insert(port),
                Ok(Err(_)) => _ = here.remove(&port),
                // It may be busy.
                Err(_) => {}
            }
        }
        self.controllers.set_ports_here(here);
    }

    /// A certificate that has expired buys nothing; a new token does.
    async fn replace_expired_identity(&self) -> Result<(), SessionError> {
        let expired = match self.identity.borrow().validity() {
            Ok(validity) => validity.is_over(SystemTime::now()),
            Err(_) => true,
        };
        if !expired {
            return Ok(());
        }
        let token = read_token(self.config.token_file.as_deref()).map_err(SessionError::Expired)?;
        let addresses = self.controllers.addresses();
        let identity = enrol(&addresses, &token, &self.config.host_name)
            .await
            .map_err(SessionError::Expired)?;
        info!(host_name = identity.host_name, "the host is enrolled again");
        if let Err(error) = block_in_place(|| identity.save(&self.state)) {
            error!(error = %with_causes(&error), "the new certificate is not on disk");
        }
        self.identity.send_replace(Arc::new(identity));
        Ok(())
    }
}

/// How to reach a socket that listens on this host: one on every address is reached by loopback.
fn dialled(listening: SocketAddr) -> Vec<String> {
    let port = listening.port();
    match listening.ip() {
        IpAddr::V4(address) if address.is_unspecified() => vec![format!("127.0.0.1:{port}")],
        IpAddr::V6(address) if address.is_unspecified() => {
            vec![format!("[::1]:{port}"), format!("127.0.0.1:{port}")]
        }
        _ => vec![listening.to_string()],
    }
}

/// The address of this host that packets to a controller come from; none when there is no route there.
fn source_towards(controller: &str) -> Option<IpAddr> {
    let controller: SocketAddr = controller.parse().ok()?;
    let any: IpAddr = match controller {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Nothing is sent: connecting chooses the route.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(controller).ok()?;
    Some(socket.local_addr().ok()?.ip().to_canonical())
}

/// Whether packets come back from a controller's host: from the controller, or from a kernel that says
/// that nobody listens. A relay of this host that refuses says nothing of the way behind it.
fn is_the_way_open<T>(
    outcome: &Result<T, ChannelError>,
    is_elsewhere: impl Fn(IpAddr) -> bool,
) -> bool {
    match outcome {
        Ok(_) => true,
        Err(ChannelError::Unreachable { refused, .. }) => refused
            .iter()
            .filter_map(|address| address.parse::<SocketAddr>().ok())
            .any(|address| is_elsewhere(address.ip().to_canonical())),
        Err(ChannelError::NoAddress) => false,
    }
}

/// Whether an address is not of this host. What cannot be listed proves nothing.
fn is_elsewhere(address: IpAddr) -> bool {
    !address.is_loopback()
        && !address.is_unspecified()
        && interfaces::local_addresses().is_ok_and(|own| !own.contains(&address))
}

/// Enrols a host that has no certificate yet; tries again as long as nobody answers.
///
/// # Errors
/// When a controller refuses, or the one that answers cannot be verified.
pub async fn first_enrolment(
    config: &Config,
    state: &StateDir,
    controllers: &mut Controllers,
    token: &proto::token::EnrolmentToken,
) -> Result<HostIdentity, AgentError> {
    let mut retries = RETRIES.build();
    loop {
        controllers.read_resolvers();
        controllers.resolve().await;
        match enrol(&controllers.addresses(), token, &config.host_name).await {
            Ok(identity) => {
                identity.save(state)?;
                // Under the policy that comes the resolver may be out of reach.
                if let Err(error) = controllers.save(state) {
                    warn!(error = %with_causes(&error), "the controllers' addresses are not kept");
                }
                info!(host_name = identity.host_name, "the host is enrolled");
                return Ok(identity);
            }
            Err(error @ EnrolError::Unreachable(_)) => {
                let wait = next_wait(&mut retries);
                warn!(error = %with_causes(&error), wait_ms = wait.as_millis(), "not enrolled yet");
                systemd::status("waiting for a controller to enrol with");
                systemd::still_starting(wait + Duration::from_secs(60));
                sleep(wait).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn next_wait(retries: &mut ExponentialBackoff) -> Duration {
    // There is no last attempt; the default is for the type only.
    retries.next().unwrap_or(SETTLED)
}
