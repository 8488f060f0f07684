//! Why a call is refused, and the gRPC code of each reason.

use tonic::Status;

use crate::store::StoreError;

/// A refusal, in words for whoever called.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// Somebody has it.
    #[error("{0}")]
    Taken(String),
    /// The caller may not.
    #[error("{0}")]
    Refused(String),
    /// A guard asks whether it is meant.
    #[error("{0}")]
    Guarded(String),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something here failed that must not.
    #[error("{0}")]
    Bug(String),
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(text) => Self::invalid_argument(text),
            Error::NotFound(text) => Self::not_found(text),
            Error::Taken(text) => Self::already_exists(text),
            Error::Refused(text) => Self::permission_denied(text),
            Error::Guarded(text) => Self::failed_precondition(text),
            Error::Store(error @ StoreError::Full) => Self::resource_exhausted(error.to_string()),
            Error::Store(error) => {
                tracing::error!(error = %causes(&error), "the store failed");
                Self::unavailable(error.to_string())
            }
            Error::Bug(text) => {
                tracing::error!("{text}");
                Self::internal(text)
            }
        }
    }
}

/// An error and what caused it, in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
