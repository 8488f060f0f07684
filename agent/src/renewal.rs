//! The task that gets the host a new certificate at the half-life of its old one.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use proto::{client::ChannelError, v1::RenewRequest};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use tracing::{info, warn};

use crate::{
    error::{AgentError, with_causes},
    state::{
        StateDir, StateError,
        identity::{HostIdentity, KeyRequest, UnusableCertificate},
    },
};

/// The clock may jump, and the identity may be replaced: nobody sleeps longer than this.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long the controller may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The waits between attempts: less than the half of a life that is left after the first.
const RETRIES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(5))
    .with_max_delay(Duration::from_secs(600))
    .with_jitter()
    .without_max_times();

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the controller refused: {}", .0.message())]
    Refused(Box<Status>),
    #[error("cannot make a key")]
    Key(#[from] rcgen::Error),
    #[error(transparent)]
    Unusable(#[from] UnusableCertificate),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Runs until cancelled.
///
/// # Errors
/// Never; what fails is logged and tried again.
pub async fn run(
    state: Arc<StateDir>,
    identity: watch::Sender<Arc<HostIdentity>>,
    controllers: watch::Receiver<Vec<SocketAddr>>,
    cancel: CancellationToken,
) -> Result<(), AgentError> {
    let mut retries = RETRIES.build();
    loop {
        let current = Arc::clone(&identity.borrow());
        let wait = match until_half_life(&current) {
            Some(wait) => wait.min(LOOK_AGAIN),
            None => {
                let addresses = controllers
                    .borrow()
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                match renew(&current, addresses, &state).await {
                    Ok(renewed) => {
                        info!("the host has a new certificate");
                        identity.send_replace(Arc::new(renewed));
                        retries = RETRIES.build();
                        Duration::ZERO
                    }
                    Err(error) => {
                        warn!(error = %with_causes(&error), "the host's certificate cannot be renewed; it is tried again");
                        retries.next().unwrap_or(LOOK_AGAIN)
                    }
                }
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = sleep(wait) => {}
        }
    }
}

/// None when it is time. A certificate that has expired cannot renew itself: then it is no use
/// to ask, and the host has to be enrolled again.
fn until_half_life(identity: &HostIdentity) -> Option<Duration> {
    let now = SystemTime::now();
    match identity.validity() {
        Ok(validity) if validity.is_over(now) => Some(LOOK_AGAIN),
        Ok(validity) => validity
            .half_life()
            .duration_since(now)
            .ok()
            .filter(|wait| !wait.is_zero()),
        Err(_) => Some(LOOK_AGAIN),
    }
}

async fn renew(
    identity: &HostIdentity,
    addresses: Vec<String>,
    state: &StateDir,
) -> Result<HostIdentity, RenewError> {
    let HostIdentity {
        host_name,
        ca_pem,
        certificate_chain_pem,
        key_pem,
    } = identity;
    let channel =
        proto::client::channel(&addresses, ca_pem, certificate_chain_pem, key_pem).await?;
    let request = KeyRequest::generate()?;
    let mut call = Request::new(RenewRequest {
        csr_pem: request.csr_pem,
    });
    call.set_timeout(PATIENCE);
    let answer = proto::client::agents(channel).renew(call).await;
    let answer = answer.map_err(|status| RenewError::Refused(Box::new(status)))?;
    let renewed = HostIdentity {
        host_name: host_name.clone(),
        ca_pem: ca_pem.clone(),
        certificate_chain_pem: answer.into_inner().certificate_chain_pem,
        key_pem: request.key_pem,
    };
    renewed.validity()?;
    renewed.save(state)?;
    Ok(renewed)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use tokio::time::timeout;

    use super::*;
    use crate::{
        state::identity::tests::self_signed,
        testing::{LONG, TestController},
    };

    #[tokio::test]
    async fn a_certificate_past_its_half_life_is_renewed_with_a_new_key_and_kept() {
        let controller = TestController::start(1).await;
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDir::open(directory.path()).unwrap());
        let old = controller.ca.host();
        assert!(
            until_half_life(&old).is_some(),
            "rcgen's default life is 1975 to 4096"
        );
        assert_eq!(
            until_half_life(&self_signed()),
            None,
            "its half-life is now"
        );

        let addresses = vec![controller.address.to_string()];
        let renewed = renew(&old, addresses, &state).await.unwrap();
        assert_ne!(renewed.key_pem, old.key_pem);
        assert_ne!(renewed.certificate_chain_pem, old.certificate_chain_pem);
        assert_eq!(HostIdentity::load(&state).unwrap(), Some(renewed));
    }

    #[tokio::test]
    async fn a_renewal_that_fails_leaves_the_old_certificate_in_use() {
        let controller = TestController::start(0).await;
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDir::open(directory.path()).unwrap());
        let old = controller.ca.host();
        let addresses = vec![controller.address.to_string()];
        let error = renew(&old, addresses, &state).await.unwrap_err();
        assert!(with_causes(&error).contains("no more"), "{error}");
        assert_eq!(HostIdentity::load(&state).unwrap(), None);

        let cancel = CancellationToken::new();
        let identity = watch::Sender::new(Arc::new(old.clone()));
        let task = run(
            state,
            identity.clone(),
            watch::Sender::new(vec![]).subscribe(),
            cancel.clone(),
        );
        cancel.cancel();
        timeout(LONG, task).await.unwrap().unwrap();
        assert_eq!(**identity.borrow(), old);
    }
}
