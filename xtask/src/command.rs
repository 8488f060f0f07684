//! Running other programs: seen, or logged to a file under a spinner.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{IsTerminal as _, stderr},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;

/// Lines of a failed program's log that are shown.
const TAIL: usize = 30;

/// Runs a program whose output the user sees.
///
/// # Errors
///
/// It does not start, or does not exit with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// What a program prints on its standard output.
///
/// # Errors
///
/// It does not start, does not exit with 0, or prints something else than UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting `{}`", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("reading `{}`", line(command)))
}

/// Runs programs one after the other with their output in `log`: a spinner on a terminal, one line elsewhere.
///
/// # Errors
///
/// One of them does not start or does not exit with 0; the log's last lines are shown.
pub fn run_logged(title: &str, log: &Path, commands: &mut [Command]) -> Result<()> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("making the directory {}", directory.display()))?;
    }
    let file = File::create(log).with_context(|| format!("making {}", log.display()))?;
    let spinner = if stderr().is_terminal() {
        let spinner = ProgressBar::new_spinner().with_message(title.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    } else {
        eprintln!("{title}");
        ProgressBar::hidden()
    };
    for command in commands {
        let status = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("sharing the log")?)
            .stderr(file.try_clone().context("sharing the log")?)
            .status()
            .with_context(|| format!("starting `{}`", line(command)))?;
        if !status.success() {
            spinner.finish_and_clear();
            eprintln!("{}", tail(log)?);
            bail!(
                "`{}` failed: {status}; its output is in {}",
                line(command),
                log.display()
            );
        }
    }
    spinner.finish_and_clear();
    Ok(())
}

/// A command as it would be typed into a shell, its own environment in front.
pub fn line(command: &Command) -> String {
    let environment = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quoted);
    environment.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn tail(log: &Path) -> Result<String> {
    let bytes = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_command_can_be_pasted_into_a_shell() {
        let mut command = Command::new("cargo");
        command
            .env("LLVM_PREFIX", "/usr/lib/llvm-22")
            .args(["install", "two words", "it's", ""]);
        assert_eq!(
            line(&command),
            r"LLVM_PREFIX=/usr/lib/llvm-22 cargo install 'two words' 'it'\''s' ''"
        );
    }
}
