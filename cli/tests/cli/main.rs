//! The real binary, from the command line to its exit code.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod applying;
mod controller;
mod credentials;
mod evaluating;
mod explaining;
mod importing;
mod offline;
mod online;
mod reaching;
mod run;
mod warning;
mod watching;
