//! How the tool ends: what went wrong in words, and the exit code that stands for it.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use clap::error::ErrorKind;

use crate::output::printable;

/// The exit code of what should not happen.
pub const BUG: u8 = 70;
/// Asked for, and not done: a guard, a permission, a name that there is not. EX_NOPERM of sysexits.h.
const REFUSED: u8 = 77;
/// What a shell makes of a command that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// What a command that ran to its end found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well: exit 0.
    Fine,
    /// The command did its work, and the answer is no: exit 1.
    No,
    /// The controller refuses it until the command says that it is meant: exit 77.
    Refused,
    /// The operator stopped waiting, with Ctrl-C; the change is made: exit 130.
    Interrupted,
}

impl Outcome {
    /// `Fine` if it holds, `No` if not.
    pub fn fine_if(condition: bool) -> Self {
        if condition { Self::Fine } else { Self::No }
    }
}

/// Why a command could not run to its end. Any other error is a bug, or a machine in trouble.
#[derive(Debug)]
pub struct Failure {
    class: Class,
    text: String,
}

#[derive(Clone, Copy, Debug)]
enum Class {
    Mistakes,
    Refused,
    Usage,
    Unreachable,
}

impl Failure {
    /// What the user gave has mistakes: exit 1, as of any check that finds something.
    pub fn mistakes(text: impl Into<String>) -> Self {
        Self {
            class: Class::Mistakes,
            text: text.into(),
        }
    }

    /// The controller, or this tool, does not do it as asked: exit 77.
    pub fn refused(text: impl Into<String>) -> Self {
        Self {
            class: Class::Refused,
            text: text.into(),
        }
    }

    /// What the user gave cannot be used: exit 64.
    pub fn usage(text: impl Into<String>) -> Self {
        Self {
            class: Class::Usage,
            text: text.into(),
        }
    }

    /// No controller answers: exit 69.
    pub fn unreachable(text: impl Into<String>) -> Self {
        Self {
            class: Class::Unreachable,
            text: text.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// Prints the error, if any, and says how the process ends.
pub fn code(result: anyhow::Result<Outcome>) -> ExitCode {
    let error = match result {
        Ok(Outcome::Fine) => return ExitCode::SUCCESS,
        Ok(Outcome::No) => return ExitCode::from(1),
        Ok(Outcome::Refused) => return ExitCode::from(REFUSED),
        Ok(Outcome::Interrupted) => return ExitCode::from(INTERRUPTED),
        Err(error) => error,
    };
    if error.chain().any(is_broken_pipe) {
        // The reader has seen enough, as in `bulkhead denials | head`.
        return ExitCode::SUCCESS;
    }
    // Nothing is left to tell when stderr is gone too.
    let _ = writeln!(
        io::stderr(),
        "bulkhead: {}",
        printable(&format!("{error:#}"))
    );
    ExitCode::from(
        match error.downcast_ref::<Failure>().map(|failure| failure.class) {
            Some(Class::Mistakes) => 1,
            Some(Class::Refused) => REFUSED,
            Some(Class::Usage) => 64,
            Some(Class::Unreachable) => 69,
            None => BUG,
        },
    )
}

/// Prints clap's answer: help and version are fine, anything else is bad usage.
pub fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(64),
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.kind() == io::ErrorKind::BrokenPipe;
    }
    error
        .downcast_ref::<serde_json::Error>()
        .is_some_and(|error| error.io_error_kind() == Some(io::ErrorKind::BrokenPipe))
}
