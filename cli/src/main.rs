//! bulkhead: the operator's tool.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod exit;
mod files;
mod operator;
mod output;
mod rollout;
mod standing;
mod time;

use std::{panic, process::ExitCode};

use clap::Parser;

fn main() -> ExitCode {
    // A panic is a bug, and has told so itself.
    panic::catch_unwind(|| match args::Cli::try_parse() {
        Ok(cli) => exit::code(commands::run(&cli)),
        Err(error) => exit::usage(&error),
    })
    .unwrap_or(exit::BUG.into())
}
