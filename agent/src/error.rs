//! What ends the agent, and the exit code that it ends with.

use std::{error::Error, process::ExitCode};

use crate::{config::ConfigError, enforcer::EnforceError, enrol::EnrolError, state::StateError};

/// What ends the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Enrolment.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The kernel.
    #[error(transparent)]
    Enforce(#[from] EnforceError),
    /// The process may not do what it is for.
    #[error(
        "{0} missing: run bulkhead-agent as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    )]
    Privileges(String),
    /// The process's privileges, threads or signals.
    #[error("cannot {action}")]
    Process {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// There are no rules to show.
    #[error("{0}")]
    NoRules(&'static str),
    /// A task has ended that should run as long as the agent.
    #[error("the task `{0}` has ended; this is a bug, please report it with the log")]
    TaskEnded(&'static str),
    /// A second signal came before the agent had stopped.
    #[error("stopped at once by a second signal; what the kernel enforces stays")]
    Impatient,
}

impl AgentError {
    /// The exit code by the convention of sysexits.h: 69 unavailable, 70 a bug, 78 configuration.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) | Self::State(_) => 78,
            Self::Enrol(error) => error.exit_code(),
            Self::Enforce(error) => error.exit_code(),
            Self::Privileges(_) | Self::NoRules(_) => 69,
            Self::Process { .. } | Self::TaskEnded(_) => 70,
            // What a shell says of a process that Ctrl-C has ended.
            Self::Impatient => 130,
        })
    }
}

/// An error and what caused it, in one line.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
