//! What the demo shows: headings, rows with a tick or a cross, and something that turns while it
//! waits. Colours and motion on a terminal only.

#[cfg(test)]
mod tests;

use std::{
    env, fmt,
    io::{self, IsTerminal},
    time::Duration,
};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::Interrupt;

/// Columns of a row behind its mark, in characters. What is longer still keeps a space behind it.
const WHO: usize = 12;
const TO: usize = 10;
const SERVICE: usize = 10;
const TRIED: usize = TO + SERVICE + 13;
const WORD: usize = 10;

/// The terminal, and how many rows were not as expected.
pub struct Screen {
    colour: bool,
    interrupt: Interrupt,
    tally: Tally,
}

/// Rows with an expectation so far, and how many of them surprised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    rows: u32,
    surprises: u32,
}

impl Tally {
    /// Whether every row was as expected.
    pub fn is_good(self) -> bool {
        self.surprises == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, surprises } = self;
        if self.is_good() {
            write!(f, "All {rows} as expected")
        } else {
            write!(f, "{surprises} of {rows} not as expected")
        }
    }
}

#[derive(Clone, Copy)]
enum Paint {
    Bold,
    Dim,
    Green,
    Red,
}

impl Screen {
    pub fn new(interrupt: Interrupt) -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = !unwanted && io::stdout().is_terminal();
        Self {
            colour,
            interrupt,
            tally: Tally::default(),
        }
    }

    /// How the rows came out so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Begins a part of the tour.
    pub fn heading(&self, text: &str) {
        println!("\n{}", self.paint(Paint::Bold, text));
    }

    /// A plain line.
    pub fn line(&self, text: &str) {
        println!("  {text}");
    }

    /// A line that may be overlooked.
    pub fn aside(&self, text: &str) {
        println!("  {}", self.paint(Paint::Dim, text));
    }

    /// A command as a person would type it.
    pub fn command(&self, text: &str) {
        println!("  {} {text}", self.paint(Paint::Dim, "$"));
    }

    /// The head of the table that [`Screen::row`] fills.
    pub fn table(&self) {
        let head = format!("    {}HAPPENED", cells(["WHO", "TRIED", "EXPECTED"]));
        println!("{}", self.paint(Paint::Dim, &head));
    }

    /// Does something that takes a while, and shows what came of it as a row.
    ///
    /// # Errors
    /// Those of `work`; or that the tour was interrupted.
    pub fn row(&mut self, row: [&str; 3], work: impl FnOnce() -> Result<String>) -> Result<()> {
        let [_, _, expected] = row;
        let row = cells(row);
        let happened = self.wait(&row, work)?;
        let good = happened == expected;
        self.tally.rows += 1;
        self.tally.surprises += u32::from(!good);
        println!("  {} {row}{happened}", self.mark(good));
        Ok(())
    }

    /// Does something that takes a while and must come off, and shows it as a step. It is no row:
    /// where a step fails, the tour ends.
    ///
    /// # Errors
    /// As [`Screen::row`].
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        let (value, text) = self.wait(name, work)?;
        println!("  {} {}{text}", self.mark(true), cell(name, WHO));
        Ok(value)
    }

    fn mark(&self, good: bool) -> String {
        if good {
            self.paint(Paint::Green, "✓")
        } else {
            self.paint(Paint::Red, "✗")
        }
    }

    fn wait<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.interrupt.check()?;
        // On stderr, and drawn on a terminal only.
        let spinner = ProgressBar::new_spinner()
            .with_style(ProgressStyle::with_template("  {spinner} {msg}")?)
            .with_message(what.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(80));
        let result = work();
        spinner.finish_and_clear();
        // An interrupted wait often fails: why it failed is then of no interest.
        self.interrupt.check()?;
        result
    }

    fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Bold => 1,
            Paint::Dim => 2,
            Paint::Green => 32,
            Paint::Red => 31,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// What was tried, for the column of that name.
pub fn tried(to: &str, service: impl fmt::Display, how: impl fmt::Display) -> String {
    let service = service.to_string();
    format!("{}{}{how}", cell(to, TO), cell(&service, SERVICE))
}

/// The columns of a row, but for the last.
fn cells([who, tried, expected]: [&str; 3]) -> String {
    cell(who, WHO) + &cell(tried, TRIED) + &cell(expected, WORD)
}

/// Text in a column: at least one space follows it.
fn cell(text: &str, width: usize) -> String {
    format!("{text:<0$} ", width - 1)
}
