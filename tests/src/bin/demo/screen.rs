//! What the demo shows: headings, rows with a tick or a cross, and something that turns while it
//! waits. Colours and motion on a terminal only.

use std::{
    env,
    io::{self, IsTerminal},
    time::Duration,
};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::Interrupt;

/// Columns of a row behind its mark, in characters.
const WHO: usize = 12;
const TRIED: usize = 33;
const WORD: usize = 10;

/// The terminal, and how many rows were not as expected.
pub struct Screen {
    colour: bool,
    interrupt: Interrupt,
    rows: u32,
    surprises: u32,
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
            rows: 0,
            surprises: 0,
        }
    }

    /// Rows so far, and how many of them surprised.
    pub fn tally(&self) -> (u32, u32) {
        (self.rows, self.surprises)
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
        let head = format!(
            "    {:<WHO$}{:<TRIED$}{:<WORD$}{}",
            "WHO", "TRIED", "EXPECTED", "HAPPENED"
        );
        println!("{}", self.paint(Paint::Dim, &head));
    }

    /// Does something that takes a while, and shows what came of it as a row.
    ///
    /// # Errors
    /// Those of `work`; or that the tour was interrupted.
    pub fn row(
        &mut self,
        [who, tried, expected]: [&str; 3],
        work: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        let row = format!("{who:<WHO$}{tried:<TRIED$}{expected:<WORD$}");
        let happened = self.wait(&row, work)?;
        let mark = self.mark(happened == expected);
        println!("  {mark} {row}{happened}");
        Ok(())
    }

    /// Does something that takes a while and must come off, and shows it as a step.
    ///
    /// # Errors
    /// As [`Screen::row`].
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        let (value, text) = self.wait(name, work)?;
        println!("  {} {name:<WHO$}{text}", self.mark(true));
        Ok(value)
    }

    fn mark(&mut self, good: bool) -> String {
        self.rows += 1;
        if good {
            self.paint(Paint::Green, "✓")
        } else {
            self.surprises += 1;
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
