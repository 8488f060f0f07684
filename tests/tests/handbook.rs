//! Every command that the README and the handbook show is run by a test, on the system that it is meant for. Each block of
//! commands says where: "```sh WHERE".
//!
//! | WHERE | is run by |
//! |---|---|
//! | `offline` | this file, in a directory with the files that the pages speak of |
//! | `fleet` | this file, by an operator in a laboratory with three hosts |
//! | `controller`, `operator`, `host` | `cargo xtask test booted`, on Debian systems that boot |
//! | `elsewhere` | nobody: the list below says why |

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use lab::{HostSpec, Lab, Operator, Programs};

/// The test of booted systems reads pages the same way.
#[path = "../../xtask/src/booted/page.rs"]
mod page;

use page::{Block, is_shown};

/// Pages whose commands the booted systems type, all of them: see `xtask/src/booted/scenario.rs`.
const BOOTED: [&str; 2] = ["docs/install-systemd.md", "docs/troubleshooting.md"];

/// Blocks are read as the language that they name, or they are output.
const NO_COMMANDS: [&str; 3] = ["yaml", "toml", "text"];

/// What no test runs: the page, how a command begins, and why not.
const ELSEWHERE: [(&str, &str, &str); 23] = [
    (
        "README.md",
        "cargo xtask",
        "a test of its own runs the demo, and `test` runs this",
    ),
    (
        "README.md",
        "scp ",
        "the test of the five minutes puts the agent on the host itself",
    ),
    (
        "docs/install-systemd.md",
        "cargo xtask build --release",
        "it takes a quarter of an hour; the tests run what `cargo build` makes",
    ),
    (
        "docs/building.md",
        "sudo apt-get install build-essential curl",
        "it changes the machine; without it nothing of this runs",
    ),
    (
        "docs/building.md",
        "cargo xtask setup",
        "`cargo xtask test` begins with it",
    ),
    (
        "docs/building.md",
        "cargo xtask build",
        "`cargo xtask test` builds the same, unless optimised",
    ),
    (
        "docs/building.md",
        "export RUSTC_BOOTSTRAP=1",
        "the agent's build script does the same",
    ),
    (
        "docs/building.md",
        "export CARGO_ENCODED_RUSTFLAGS=",
        "the agent's build script does the same",
    ),
    (
        "docs/building.md",
        "cargo build --package bulkhead-agent-ebpf",
        "the agent's build script does the same",
    ),
    (
        "docs/benchmarks.md",
        "cargo xtask bench policy",
        "a benchmark is no test",
    ),
    (
        "docs/benchmarks/startup.md",
        "cargo xtask bench startup",
        "a benchmark is no test",
    ),
    ("docs/import.md", "kubectl get", "it needs a cluster"),
    ("docs/import.md", "aws ec2", "it needs an account"),
    (
        "docs/install-kubernetes.md",
        "docker build",
        "it needs Docker and images from a registry",
    ),
    (
        "docs/install-kubernetes.md",
        "kubectl label",
        "it needs a cluster",
    ),
    (
        "docs/install-kubernetes.md",
        "kubectl apply",
        "it needs a cluster",
    ),
    (
        "docs/install-kubernetes.md",
        "kubectl -n bulkhead",
        "it needs a cluster",
    ),
    (
        "docs/install-kubernetes.md",
        "(umask 077; kubectl",
        "it needs a cluster",
    ),
    (
        "docs/install-kubernetes.md",
        "export BULKHEAD_OPERATOR=",
        "it needs the cluster's controller",
    ),
    (
        "docs/install-kubernetes.md",
        "bulkhead ",
        "it needs the cluster's controller",
    ),
    (
        "docs/install-kubernetes.md",
        "tokens=",
        "it needs the cluster's controller",
    ),
    (
        "docs/install-kubernetes.md",
        "for node in",
        "it needs the cluster's controller",
    ),
    (
        "docs/install-kubernetes.md",
        "rm -r \"$tokens\"",
        "it needs the cluster's controller",
    ),
];

#[test]
fn every_command_of_the_handbook_is_run_by_a_test() -> Result<()> {
    let mut strays = Vec::new();
    let mut used = BTreeSet::new();
    for page in pages()? {
        let text = fs::read_to_string(root().join(&page))?;
        let mut opening = true;
        for line in text.lines().filter(|line| line.starts_with("```")) {
            let info = line.trim_start_matches('`');
            let is_known = NO_COMMANDS.contains(&info) || info.starts_with("sh ");
            if opening && !is_known {
                strays.push(format!("{page}: a block begins with {line:?}, which says neither where its commands are typed nor that it has none"));
            }
            opening = !opening;
        }
        for Block {
            system, commands, ..
        } in page::read(&root().join(&page))?
        {
            for command in commands.iter().map(|step| step.command.as_str()) {
                let is_run = match system.as_str() {
                    "offline" | "fleet" => true,
                    // `promises/the_readmes_five_minutes.rs` types what the README has for these.
                    "controller" | "web-1" if page == "README.md" => true,
                    "controller" | "operator" | "host" => BOOTED.contains(&page.as_str()),
                    "elsewhere" => {
                        let listed = ELSEWHERE.iter().position(|(of, beginning, _)| {
                            *of == page && command.starts_with(beginning)
                        });
                        used.extend(listed);
                        listed.is_some()
                    }
                    _ => false,
                };
                if !is_run {
                    strays.push(format!("{page}: no test runs `{command}` ({system})"));
                }
            }
        }
    }
    strays.extend(
        (0..ELSEWHERE.len())
            .filter(|number| !used.contains(number))
            .map(|number| format!("no longer on a page: {:?}", ELSEWHERE[number])),
    );
    ensure!(strays.is_empty(), "{}", strays.join("\n"));
    Ok(())
}

#[test]
fn offline_commands_do_and_print_what_the_handbook_says() -> Result<()> {
    let mut run = 0;
    for page in pages()? {
        let mut directory = tempfile::tempdir()?;
        let mut heading = "";
        let blocks = blocks(&page, "offline")?;
        for (number, block) in blocks.iter().enumerate() {
            // Later blocks below a heading use what earlier ones have made.
            if block.heading != heading {
                heading = &block.heading;
                directory = tempfile::tempdir()?;
                files_of_the_pages(directory.path())?;
            }
            run += type_block(&page, number, block, |line| {
                let mut command = Command::new("bash");
                command
                    .args(["-c", line])
                    .current_dir(directory.path())
                    .env("PATH", path()?);
                Ok(command)
            })?;
        }
    }
    ensure!(run >= 12, "only {run} commands");
    Ok(())
}

#[test]
fn an_operator_of_a_fleet_can_type_what_the_handbook_says() -> Result<()> {
    let mut run = 0;
    for page in pages()? {
        let blocks = blocks(&page, "fleet")?;
        if blocks.is_empty() {
            continue;
        }
        Lab::run(&[HostSpec::WEB, HostSpec::APP, HostSpec::DB], |lab| {
            lab.apply_path(Path::new("examples/three-tier"))?;
            let directory = tempfile::tempdir()?;
            files_of_the_pages(directory.path())?;
            for (number, block) in blocks.iter().enumerate() {
                run += type_block(&page, number, block, |line| {
                    let mut command = lab.operator().shell(line);
                    command.current_dir(directory.path()).env("PATH", path()?);
                    Ok(command)
                })?;
            }
            Ok(())
        })?;
    }
    ensure!(run >= 6, "only {run} commands");
    Ok(())
}

/// Types the commands of a block, and compares what they print where the page shows it; how many there are.
fn type_block(
    page: &str,
    number: usize,
    block: &Block,
    shell: impl Fn(&str) -> Result<Command>,
) -> Result<usize> {
    let place = format!("{page}, below `{}`, block {number}", block.heading);
    for step in &block.commands {
        // What follows something goes on until it is ended.
        let goes_on = step.command.contains("--follow");
        let line = if goes_on {
            format!("timeout --signal=INT 3 {}", step.command)
        } else {
            step.command.clone()
        };
        let output = shell(&format!("exec 2>&1\n{line}"))?
            .output()
            .with_context(|| format!("{place}: starting `{line}`"))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        // 1: the answer is no, which these ask.
        let asks = ["check", "eval", "explain", "reach"]
            .iter()
            .any(|verb| line.starts_with(&format!("bulkhead policy {verb}")));
        let is_fine = match output.status.code() {
            Some(0) => true,
            Some(1) => asks,
            Some(124) => goes_on,
            _ => false,
        };
        ensure!(is_fine, "{place}: `{line}`: {}\n{printed}", output.status);
        if let Some(shown) = step.prints.as_ref().filter(|shown| !shown.is_empty()) {
            let lines: Vec<&str> = printed.lines().collect();
            ensure!(
                is_shown(shown, &lines),
                "{place} says of `{line}`:\n{}\nwhich printed:\n{printed}",
                shown.join("\n")
            );
        }
    }
    Ok(block.commands.len())
}

/// The files that the pages take for granted: policies, an inventory, queries, and what other systems print.
fn files_of_the_pages(directory: &Path) -> Result<()> {
    let copies = [
        ("examples", "examples"),
        ("examples/three-tier", "policies"),
        ("examples/three-tier/inventory.yaml", "hosts.yaml"),
        ("policy/tests/import/aws-shop/in/groups.json", "groups.json"),
        (
            "policy/tests/import/aws-shop/in/interfaces.json",
            "interfaces.json",
        ),
        (
            "policy/tests/import/aws-shop/in/prefix-lists.json",
            "prefix-lists.json",
        ),
        ("policy/tests/import/calico-hosts/in", "calico"),
        ("policy/tests/kubernetes/cluster.yaml", "cluster.yaml"),
    ];
    for (from, to) in copies {
        let status = Command::new("cp")
            .arg("-r")
            .arg(root().join(from))
            .arg(directory.join(to))
            .status()?;
        if !status.success() {
            bail!("copying {from}: {status}");
        }
    }
    // One whose policy is for all interfaces, as Bulkhead's is.
    let endpoints = directory.join("calico/endpoints.yaml");
    let text = fs::read_to_string(&endpoints)?.replace("interfaceName: eth0", "interfaceName: '*'");
    fs::write(&endpoints, text)?;
    // `policies/` is a directory of policy files alone.
    fs::remove_file(directory.join("policies/inventory.yaml"))?;
    let query = "{\"src\": \"web-1\", \"dst\": \"db-1\", \"protocol\": \"tcp\", \"port\": 5432}\n";
    fs::write(directory.join("queries.jsonl"), query)?;
    Ok(())
}

fn blocks(page: &str, system: &str) -> Result<Vec<Block>> {
    let mut blocks = page::read(&root().join(page))?;
    blocks.retain(|block| block.system == system);
    Ok(blocks)
}

/// The README and all pages of the handbook, from the root of the repository.
fn pages() -> Result<Vec<String>> {
    let mut pages = vec!["README.md".to_owned()];
    let mut directories = vec!["docs".to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root().join(&directory))? {
            let entry = entry?;
            let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                directories.push(path);
            } else if path.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// With the programs under test in front.
fn path() -> Result<String> {
    let programs = Programs::find()?.cli;
    let programs = programs.parent().context("the programs are nowhere")?;
    let others = std::env::var("PATH").context("reading PATH")?;
    Ok(format!("{}:{others}", programs.display()))
}

fn root() -> PathBuf {
    PathBuf::from(Operator::DIRECTORY)
}
