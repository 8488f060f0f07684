//! What is wrong with a file, and where.

use std::fmt;

use crate::{host_policy::Origin, source::SourceFile};

/// So many mistakes are kept; more help nobody, and would let a file fill the memory.
pub const MAX_PROBLEMS: usize = 1_000;
/// Characters of a whole line that are shown.
const SHOWN: usize = 160;

/// One mistake in one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The path as the author names it.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// What is wrong, lower case.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The line of the file, or the part of a very long one around the mark.
    pub source_line: String,
    /// Where the mark starts in `source_line`, from 0, in characters.
    pub mark: u32,
    /// How many characters are marked, at least 1.
    pub width: u32,
}

/// The mistakes of a set of files, sorted by file and position. Never empty; of very many, the
/// first [`MAX_PROBLEMS`] and one that counts the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problem {
    /// One about all that a line of the files stands for.
    #[must_use]
    pub fn of_line(
        origin: &Origin,
        files: &[SourceFile],
        message: String,
        help: Option<String>,
    ) -> Self {
        let Origin { file, line, .. } = origin;
        let source = files.iter().find(|source| source.path == *file);
        let line_of = |source: &SourceFile| {
            let mut lines = source.content.lines();
            let line = lines.nth((*line as usize).checked_sub(1)?)?;
            Some(line.trim_end().chars().take(SHOWN).collect::<String>())
        };
        let source_line = source.and_then(line_of).unwrap_or_default();
        let indent = source_line
            .chars()
            .take_while(|c| c.is_whitespace())
            .count();
        let width = (source_line.chars().count() - indent).max(1);
        let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            file: file.clone(),
            line: *line,
            column: number(indent + 1),
            message,
            help,
            source_line,
            mark: number(indent),
            width: number(width),
        }
    }

    /// The text that people read: position and message, the source line with the mistake marked,
    /// and help. Several lines, no colour, no line break at the end.
    #[must_use]
    pub fn render(&self) -> String {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let mut text = format!("{self}\n{margin} |\n{number} | {}", self.source_line);
        let indent = " ".repeat(self.mark as usize);
        let mark = "^".repeat(self.width as usize);
        text.push_str(&format!("\n{margin} | {indent}{mark}"));
        if let Some(help) = &self.help {
            text.push_str(&format!("\n{margin} = help: {help}"));
        }
        text
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            f.write_str(&problem.render())?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
