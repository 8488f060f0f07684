//! The command line.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::{
    app::{self, Preflight},
    capabilities,
    config::Config,
    control::detached,
    enforcer::Enforcer,
    enrol,
    error::{AgentError, with_causes},
    flows::FlowList,
    rules::RuleList,
    state::{StateDir, controllers::Controllers, identity::HostIdentity},
    status::Status,
};

/// Bad usage, by the convention of sysexits.h.
const EX_USAGE: u8 = 64;

/// Enforces this host's part of the network policy in its kernel.
#[derive(Debug, Parser)]
#[command(name = "bulkhead-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enforce, until stopped; what the kernel enforces stays after that
    Run(ConfigFile),
    /// Get this host's certificate with a token, and do no more
    Enroll {
        #[command(flatten)]
        config: ConfigFile,
        /// The file that holds the token, in place of the configured one
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// End enforcement: take the programs off the interfaces and remove their maps
    Detach(ConfigFile),
    /// Show what this host enforces; exit 1 when that is nothing
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// How to show it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// List the connections that the kernel remembers, with what passed of each
    Flows {
        #[command(flatten)]
        config: ConfigFile,
        /// Those past their timeouts too, whose room is free for others
        #[arg(long)]
        all: bool,
        /// How to show them
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// List the rules that this host enforces, its own included, with what each has decided
    Rules {
        #[command(flatten)]
        config: ConfigFile,
        /// How to show them
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(
        long = "config",
        value_name = "FILE",
        default_value = "/etc/bulkhead/agent.toml"
    )]
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

/// Does what the command line asks for.
///
/// # Errors
/// What kept it from being done; the error knows its exit code.
pub fn main() -> Result<ExitCode, AgentError> {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(help) => {
            // Help goes to stdout and is no error; a closed terminal is nobody's problem.
            let _ = help.print();
            return Ok(if help.use_stderr() {
                EX_USAGE.into()
            } else {
                ExitCode::SUCCESS
            });
        }
    };
    match arguments.command {
        Command::Run(config) => run(config.path),
        Command::Enroll { config, token_file } => enroll(config, token_file),
        Command::Detach(config) => detach(config),
        Command::Status { config, output } => status(config, output),
        Command::Flows {
            config,
            all,
            output,
        } => flows(config, all, output),
        Command::Rules { config, output } => rules(config, output),
    }
}

fn run(path: PathBuf) -> Result<ExitCode, AgentError> {
    log_from("info");
    let config = Config::load(&path)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %serde_json::to_string(&config).unwrap_or_default(),
        "starting"
    );
    capabilities::require()?;
    // In this order: a token may belong to a user whose files only a capability opens.
    let preflight = Preflight::check(config, path)?;
    capabilities::drop_unneeded()
        .map_err(|error| process_error("drop capabilities")(error.into()))?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(app::run(preflight));
    // A call into the kernel that hangs must not keep the process.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

fn enroll(config: ConfigFile, token_file: Option<PathBuf>) -> Result<ExitCode, AgentError> {
    log_from("warn");
    let config = Config::load(&config.path)?;
    let token = enrol::read_token(token_file.or(config.token_file).as_deref())?;
    let state = StateDir::open(&config.state_dir)?;
    let mut controllers = Controllers::load(&config.controllers, &state);
    let identity = runtime()?.block_on(async {
        controllers.read_resolvers();
        controllers.resolve().await;
        enrol::enrol(&controllers.addresses(), &token, &config.host_name).await
    })?;
    identity.save(&state)?;
    controllers.save(&state)?;
    let expires = identity
        .validity()
        .ok()
        .map(|validity| Timestamp::try_from(validity.not_after));
    match expires {
        Some(Ok(time)) => say(format_args!(
            "enrolled as {}; certificate good until {time:.0}",
            identity.host_name
        )),
        _ => say(format_args!("enrolled as {}", identity.host_name)),
    }
    Ok(ExitCode::SUCCESS)
}

fn detach(config: ConfigFile) -> Result<ExitCode, AgentError> {
    log_from("warn");
    let config = Config::load(&config.path)?;
    capabilities::require()?;
    // A running agent would attach again in a moment; the lock is held until all is removed.
    let _lock = config
        .state_dir
        .exists()
        .then(|| StateDir::open(&config.state_dir))
        .transpose()?;
    match Enforcer::detach(&config.pin_dir())? {
        None => say(format_args!(
            "nothing was pinned; nothing is enforced on this host"
        )),
        Some(interfaces) => {
            for interface in interfaces {
                say(format_args!("detached from {interface}"));
            }
            say(format_args!("nothing is enforced on this host any more"));
            tell_detached(&config)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the controller show the host as detached, if it has a certificate to say so with.
fn tell_detached(config: &Config) -> Result<(), AgentError> {
    let state = StateDir::peek(&config.state_dir);
    let Ok(Some(identity)) = HostIdentity::load(&state) else {
        return Ok(());
    };
    match runtime()?.block_on(detached::tell(config, &state, &identity)) {
        Ok(()) => say(format_args!("the controller is told")),
        Err(error) => say(format_args!(
            "the controller cannot be told ({}): `bulkhead hosts` shows this host as away",
            with_causes(&error)
        )),
    }
    Ok(())
}

fn status(config: ConfigFile, output: Output) -> Result<ExitCode, AgentError> {
    log_from("warn");
    let config = Config::load(&config.path)?;
    let status = Status::look(&config)?;
    match output {
        Output::Table => say(format_args!("{}", status.to_string().trim_end())),
        Output::Json => {
            say(format_args!(
                "{}",
                serde_json::to_string(&status).unwrap_or_default()
            ));
        }
    }
    Ok(if status.is_enforcing() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn flows(config: ConfigFile, all: bool, output: Output) -> Result<ExitCode, AgentError> {
    log_from("warn");
    let config = Config::load(&config.path)?;
    let flows = FlowList::look(&config, all)?;
    list(&flows, flows.lines(), output);
    Ok(ExitCode::SUCCESS)
}

fn rules(config_file: ConfigFile, output: Output) -> Result<ExitCode, AgentError> {
    log_from("warn");
    let config = Config::load(&config_file.path)?;
    let rules = RuleList::look(&config, &config_file.path)?;
    list(&rules, rules.lines(), output);
    Ok(ExitCode::SUCCESS)
}

/// A table, or an object a line.
fn list<L: Serialize>(table: &impl Display, lines: impl Iterator<Item = L>, output: Output) {
    match output {
        Output::Table => say(format_args!("{}", table.to_string().trim_end())),
        Output::Json => {
            for line in lines {
                let line = serde_json::to_string(&line).unwrap_or_default();
                say(format_args!("{line}"));
            }
        }
    }
}

/// Writes a line to stdout. Whoever closes it has heard enough.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn runtime() -> Result<Runtime, AgentError> {
    // Two workers: one may wait for the kernel or the disk while the other keeps the stream alive.
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(process_error("start threads"))
}

fn process_error(action: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::Process { action, source }
}

/// Logs to stderr what is at least this important; `RUST_LOG` overrides it.
fn log_from(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}
