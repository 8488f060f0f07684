//! Why a stream ends.

use std::time::Duration;

use proto::client::ChannelError;
use tonic::Status;

use crate::{enforcement::Gone, enrol::EnrolError};

/// How long the controller may take to open the stream.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no stream, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No connection.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The controller ended the stream with a reason.
    #[error("the controller says: {} ({})", .0.message(), .0.code().description())]
    Status(Box<Status>),
    /// The controller ended the stream without one.
    #[error("the controller ended the stream")]
    Ended,
    /// The controller accepted the connection and then said nothing.
    #[error("the controller did not open the stream within {} s", PATIENCE.as_secs())]
    Silent,
    /// The controller did not answer an ack: with the new policy in force it may be out of reach.
    #[error("the controller did not answer with the new policy in force")]
    Unheard,
    /// The address that the connection comes from is no longer this host's.
    #[error(
        "this host has lost the address that its connection to the controller came from: it connects anew"
    )]
    Renumbered,
    /// This host's certificate is too old to show.
    #[error("the host's certificate has expired; give it a new token (`bulkhead token create`)")]
    Expired(#[source] EnrolError),
    /// The process is about to end.
    #[error(transparent)]
    EnforcementGone(#[from] Gone),
}
