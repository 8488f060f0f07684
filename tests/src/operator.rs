//! The operator: the real `bulkhead` program with an operator's file.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, de::DeserializeOwned};

use crate::namespace::Namespace;

/// What a program that ran to its end said.
#[derive(Debug)]
pub struct Answer {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Answer {
    pub(crate) fn of(command: &mut Command) -> Result<Self> {
        let output = command
            .output()
            .with_context(|| format!("running {command:?}"))?;
        Ok(Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Itself, if the program ended well.
    ///
    /// # Errors
    /// When the exit code is not 0, with what the program said.
    pub fn fine(self) -> Result<Self> {
        let Self {
            code,
            stdout,
            stderr,
        } = &self;
        ensure!(*code == 0, "exit code {code}\n{stdout}{stderr}");
        Ok(self)
    }

    /// Itself, if the program ended with this code and complained in these words.
    ///
    /// # Errors
    /// When the code is another one, or a word is missing in what it said.
    pub fn refused(self, expected: i32, words: &[&str]) -> Result<Self> {
        let Self {
            code,
            stdout,
            stderr,
        } = &self;
        ensure!(
            *code == expected,
            "exit code {code}, not {expected}\n{stdout}{stderr}"
        );
        for word in words {
            ensure!(
                stdout.contains(word) || stderr.contains(word),
                "no word of {word:?} in\n{stdout}{stderr}"
            );
        }
        Ok(self)
    }
}

/// Runs the operator's tool.
#[derive(Clone, Debug)]
pub struct Operator {
    program: PathBuf,
    namespace: Namespace,
    file: PathBuf,
}

impl Operator {
    /// Where the operator works: the root of the repository, with `examples` in it.
    pub const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

    pub(crate) fn new(program: &Path, namespace: &Namespace, file: &Path) -> Self {
        Self {
            program: program.to_owned(),
            namespace: namespace.clone(),
            file: file.to_owned(),
        }
    }

    /// Another operator in the same place, who holds another file.
    #[must_use]
    pub fn with_file(&self, file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            ..self.clone()
        }
    }

    /// Runs `bulkhead <arguments>`.
    ///
    /// # Errors
    /// When it cannot be started. What it answers is for the caller to judge.
    pub fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Answer> {
        Answer::of(self.command().args(arguments))
    }

    /// The tool with its operator's file, ready for arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.namespace.command(&self.program);
        command
            .current_dir(Self::DIRECTORY)
            .arg("--operator")
            .arg(&self.file);
        command
    }

    /// A shell that runs a line as the operator types it, with the operator's file in `BULKHEAD_OPERATOR`.
    #[must_use]
    pub fn shell(&self, line: &str) -> Command {
        let mut command = self.namespace.command(Path::new("bash"));
        command
            .env("BULKHEAD_OPERATOR", &self.file)
            .args(["-c", line]);
        command
    }

    /// Runs `bulkhead -o json <arguments>` and gives the objects that it prints, one a line.
    ///
    /// # Errors
    /// When the exit code is not 0, or the output is not JSON of this shape.
    pub fn list<T: DeserializeOwned>(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Vec<T>> {
        let answer = Answer::of(self.command().args(["-o", "json"]).args(arguments))?.fine()?;
        answer
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("reading {line}")))
            .collect()
    }

    /// As [`Operator::list`], for what prints one object.
    ///
    /// # Errors
    /// As [`Operator::list`]; and when there is not exactly one.
    pub fn one<T: DeserializeOwned>(&self, arguments: &[impl AsRef<OsStr>]) -> Result<T> {
        let mut values = self.list(arguments)?;
        ensure!(
            values.len() == 1,
            "{} objects where one was expected",
            values.len()
        );
        Ok(values.remove(0))
    }

    /// Starts `bulkhead -o json <arguments>`, to read what it prints while it goes on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn follow(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Following> {
        let mut child = self
            .command()
            .args(["-o", "json"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the operator's tool")?;
        let output = child.stdout.take().context("the tool has no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Following { child, lines })
    }

    /// Runs `bulkhead token create <options>` and gives the token.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn create_token(&self, options: &[impl AsRef<OsStr>]) -> Result<String> {
        #[derive(Deserialize)]
        struct Created {
            token: String,
        }
        let command = ["token", "create"].map(OsStr::new);
        let arguments: Vec<&OsStr> = command
            .into_iter()
            .chain(options.iter().map(AsRef::as_ref))
            .collect();
        Ok(self.one::<Created>(&arguments)?.token)
    }
}

/// The operator's tool, while it goes on. Dropping it kills it.
#[derive(Debug)]
pub struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    /// The next object that it prints.
    ///
    /// # Errors
    /// When none comes in time, or it has another shape.
    pub fn next<T: DeserializeOwned>(&mut self, patience: Duration) -> Result<T> {
        let line = self
            .lines
            .recv_timeout(patience)
            .context("waiting for the tool's output")?;
        serde_json::from_str(&line).with_context(|| format!("reading {line}"))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
