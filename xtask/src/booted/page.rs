//! The commands of a page of the handbook: what its code blocks say is typed, and where.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

/// A code block with commands. Its first line names who types it: "```sh host".
pub struct Block {
    /// The heading above it, without its marks.
    pub heading: String,
    /// The system that it is typed on: "controller", "host", "operator".
    pub system: String,
    /// One after the other; one may have several lines.
    pub commands: Vec<Step>,
}

/// A command, and what the page shows that it prints.
pub struct Step {
    pub command: String,
    /// `None` where the page does not show it. A line `...` stands for any number of lines.
    pub prints: Option<Vec<String>>,
}

/// Reads the blocks of a page whose info string begins with `sh `.
///
/// # Errors
///
/// The file cannot be read, or a block does not end.
pub fn read(path: &Path) -> Result<Vec<Block>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    blocks(&text).with_context(|| format!("reading the commands of {}", path.display()))
}

fn blocks(text: &str) -> Result<Vec<Block>> {
    let mut all = Vec::new();
    let mut heading = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim().to_owned();
        }
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let content: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let Some(system) = info.strip_prefix("sh ") else {
            continue;
        };
        all.push(Block {
            heading: heading.clone(),
            system: system.to_owned(),
            commands: steps(&content)?,
        });
    }
    Ok(all)
}

/// With prompts (`$ `) what follows a command is its output; without, every line is typed.
fn steps(lines: &[&str]) -> Result<Vec<Step>> {
    let has_prompts = lines.iter().any(|line| line.starts_with("$ "));
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = lines.iter();
    while let Some(line) = lines.next() {
        let typed = if has_prompts {
            line.strip_prefix("$ ")
        } else {
            Some(*line)
        };
        match (typed, steps.last_mut()) {
            (Some(""), _) => {}
            (Some(typed), _) => {
                let mut command = typed.to_owned();
                while !is_whole(&command) {
                    let next = lines
                        .next()
                        .with_context(|| format!("`{command}` does not end"))?;
                    command.push('\n');
                    command.push_str(next);
                }
                steps.push(Step {
                    command,
                    prints: has_prompts.then(Vec::new),
                });
            }
            (None, Some(step)) => {
                step.prints.get_or_insert_default().push((*line).to_owned());
            }
            (None, None) => ensure!(false, "output before the first command: {line}"),
        }
    }
    Ok(steps)
}

/// Whether a shell would not ask for another line.
fn is_whole(command: &str) -> bool {
    if command.ends_with('\\') {
        return false;
    }
    let is_loop = command.starts_with("for ");
    if is_loop && command.lines().last() != Some("done") {
        return false;
    }
    let Some((_, delimiter)) = command
        .lines()
        .next()
        .and_then(|first| first.split_once("<<"))
    else {
        return true;
    };
    let delimiter = delimiter
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .trim_matches(['\'', '"', ')']);
    command.lines().skip(1).any(|line| line == delimiter)
}

/// Whether what was printed is what the page shows.
pub fn is_shown(shown: &[String], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line.trim() == "..." => (0..=printed.len())
            .any(|left_out| is_shown(rest, printed.get(left_out..).unwrap_or_default())),
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, more)| first.trim_end() == line && is_shown(rest, more)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const PAGE: &str = "# Page\n## Part\n```sh host\nfor i in 1 2; do\n  echo $i\ndone\ncat > x <<'END'\na: b\nEND\nls \\\n  -l\n```\n\
        ```sh operator\n$ echo a\na\n$ true\n```\n```yaml\na: b\n```\n";

    #[test]
    fn the_commands_of_a_page_are_those_of_its_labelled_blocks() {
        let blocks = blocks(PAGE).unwrap();
        let [host, operator] = &blocks[..] else {
            panic!("{} blocks", blocks.len())
        };
        assert_eq!(
            (host.heading.as_str(), host.system.as_str()),
            ("Part", "host")
        );
        let commands: Vec<&str> = host.commands.iter().map(|it| it.command.as_str()).collect();
        assert_eq!(
            commands,
            [
                "for i in 1 2; do\n  echo $i\ndone",
                "cat > x <<'END'\na: b\nEND",
                "ls \\\n  -l"
            ]
        );
        assert_eq!(operator.commands[0].command, "echo a");
        assert_eq!(
            operator.commands[0].prints.as_deref().unwrap(),
            ["a".to_owned()]
        );
        assert_eq!(operator.commands[1].prints.as_deref().unwrap().len(), 0);
    }

    #[test]
    fn a_page_may_leave_lines_out_and_change_none() {
        let shown = ["a", "...", "d"].map(str::to_owned);
        assert!(is_shown(&shown, &["a", "b", "c", "d"]));
        assert!(is_shown(&shown, &["a", "d"]));
        assert!(!is_shown(&shown, &["a", "b"]));
        assert!(!is_shown(&shown, &["x", "d"]));
    }
}
