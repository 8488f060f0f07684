//! The task that keeps a stream to a controller: policy comes down, denials go up.

mod session;

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use proto::client::ChannelError;
use tokio::{
    sync::watch,
    task::block_in_place,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::session::{Session, SessionError};
use crate::{
    config::Config,
    enforcement::{Enforcement, Gone},
    enrol::{EnrolError, enrol, read_token},
    error::{AgentError, with_causes},
    interfaces,
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
            let wait = next_wait(&mut retries);
            let error = with_causes(&outcome);
            warn!(
                error,
                wait_ms = wait.as_millis(),
                "no controller; what is enforced stays"
            );
            systemd::status(&format!("enforcing without a controller: {error}"));
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = sleep(wait) => {}
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
            proto::client::channel(&addresses, ca_pem, certificate_chain_pem, key_pem).await;
        if let Some(digest) = on_trial.filter(|_| is_the_way_open(&channel, is_elsewhere))
            && let Err(gone) = self.enforcement.reached(digest).await
        {
            return gone.into();
        }
        match channel {
            Ok(channel) => {
                let rollback_after = self.config.rollback_after();
                Session::new(self.enforcement.clone(), self.spool.clone(), rollback_after)
                    .run(channel)
                    .await
            }
            Err(error) => error.into(),
        }
    }

    /// Resolves names, and opens the way to the addresses before they are dialled.
    async fn find_controllers(&mut self) -> Result<(), Gone> {
        if self.controllers.resolve().await
            && let Err(error) = block_in_place(|| self.controllers.save(&self.state))
        {
            warn!(error = %with_causes(&error), "the controllers' addresses are not kept");
        }
        let addresses = self.controllers.addresses();
        self.addresses.send_replace(addresses.clone());
        self.enforcement.set_controllers(addresses).await
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
        controllers.resolve().await;
        match enrol(&controllers.addresses(), token, &config.host_name).await {
            Ok(identity) => {
                identity.save(state)?;
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
