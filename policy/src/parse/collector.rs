//! Gathers mistakes while reading goes on.

use crate::{
    parse::yaml::{Place, lines},
    problem::{MAX_PROBLEMS, Problem, Problems},
    source::SourceFile,
};

/// So many mistakes get a suggestion from among the names of the files.
const MAX_SUGGESTIONS: usize = 100;
/// Characters of a source line that are shown.
const MAX_LINE: usize = 160;

/// The files that are read and what is wrong with them so far.
pub(crate) struct Collector<'a> {
    pub files: &'a [SourceFile],
    found: Vec<Found>,
    not_kept: usize,
}

struct Found {
    place: Place,
    message: String,
    help: Option<String>,
}

impl<'a> Collector<'a> {
    pub fn new(files: &'a [SourceFile]) -> Self {
        Self {
            files,
            found: Vec::new(),
            not_kept: 0,
        }
    }

    pub fn report(&mut self, place: Place, message: impl Into<String>) {
        self.keep(place, message.into(), None);
    }

    /// `help` says what to do instead.
    pub fn report_help(
        &mut self,
        place: Place,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        self.keep(place, message.into(), help.into());
    }

    fn keep(&mut self, place: Place, message: String, help: Option<String>) {
        if self.found.len() < MAX_PROBLEMS {
            self.found.push(Found {
                place,
                message,
                help,
            });
        } else {
            self.not_kept += 1;
        }
    }

    /// Whether the next report is worth the search for a suggestion, which walks all names.
    pub fn wants_suggestion(&self) -> bool {
        self.found.len() < MAX_SUGGESTIONS
    }

    /// Whether nothing was reported yet.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn file(&self, place: Place) -> &'a SourceFile {
        &self.files[place.file]
    }

    /// `file:line` of another place, for a message.
    pub fn line_of(&self, place: Place) -> String {
        format!("{}:{}", self.file(place).path, place.line)
    }

    /// The value if nothing was reported.
    pub fn finish<T>(mut self, value: T) -> Result<T, Problems> {
        if self.found.is_empty() {
            return Ok(value);
        }
        // In the order of the files, so that each is read through once.
        self.found.sort_by_key(|found| found.place);
        let mut cursor = Cursor::new(self.files);
        let mut problems: Vec<Problem> = self
            .found
            .into_iter()
            .map(
                |Found {
                     place,
                     message,
                     help,
                 }| {
                    let (source_line, mark, width) = cursor.excerpt(place);
                    Problem {
                        file: self.files[place.file].path.clone(),
                        line: place.line,
                        column: place.column,
                        message,
                        help,
                        source_line,
                        mark,
                        width,
                    }
                },
            )
            .collect();
        problems.sort();
        problems.dedup();
        if self.not_kept > 0
            && let Some(last) = problems.last().cloned()
        {
            let message = format!("and {} more mistakes after this one", self.not_kept);
            problems.push(Problem {
                message,
                help: None,
                ..last
            });
        }
        Err(Problems(problems))
    }
}

/// Finds places that come in order: neither a long file nor a long line is walked twice.
struct Cursor<'a> {
    files: &'a [SourceFile],
    file: usize,
    /// What of the file comes after the line below.
    after: &'a str,
    /// The number of the line, from 1; 0 before the first.
    line: u32,
    /// What of the line comes at and after the column below.
    rest: &'a str,
    /// From 0, in characters.
    column: usize,
}

impl<'a> Cursor<'a> {
    fn new(files: &'a [SourceFile]) -> Self {
        Self {
            files,
            file: usize::MAX,
            after: "",
            line: 0,
            rest: "",
            column: 0,
        }
    }

    /// The part of a line that is shown, where the mark starts in it, and how wide it is.
    fn excerpt(&mut self, place: Place) -> (String, u32, u32) {
        let column = place.column as usize - 1;
        let first = column.saturating_sub(MAX_LINE / 2);
        self.seek(place, first);
        let mut shown = if first > 0 {
            "...".to_owned()
        } else {
            String::new()
        };
        let mark = shown.len() + column - first;
        let mut rest = self.rest.chars();
        for character in rest.by_ref().take(MAX_LINE) {
            // A tab would shift the mark, and a control character the terminal.
            shown.push(match character {
                '\t' => ' ',
                other if other.is_control() => char::REPLACEMENT_CHARACTER,
                other => other,
            });
        }
        let room = shown.chars().count().saturating_sub(mark).max(1);
        if rest.next().is_some() {
            shown.push_str("...");
        }
        let width = (place.width as usize).clamp(1, room);
        (shown, mark as u32, width as u32)
    }

    fn seek(&mut self, place: Place, column: usize) {
        if self.file != place.file {
            let content = self.files[place.file].content.as_str();
            // A byte order mark counts as no column.
            let content = content.strip_prefix('\u{feff}').unwrap_or(content);
            (self.file, self.after, self.line) = (place.file, content, 0);
        }
        while self.line < place.line {
            let line = lines(self.after).next().unwrap_or_default();
            self.after = &self.after[line.len()..];
            self.rest = line.trim_end_matches(['\r', '\n']);
            (self.line, self.column) = (self.line + 1, 0);
        }
        let mut rest = self.rest.chars();
        for _ in self.column..column {
            rest.next();
        }
        (self.rest, self.column) = (rest.as_str(), column.max(self.column));
    }
}

/// Text from a file for a message: quoted, on one line, not too long.
pub(crate) fn quote(text: &str) -> String {
    const MAX_QUOTED: usize = 80;
    let mut quoted: String = text
        .chars()
        .take(MAX_QUOTED)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        quoted.push_str("...");
    }
    format!("`{quoted}`")
}
