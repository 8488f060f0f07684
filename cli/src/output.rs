//! How answers look: tables and colour for people, JSON lines for programs.

use std::io::{self, IsTerminal, Write};

use clap::{
    ValueEnum,
    builder::styling::{AnsiColor, Style},
};
use comfy_table::{ContentArrangement, Table, presets};
use policy::Origin;
use serde::Serialize;

/// What the answer is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    // No docstrings: clap would make a list of them in every help text.
    #[default]
    Table,
    Json,
}

/// Writes one JSON object and ends its line.
pub fn json_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Prints one JSON object a line.
pub fn json_lines<T: Serialize>(values: impl IntoIterator<Item = T>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for value in values {
        json_line(&mut out, &value)?;
    }
    out.flush()
}

/// Prints rows under headers: no borders, columns in line, wrapped on a narrow terminal only.
pub fn table<const COLUMNS: usize>(
    headers: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let on_terminal = io::stdout().is_terminal();
    table.set_content_arrangement(if on_terminal {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    table.set_header(headers);
    for row in rows {
        table.add_row(row.map(|cell| printable(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out = io::stdout().lock();
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A table whose rows come one by one: widths start from what is usual and only grow.
#[derive(Debug)]
pub struct LiveTable<const COLUMNS: usize> {
    widths: [usize; COLUMNS],
}

impl<const COLUMNS: usize> LiveTable<COLUMNS> {
    /// Prints the headers. `widths` are in characters.
    pub fn begin(
        out: &mut impl Write,
        headers: [&str; COLUMNS],
        widths: [usize; COLUMNS],
    ) -> io::Result<Self> {
        let mut table = Self { widths };
        table.row(out, headers.map(str::to_owned))?;
        Ok(table)
    }

    /// Prints one row.
    pub fn row(&mut self, out: &mut impl Write, cells: [String; COLUMNS]) -> io::Result<()> {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&mut self.widths) {
            let cell = printable(cell);
            *width = cell.chars().count().max(*width);
            line.push_str(&format!("{cell:<width$}  ", width = *width));
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// The text with control characters made visible: what a host says about itself may not steer the
/// operator's terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && !matches!(c, '\n' | '\t') {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// A rule's place in the files, `-` where no file wrote it.
pub fn place(origin: &Origin) -> String {
    origin.place().unwrap_or_else(|| "-".to_owned())
}

/// `1 policy`, `2 policies`.
pub fn count(number: usize, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {noun}s"),
    }
}

/// At most `most` items, and how many more there are: `a, b and 12 more`.
pub fn some<T: ToString>(items: &[T], most: usize, separator: &str) -> String {
    let shown: Vec<String> = items.iter().take(most).map(ToString::to_string).collect();
    let shown = shown.join(separator);
    match items.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A list for people, `-` when it is empty.
pub fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() {
        "-".to_owned()
    } else {
        items.join(" ")
    }
}

/// Colours a rendered problem: its first line and its marks. Plain text stays plain.
pub fn paint_problem(rendered: &str, colour: bool) -> String {
    if !colour {
        return rendered.to_owned();
    }
    let head = Style::new().bold();
    let mark = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    let mut text = String::new();
    for (number, line) in rendered.lines().enumerate() {
        let style = if number == 0 {
            head
        } else if line.contains('^') && line.trim_start_matches([' ', '|', '\t', '^']).is_empty() {
            mark
        } else {
            Style::new()
        };
        text.push_str(&format!("{style}{line}{style:#}\n"));
    }
    text
}

/// Whether stdout is a terminal whose user wants colour (<https://no-color.org>).
pub fn colour_on_stdout() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !unwanted && io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn live_tables_keep_columns_in_line_and_grow() {
        let mut out = Vec::new();
        let mut table = LiveTable::begin(&mut out, ["A", "B"], [3, 1]).unwrap();
        table.row(&mut out, ["longer".into(), "x".into()]).unwrap();
        table.row(&mut out, ["s".into(), "y".into()]).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "A    B\nlonger  x\ns       y\n"
        );
    }

    #[test]
    fn a_host_cannot_steer_the_terminal() {
        assert_eq!(printable("6.1\u{1b}[2J\u{7}"), "6.1\u{fffd}[2J\u{fffd}");
    }

    #[test]
    fn colour_marks_the_head_and_the_mark_only() {
        let plain = "a.yaml:1:2: bad\n 1 | x: y\n   | ^\n";
        assert_eq!(paint_problem(plain, false), plain);
        let painted = paint_problem(plain, true);
        assert!(
            painted.starts_with("\u{1b}[1ma.yaml:1:2: bad\u{1b}[0m\n 1 | x: y\n"),
            "{painted:?}"
        );
        assert!(painted.ends_with("   | ^\u{1b}[0m\n"), "{painted:?}");
    }

    #[test]
    fn counts_agree_with_their_nouns() {
        assert_eq!(
            [count(1, "policy"), count(2, "policy")],
            ["1 policy", "2 policies"]
        );
        assert_eq!([count(0, "host"), count(1, "host")], ["0 hosts", "1 host"]);
    }
}
