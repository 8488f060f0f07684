//! `cargo xtask fuzz`: libFuzzer on the targets of `fuzz/`, from the committed corpus, for a bounded time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{cargo, command, root};

/// Seconds for each target as a part of `cargo xtask test`.
const IN_TESTS: u64 = 15;

/// Instruments what is compiled as libFuzzer expects it; what `cargo fuzz` passes, without a sanitizer: the
/// code is safe Rust, so what can break is an assertion.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// A target, and the longest input that it makes use of.
struct Target {
    name: &'static str,
    max_len: usize,
}

const TARGETS: [Target; 3] = [
    Target {
        name: "parse",
        max_len: 8_192,
    },
    Target {
        name: "compile",
        max_len: 32,
    },
    Target {
        name: "decide",
        max_len: 1_024,
    },
];

#[derive(Args)]
pub struct Fuzz {
    /// Only this target: parse, compile or decide
    #[arg(value_parser = TARGETS.map(|target| target.name))]
    target: Option<String>,
    /// For how long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Repeats a run: the seed that it printed
    #[arg(long)]
    seed: Option<u32>,
}

impl Fuzz {
    /// As a part of every test run.
    pub const fn in_tests() -> Self {
        Self {
            target: None,
            seconds: IN_TESTS,
            seed: None,
        }
    }

    /// Builds the targets and runs them; what breaks one is kept in `target/fuzz/broken`.
    ///
    /// # Errors
    /// A target does not build, or an input breaks it.
    pub fn run(&self) -> Result<()> {
        let programs = build()?;
        let seed = self.seed.unwrap_or_else(seed_of_now);
        let chosen = |target: &&Target| self.target.as_deref().is_none_or(|it| it == target.name);
        for target in TARGETS.iter().filter(chosen) {
            run_target(target, &programs, self.seconds, seed)?;
        }
        Ok(())
    }
}

/// The folder of the programs.
fn build() -> Result<PathBuf> {
    // With the platform named, build scripts and procedural macros are not instrumented.
    let platform = platform()?;
    let folder = target_folder();
    command::run(
        cargo()
            .current_dir(root().join("fuzz"))
            .args(["build", "--release", "--target", &platform])
            .env("CARGO_TARGET_DIR", &folder)
            .env("RUSTFLAGS", INSTRUMENTATION),
    )?;
    Ok(folder.join(platform).join("release"))
}

fn run_target(target: &Target, programs: &Path, seconds: u64, seed: u32) -> Result<()> {
    let Target { name, max_len } = target;
    // What it finds goes into the first corpus; the committed one is only read.
    let found = target_folder().join("corpus").join(name);
    let broken = target_folder().join("broken");
    for folder in [&found, &broken] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    eprintln!("fuzzing {name} for {seconds} s, seed {seed}");
    command::run(
        Command::new(programs.join(name))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-seed={seed}"))
            .arg(format!("-max_len={max_len}"))
            .args(["-rss_limit_mb=2048", "-timeout=20", "-verbosity=0"])
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/{name}-", broken.display()))
            .arg(&found)
            .arg(root().join("fuzz/corpus").join(name)),
    )
    .with_context(|| {
        format!(
            "fuzzing {name}: the input that broke it is in {}; \
             mend the cause and add it to fuzz/corpus/{name}",
            broken.display()
        )
    })
}

fn target_folder() -> PathBuf {
    root().join("target/fuzz")
}

/// The platform that this compiler builds for by itself.
fn platform() -> Result<String> {
    let version = command::output(Command::new("rustc").arg("-vV").current_dir(root()))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// Another one for every run; never 0, which libFuzzer takes for "none".
fn seed_of_now() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |since| since.subsec_nanos().max(1))
}
