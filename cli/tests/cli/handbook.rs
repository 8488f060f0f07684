//! What the handbook says that offline commands print is what they print.

use std::{fs, path::Path};

use crate::run::{Done, command};

/// The commands of the tool that need no controller.
const OFFLINE: [&str; 4] = ["check", "eval", "explain", "reach"];

/// A command of a page, and the lines below it.
struct Shown {
    page: String,
    command: String,
    output: Vec<String>,
}

/// The commands in the code blocks of a page; they start with `$ `, and `\` joins their lines.
fn shown(page: &str, text: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    let mut is_code = false;
    let mut has_command = false;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            has_command = false;
        } else if let Some(start) = line.strip_prefix("$ ").filter(|_| is_code) {
            let mut command = start.to_owned();
            while let Some(joined) = command.strip_suffix('\\') {
                command = joined.to_owned() + lines.next().unwrap().trim_start();
            }
            has_command = true;
            all.push(Shown {
                page: page.to_owned(),
                command,
                output: Vec::new(),
            });
        } else if has_command {
            all.last_mut().unwrap().output.push(line.to_owned());
        }
    }
    all
}

/// Runs a command in the root of the repository.
fn run(line: &str) -> Done {
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    command(&words)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .unwrap()
        .into()
}

/// A line `...` stands for lines that are left out.
fn is_shown(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line.trim() == "..." => {
            (0..=printed.len()).any(|left_out| is_shown(rest, &printed[left_out..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, more)| first.trim_end() == line && is_shown(rest, more)),
    }
}

#[test]
fn the_handbook_shows_what_is_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = fs::read_dir(root.join("docs")).unwrap();
    let mut pages: Vec<_> = pages.map(|page| page.unwrap().path()).collect();
    pages.push(root.join("README.md"));
    pages.sort();
    let mut compared = 0;
    for page in pages {
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(&page).unwrap();
        for Shown {
            page,
            command,
            output,
        } in shown(&page.display().to_string(), &text)
        {
            let offline = |verb: &&str| command.starts_with(&format!("bulkhead policy {verb} "));
            if !OFFLINE.iter().any(offline) || output.is_empty() {
                continue;
            }
            let done = run(&command);
            let printed: Vec<&str> = done.stdout.lines().chain(done.stderr.lines()).collect();
            assert!(
                is_shown(&output, &printed),
                "{page} says of `{command}`:\n{}\nwhich printed:\n{}",
                output.join("\n"),
                printed.join("\n")
            );
            compared += 1;
        }
    }
    assert!(compared >= 7, "only {compared} commands with their outputs");
}
