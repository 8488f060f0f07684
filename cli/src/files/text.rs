//! The text of files, and what of it is none.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Result;
use policy::{Problem, Problems, SourceFile, parse::MAX_FILE_BYTES};

use super::io_error;
use crate::exit::Failure;

/// Characters of a source line that are shown on either side of a mistake.
const SHOWN: usize = 80;

/// Files that were read. What is not UTF-8 in them is a mistake like any other: it is told together
/// with those that parsing the rest finds.
#[derive(Debug, Default)]
pub struct Sources {
    /// With U+FFFD for what is not UTF-8.
    pub files: Vec<SourceFile>,
    /// Where each file that is not UTF-8 first is not.
    not_utf8: Vec<Problem>,
}

impl Sources {
    /// Parses the files.
    ///
    /// # Errors
    /// All mistakes of all files, sorted by file and position.
    pub fn parse<T>(
        &self,
        parse: impl FnOnce(&[SourceFile]) -> Result<T, Problems>,
    ) -> Result<T, Problems> {
        let parsed = parse(&self.files);
        if self.not_utf8.is_empty() {
            return parsed;
        }
        let mut problems = parsed.err().map(|problems| problems.0).unwrap_or_default();
        problems.extend(self.not_utf8.iter().cloned());
        problems.sort();
        Err(Problems(problems))
    }
}

/// Reads files, of each no more than parsing takes.
///
/// # Errors
/// Every file that cannot be read, all at once.
pub fn read(paths: &[PathBuf]) -> Result<Sources> {
    let mut sources = Sources::default();
    let mut unreadable = Vec::new();
    for path in paths {
        let shown = path.strip_prefix("./").unwrap_or(path);
        let name = shown.display().to_string();
        match read_some(path) {
            Err(error) => unreadable.push(io_error(&format!("reading {name}"), &error)),
            Ok(bytes) => sources.add(name, bytes),
        }
    }
    match unreadable.is_empty() {
        true => Ok(sources),
        false => Err(Failure::usage(unreadable.join("\n")).into()),
    }
}

/// As much of a file as shows that it is too large: a device may have no end.
fn read_some(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = MAX_FILE_BYTES as u64 + 1;
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Sources {
    fn add(&mut self, path: String, bytes: Vec<u8>) {
        let is_too_large = bytes.len() > MAX_FILE_BYTES;
        let content = match String::from_utf8(bytes) {
            Ok(content) => content,
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let content = String::from_utf8_lossy(error.as_bytes()).into_owned();
                // A file that is too large was cut, perhaps within a character, and is refused anyway.
                if !is_too_large {
                    self.not_utf8.push(not_utf8(&path, &content, valid));
                }
                content
            }
        };
        self.files.push(SourceFile { path, content });
    }
}

/// The mistake that stands at this byte of a file.
fn not_utf8(path: &str, content: &str, at: usize) -> Problem {
    let (before, after) = content.split_at(at);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before[start..].chars().count();
    let hidden = column.saturating_sub(SHOWN);
    let line_after = after.lines().next().unwrap_or_default();
    let shown = before[start..].chars().skip(hidden);
    let shown = shown.chain(line_after.chars().take(SHOWN));
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Problem {
        file: path.to_owned(),
        line: number(line),
        column: number(column + 1),
        message: "not UTF-8 text".to_owned(),
        help: Some("save the file as UTF-8".to_owned()),
        source_line: shown.collect(),
        mark: number(column - hidden),
        width: 1,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::fs;

    use super::*;

    #[test]
    fn text_that_is_not_utf8_is_shown_among_the_other_mistakes() {
        let root = tempfile::tempdir().unwrap();
        let latin = root.path().join("latin1.yaml");
        fs::write(&latin, b"kind: Segment\nname: \xe9t\xe9\n").unwrap();
        let other = root.path().join("other.yaml");
        fs::write(&other, "kind: Segmant\n").unwrap();
        let problems = read(&[latin, other]).unwrap().parse(policy::parse);
        let text = problems.unwrap_err().to_string();
        assert!(text.contains("latin1.yaml:2:7: not UTF-8 text"), "{text}");
        assert!(
            text.contains("2 | name: \u{fffd}t\u{fffd}\n  |       ^"),
            "{text}"
        );
        assert!(text.contains("other.yaml:1:7"), "{text}");
    }

    #[test]
    fn of_a_file_without_an_end_no_more_is_read_than_shows_that_it_is_too_large() {
        let read = read(&[PathBuf::from("/dev/zero")]).unwrap();
        assert_eq!(read.files[0].content.len(), MAX_FILE_BYTES + 1);
        let text = read.parse(policy::parse).unwrap_err().to_string();
        assert!(
            text.contains("/dev/zero:1:1: the file has more than"),
            "{text}"
        );
    }
}
