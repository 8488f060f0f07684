//! Policy files and inventories, from disk.

mod text;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Result;
use policy::{
    Inventory, Parsed, PolicySet, Problems, SourceFile, parse_mixed, problem::MAX_PROBLEMS,
};

pub use self::text::Sources;
use crate::{exit::Failure, output::count};

const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads the policy files that the paths name: files as they are, directories with all that is below
/// them (`*.yaml`, `*.yml`, `*.json`, nothing hidden), sorted, each file once.
///
/// # Errors
/// Every path that does not exist, cannot be read or has no policy file below it, all at once.
pub fn policies(paths: &[PathBuf]) -> Result<Sources> {
    let mut found = Found::default();
    for path in paths {
        let before = found.files.len();
        match fs::metadata(path) {
            Err(error) => found.unreadable(path, &error),
            Ok(metadata) if metadata.is_dir() => {
                found.directory(path);
                if found.files.len() == before && found.usage.is_empty() {
                    found.usage.push(format!(
                        "{}: no policy files here; they end in .yaml, .yml or .json",
                        path.display()
                    ));
                }
            }
            Ok(_) => found.file(path),
        }
    }
    if !found.usage.is_empty() {
        return Err(Failure::usage(found.usage.join("\n")).into());
    }
    text::read(&found.files)
}

/// Reads policy files for a command that takes Kubernetes manifests too; their pods are left out.
///
/// # Errors
/// What [`policies`] refuses, and every problem in the files, rendered.
pub fn mixed_policy_set(paths: &[PathBuf]) -> Result<PolicySet> {
    policies(paths)?
        .parse(parse_mixed)
        .map(|Parsed { set, inventory: _ }| set)
        .map_err(|problems| Failure::mistakes(render(&problems)).into())
}

/// Reads an inventory file.
///
/// # Errors
/// A file that cannot be read, and every problem in it, rendered.
pub fn inventory(path: &Path) -> Result<Inventory> {
    let one = |files: &[SourceFile]| match files {
        [file] => Inventory::parse(file),
        _ => Ok(Inventory::default()),
    };
    let read = text::read(&[path.to_owned()])?;
    read.parse(one)
        .map_err(|problems| Failure::mistakes(render(&problems)).into())
}

/// Reads policy files, Kubernetes manifests among them, and the workloads that they are asked about:
/// the manifests' pods, the hosts of an inventory, or both.
///
/// # Errors
/// As [`policies`] and [`inventory`], problems in the policies; a name or an address of both; nobody to ask about.
pub fn policies_and_inventory(
    paths: &[PathBuf],
    inventory: Option<&Path>,
) -> Result<(PolicySet, Inventory)> {
    let parsed = policies(paths)?
        .parse(parse_mixed)
        .map_err(|problems| Failure::mistakes(render(&problems)))?;
    let stand_ins = parsed.stand_ins();
    if stand_ins > 0 && parsed.set.has_subnets() {
        eprintln!(
            "note: {} without an address in the files: what stands in for it is of no subnet that \
             rules name; for exact answers give pods as `kubectl get pods -A -o yaml` prints them",
            count(stand_ins, "workload")
        );
    }
    let Parsed {
        set,
        inventory: pods,
    } = parsed;
    let Some(path) = inventory else {
        if pods.hosts.is_empty() {
            let text = "the policies have no Pods among them; name the hosts with --inventory";
            return Err(Failure::usage(text.to_owned()).into());
        }
        return Ok((set, pods));
    };
    let all = self::inventory(path)?.join(pods).map_err(|clash| {
        Failure::mistakes(format!("joining {} and the Pods: {clash}", path.display()))
    })?;
    Ok((set, all))
}

/// `3 problems`, those that are only counted too.
pub fn number(problems: &Problems) -> String {
    let number = problems.0.len();
    match number <= MAX_PROBLEMS {
        true => count(number, "problem"),
        false => format!("more than {MAX_PROBLEMS} problems"),
    }
}

fn render(problems: &Problems) -> String {
    format!("{}\n{problems}", number(problems))
}

#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    /// Canonical paths of files and directories, so that links neither repeat a file nor loop.
    seen: BTreeSet<PathBuf>,
    usage: Vec<String>,
}

impl Found {
    fn directory(&mut self, directory: &Path) {
        if !self.is_new(directory) {
            return;
        }
        let entries = fs::read_dir(directory).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<BTreeSet<_>>>()
        });
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                self.unreadable(directory, &error);
                return;
            }
        };
        for path in entries.iter().filter(|path| !is_hidden(path)) {
            // A link is what it points to: a mounted ConfigMap is nothing but links.
            if path.is_dir() {
                self.directory(path);
            } else if has_policy_extension(path) {
                self.file(path);
            }
        }
    }

    fn file(&mut self, path: &Path) {
        if self.is_new(path) {
            self.files.push(path.to_owned());
        }
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        let doing = format!("reading policies from {}", path.display());
        self.usage.push(io_error(&doing, error));
    }

    fn is_new(&mut self, path: &Path) -> bool {
        // What has no canonical path, such as a pipe, cannot be met twice either.
        path.canonicalize()
            .map_or(true, |path| self.seen.insert(path))
    }
}

/// What was being done, why it cannot be done, and what to do about it.
pub fn io_error(doing: &str, error: &io::Error) -> String {
    let words = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or directory; check the path".to_owned(),
        io::ErrorKind::NotADirectory => {
            "what should be a directory on the way is a file; check the path".to_owned()
        }
        io::ErrorKind::IsADirectory => "it is a directory; name a file in it".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; become a user who may read it, or let this one".to_owned()
        }
        _ => format!("{error}; try again, or copy it to where it can be read"),
    };
    format!("{doing}: {words}")
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn has_policy_extension(path: &Path) -> bool {
    path.extension()
        .and_then(OsStr::to_str)
        .is_some_and(|extension| EXTENSIONS.contains(&extension))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn names(root: &Path, sources: &Sources) -> Vec<String> {
        let root = format!("{}/", root.display());
        let files = sources.files.iter();
        files.map(|file| file.path.replace(&root, "")).collect()
    }

    #[test]
    fn directories_are_read_recursively_sorted_and_each_file_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        fs::create_dir_all(path.join("b/deep")).unwrap();
        fs::create_dir_all(path.join(".git")).unwrap();
        for name in [
            "z.yml",
            "a.yaml",
            "b/deep/c.json",
            "notes.txt",
            ".git/x.yaml",
            "b/.h.yaml",
        ] {
            fs::write(path.join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(path, path.join("b/loop")).unwrap();
        let files = policies(&[path.to_owned(), path.join("z.yml")]).unwrap();
        assert_eq!(names(path, &files), ["a.yaml", "b/deep/c.json", "z.yml"]);
    }

    #[test]
    fn every_unusable_path_is_named_at_once() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("missing.yaml");
        let error = policies(&[missing.clone(), root.path().join("gone")]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("missing.yaml") && text.contains("gone"),
            "{text}"
        );
        let error = policies(&[root.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("no policy files here"), "{error}");
    }
}
