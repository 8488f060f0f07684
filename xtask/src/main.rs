//! Everything that is done to this repository: `cargo xtask --help`.

#![forbid(unsafe_code)]

mod bench;
mod booted;
mod check;
mod command;
mod fuzz;
mod kernels;
mod setup;

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use crate::setup::Purpose;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Everything that is done to this repository"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building, running, testing and checking need
    Setup,
    /// Build every program
    Build {
        /// Optimised: bulkhead, bulkhead-agent and bulkhead-controller in target/release
        #[arg(long)]
        release: bool,
    },
    /// Set up, build, and run a controller and three hosts on this machine (as root)
    Demo {
        /// For the demo itself: `--once` leaves after the tour, `--help` lists the rest
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Set up, build, and run every test (as root)
    Test {
        /// `kernels [VERSION]...`: what depends on the kernel, on each that is tested. `booted [SUITE]...`:
        /// the handbook's installation, on booted Debian systems. Otherwise for the test programs: names to
        /// filter by, `--nocapture`, ...
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Fuzz the policy parser, the compiler and the verdict from the committed corpus
    Fuzz(fuzz::Fuzz),
    /// Build optimised and measure how fast it is: medians of several rounds
    Bench {
        /// What to measure
        #[arg(default_value = "policy")]
        subject: bench::Subject,
        /// A JSON object a line: bench, name, value, unit, rounds
        #[arg(long)]
        json: bool,
    },
    /// Formatting, clippy, dependency direction, house rules, licences
    Check,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Setup => setup::ensure(Purpose::Everything),
        Verb::Build { release } => build(release),
        Verb::Demo { arguments } => demo(&arguments),
        Verb::Test { arguments } => test(&arguments),
        Verb::Fuzz(fuzz) => setup::ensure(Purpose::Build).and_then(|()| fuzz.run()),
        Verb::Bench { subject, json } => bench::run(subject, json),
        Verb::Check => check::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build(release: bool) -> Result<()> {
    setup::ensure(Purpose::Build)?;
    if release {
        let programs = ["bulkhead-cli", "bulkhead-agent", "bulkhead-controller"];
        let selection = programs
            .into_iter()
            .flat_map(|package| ["--package", package]);
        command::run(cargo().arg("build").arg("--release").args(selection))
    } else {
        command::run(cargo().arg("build"))
    }
}

fn demo(arguments: &[OsString]) -> Result<()> {
    require_root("demo")?;
    setup::ensure(Purpose::Demo)?;
    command::run(cargo().arg("build"))?;
    // This program and the demo are built into the same directory.
    let demo = std::env::current_exe()
        .context("finding target/debug")?
        .with_file_name("demo");
    // The demo takes this process's place, so that a signal reaches it and nothing else.
    let error = Command::new(&demo).args(arguments).exec();
    Err(error).with_context(|| format!("running {}", demo.display()))
}

fn test(arguments: &[OsString]) -> Result<()> {
    require_root("test")?;
    setup::ensure(Purpose::Test)?;
    // The end to end tests run the programs, which `cargo test` alone does not build.
    command::run(cargo().arg("build"))?;
    if let [first, versions @ ..] = arguments
        && first == kernels::TEST
    {
        return kernels::run_on(versions);
    }
    if let [first, suites @ ..] = arguments
        && first == booted::TEST
    {
        return booted::run_on(suites);
    }
    command::run(
        cargo()
            .arg("test")
            .arg("--no-fail-fast")
            .arg("--")
            .args(arguments),
    )?;
    // With names to filter by, only those are asked for.
    if arguments.is_empty() {
        fuzz::Fuzz::in_tests().run()?;
        kernels::run_on_all_debians()?;
        booted::run_on(&[])?;
    }
    Ok(())
}

fn require_root(verb: &str) -> Result<()> {
    if setup::is_root()? {
        return Ok(());
    }
    bail!(
        "`{verb}` needs root to make network namespaces and load kernel programs: run it as root, \
         for example with `sudo -E env \"PATH=$PATH\" cargo xtask {verb}`"
    )
}

/// The cargo that runs this program, in the workspace's root.
fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The workspace's root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
