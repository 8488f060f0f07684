//! The rules of the house that no compiler checks: lints inherited everywhere, one place for aya,
//! few places for `unsafe`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The only source of the agent that may name aya or hold `unsafe`: this file and, should it be
/// split, the directory of its name.
const AGENT_KERNEL: &str = "agent/src/kernel";
/// Members that talk to the kernel, or are it; every other crate root forbids `unsafe`.
const MAY_BE_UNSAFE: [&str; 3] = ["bulkhead-agent", "bulkhead-agent-ebpf", "bulkhead-datapath"];

/// What breaks a rule, a line each; empty when all is well.
///
/// # Errors
///
/// A file cannot be read.
pub fn findings(root: &Path, metadata: &Value) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in members(metadata) {
        let manifest = Path::new(text(&package["manifest_path"])?);
        if !inherits_lints(&read(manifest)?) {
            findings.push(format!(
                "{}: does not say `[lints]` and `workspace = true`",
                shown(root, manifest)
            ));
        }
        if MAY_BE_UNSAFE.contains(&text(&package["name"])?) {
            continue;
        }
        for target in package["targets"]
            .as_array()
            .context("a package without targets")?
        {
            let source = Path::new(text(&target["src_path"])?);
            let kind = target["kind"][0].as_str();
            if matches!(kind, Some("lib" | "bin"))
                && !read(source)?.contains("#![forbid(unsafe_code)]")
            {
                findings.push(format!(
                    "{}: does not forbid unsafe code",
                    shown(root, source)
                ));
            }
        }
    }
    for source in rust_files(&root.join("agent/src"))? {
        if source.starts_with(root.join(AGENT_KERNEL))
            || source == root.join(AGENT_KERNEL).with_extension("rs")
        {
            continue;
        }
        for (number, line) in (1..).zip(read(&source)?.lines()) {
            let place = || format!("{}:{number}", shown(root, &source));
            if names(line, "aya") {
                findings.push(format!(
                    "{}: names aya, which only {AGENT_KERNEL} may",
                    place()
                ));
            }
            if names(line, "unsafe") {
                findings.push(format!(
                    "{}: unsafe code, which only {AGENT_KERNEL} may hold",
                    place()
                ));
            }
        }
    }
    Ok(findings)
}

fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let ids = metadata["workspace_members"].as_array();
    let is_member = move |id: &Value| ids.is_some_and(|ids| ids.contains(id));
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter(move |package| is_member(&package["id"]))
}

/// Whether a manifest takes the workspace's lints as they are.
fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    lines.any(|line| line == "[lints]")
        && lines
            .next()
            .is_some_and(|line| line.replace(' ', "") == "workspace=true")
}

/// Whether a line of code, its comment left out, holds the identifier.
fn names(line: &str, identifier: &str) -> bool {
    let code = line.split("//").next().unwrap_or(line);
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    code.split(|c| !part_of_a_word(c))
        .any(|word| word == identifier)
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("listing {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(doing)? {
        let path = entry.with_context(doing)?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn text(value: &Value) -> Result<&str> {
    value
        .as_str()
        .context("this is not the output of `cargo metadata`")
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_in_code_only_and_only_whole() {
        assert!(names("use aya::Ebpf;", "aya"));
        assert!(names("    let kernel = unsafe { load() };", "unsafe"));
        assert!(!names("// aya needs this", "aya"));
        assert!(!names("let himalaya = playa;", "aya"));
        assert!(!names("#![deny(unsafe_code)]", "unsafe"));
    }

    #[test]
    fn lints_count_as_inherited_only_when_the_manifest_says_so() {
        assert!(inherits_lints(
            "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"
        ));
        assert!(!inherits_lints(
            "[package]\nname = \"a\"\nedition.workspace = true\n"
        ));
        assert!(!inherits_lints("[lints]\n[dependencies]\n"));
        assert!(!inherits_lints("[lints.rust]\nmissing_docs = \"warn\"\n"));
    }
}
