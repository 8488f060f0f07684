//! `bulkhead-agent`: policy in, kernel maps out, denials back.

mod app;
mod capabilities;
mod cli;
mod clock;
mod config;
mod control;
mod denial;
mod denial_reader;
mod denials;
mod enforcement;
mod enforcer;
mod enrol;
mod error;
mod exceptions;
mod fail;
mod interfaces;
mod kernel;
mod local_tiers;
mod lower;
mod plan;
mod renewal;
mod rule_book;
mod spool;
mod state;
mod status;
mod systemd;
#[cfg(test)]
mod testing;

use std::process::ExitCode;

use crate::error::with_causes;

fn main() -> ExitCode {
    cli::main().unwrap_or_else(|error| {
        eprintln!("bulkhead-agent: {}", with_causes(&error));
        error.exit_code()
    })
}
