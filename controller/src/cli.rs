//! The command line.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand};
use tokio::sync::Notify;
use tracing_subscriber::EnvFilter;

use crate::{
    app::{App, DEFAULT_GRACE, DEFAULT_KEEP_DENIALS, ServeOptions},
    init::{InitOptions, init, next_steps},
    signals::Signals,
};

/// Exit codes, after sysexits.h.
const BAD_USAGE: u8 = 64;
const BUG: u8 = 70;
const BAD_CONFIGURATION: u8 = 78;

/// The Bulkhead controller: host identities, certificates, policy, denials.
#[derive(Debug, Parser)]
#[command(name = "bulkhead-controller", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(Init),
    Serve(Serve),
}

/// Make the certificate authority, the store and the first operator.
///
/// Writes to the data directory: ca.pem and ca.key (the certificate authority), controller.pem and
/// controller.key (the controller's certificate, with the authority's behind it), addresses (where
/// agents find the controller), bulkhead.db (the store) and operator-NAME.toml (all that the `bulkhead` command needs: give it to the operator).
/// A directory that has a certificate authority is refused and left as it is.
#[derive(Debug, Args)]
struct Init {
    /// Where to write; made if it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where agents and operators find the controller, as they dial it; repeat it for each. Without it only
    /// this machine can reach the controller, at 127.0.0.1:7443
    #[arg(long = "address", value_name = "HOST:PORT")]
    addresses: Vec<String>,
    /// The first operator's name
    #[arg(long, value_name = "NAME", default_value = "admin")]
    operator: String,
}

/// Serve agents and operators until SIGTERM or Ctrl-C; a second one ends it at once.
///
/// SIGHUP reads the file `addresses` of the data directory again and tells the agents. SIGUSR1 and
/// SIGUSR2 do nothing but a line in the log.
#[derive(Debug, Args)]
struct Serve {
    /// What `init` made
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:7443")]
    listen: SocketAddr,
    /// The store [default: sqlite:DIR/bulkhead.db]
    #[arg(long, value_name = "sqlite:PATH", value_parser = store_path)]
    store: Option<PathBuf>,
    /// How many denials to keep; the oldest beyond it are given up
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = DEFAULT_KEEP_DENIALS,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    keep_denials: u64,
}

fn store_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("sqlite:") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Err("write sqlite:PATH".into()),
    }
}

/// The whole program: reads the command line, runs, says what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed terminal is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() {
                BAD_USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("BULKHEAD_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(BUG, &error.into()),
    };
    let code = runtime.block_on(run(cli.command));
    // Nothing is left to wait for, least of all after a second Ctrl-C.
    runtime.shutdown_background();
    code
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Init(Init {
            data_dir,
            addresses,
            operator,
        }) => {
            let options = InitOptions {
                data_dir,
                addresses,
                operator,
            };
            match init(&options).await {
                Ok(file) => {
                    println!("{}", file.display());
                    eprint!("\n{}", next_steps(&options, &file));
                    ExitCode::SUCCESS
                }
                Err(error) => failed(BAD_CONFIGURATION, &error),
            }
        }
        Command::Serve(Serve {
            data_dir,
            listen,
            store,
            keep_denials,
        }) => {
            let options = ServeOptions {
                data_dir,
                listen,
                store,
                keep_denials,
                grace: DEFAULT_GRACE,
            };
            match serve(options).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(Failure::Start(error)) => failed(BAD_CONFIGURATION, &error),
                Err(Failure::Run(error)) => failed(BUG, &error),
            }
        }
    }
}

enum Failure {
    Start(anyhow::Error),
    Run(anyhow::Error),
}

async fn serve(options: ServeOptions) -> Result<(), Failure> {
    // First, so that a signal during the start also ends it in good order.
    let reload = Arc::new(Notify::new());
    let mut signals = Signals::new(Arc::clone(&reload)).map_err(Failure::Start)?;
    let app = App::start(options, reload).await.map_err(Failure::Start)?;
    let stop = app.stop();
    let mut app = std::pin::pin!(app.run());
    tokio::select! {
        outcome = &mut app => return outcome.map_err(Failure::Run),
        () = signals.next() => {}
    }
    tracing::info!("stopping; once more ends it at once");
    stop.cancel();
    tokio::select! {
        outcome = app => outcome.map_err(Failure::Run),
        () = signals.next() => Err(Failure::Run(anyhow!("ended at once by a second signal"))),
    }
}

fn failed(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("bulkhead-controller: {error:#}");
    code.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_store_is_named_with_its_kind() {
        assert_eq!(
            store_path("sqlite:/var/lib/b.db"),
            Ok("/var/lib/b.db".into())
        );
        for wrong in ["/var/lib/b.db", "sqlite:", "postgres://db"] {
            assert_eq!(
                store_path(wrong),
                Err("write sqlite:PATH".into()),
                "{wrong}"
            );
        }
    }
}
