//! What the service manager is told. Without one, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{enforcement::Enforcement, error::AgentError};

/// Enforcement has started.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// The agent is about to end; enforcement is not.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    tell(NotifyState::Status(line));
}

/// The start takes longer, for good reason.
pub fn still_starting(another: Duration) {
    tell(NotifyState::ExtendTimeoutUsec(
        u32::try_from(another.as_micros()).unwrap_or(u32::MAX),
    ));
}

/// Shows the service manager, as often as it wants, that the enforcement task works.
///
/// # Errors
/// When the enforcement task has ended.
pub async fn watchdog(
    enforcement: Enforcement,
    cancel: CancellationToken,
) -> Result<(), AgentError> {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        cancel.cancelled().await;
        return Ok(());
    };
    let mut beat = interval((limit / 3).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = beat.tick() => {}
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            alive = enforcement.ping() => match alive {
                Ok(()) => tell(NotifyState::Watchdog),
                Err(_) => return Err(AgentError::TaskEnded("enforcement")),
            },
        }
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        debug!(%error, "the service manager does not listen");
    }
}
