//! The demo: a tour of Bulkhead on this machine, with real hosts, agents, connections and denials.
//!
//! `cargo xtask demo` builds what it needs and runs it.

#![forbid(unsafe_code)]

mod interrupt;
mod screen;
mod tour;

use std::process::ExitCode;

use clap::Parser;

/// A tour of Bulkhead on this machine: three hosts in network namespaces, a controller, a policy,
/// and what becomes of connections.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Leave after the tour: exit code 0 only if every row was as expected
    #[arg(long)]
    once: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    exit_code(tour::run(arguments.once))
}

/// 0 only for a tour to its end on which everything was as expected.
fn exit_code(tour: anyhow::Result<bool>) -> ExitCode {
    match tour {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<interrupt::Interrupted>() => ExitCode::from(130),
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
