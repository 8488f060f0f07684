//! Running the tool and looking at what it did.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// What a run left behind.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Each line of stdout as JSON.
    pub fn json(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The tool, in an environment without an operator.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command
        .args(arguments)
        .env_remove("BULKHEAD_OPERATOR")
        .env("HOME", "/nonexistent")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("SSH_CONNECTION")
        .stdin(Stdio::null());
    command
}

pub fn bulkhead(arguments: &[&str]) -> Done {
    command(arguments).output().unwrap().into()
}

/// With `input` on stdin.
pub fn bulkhead_with_input(arguments: &[&str], input: &[u8]) -> Done {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output.into()
}

/// A directory of files that is gone after the test.
pub struct Files(TempDir);

impl Files {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        for (name, content) in files {
            fs::write(directory.path(name), content).unwrap();
        }
        directory
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn name(&self, name: &str) -> String {
        text(&self.path(name)).to_owned()
    }

    pub fn root(&self) -> &str {
        text(self.0.path())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub const SEGMENTS: &str = "\
apiVersion: bulkhead/v1
kind: Segment
name: app
match: { tier: app }
---
apiVersion: bulkhead/v1
kind: Segment
name: db
match: { tier: db }
---
apiVersion: bulkhead/v1
kind: Service
name: postgres
ports: [tcp/5432]
";

pub const POLICIES: &str = "\
apiVersion: bulkhead/v1
kind: Policy
name: db-ingress
appliesTo: db
ingress:
  - from: [app]
    allow: [postgres]
";

pub const INVENTORY: &str = "\
hosts:
  - { name: web-1, addresses: [10.1.10.10], labels: { tier: web } }
  - { name: app-1, addresses: [10.1.20.10], labels: { tier: app } }
  - { name: db-1, addresses: [10.1.30.10], labels: { tier: db } }
";

/// A policy set that is right, and an inventory beside it.
pub fn three_tiers() -> Files {
    let files = Files::new(&[("inventory.yaml", INVENTORY)]);
    fs::create_dir(files.path("policies")).unwrap();
    fs::write(files.path("policies/db.yaml"), POLICIES).unwrap();
    fs::write(files.path("policies/segments.yaml"), SEGMENTS).unwrap();
    files
}
