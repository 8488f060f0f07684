//! A shell that somebody types at: the console of an emulated machine, or a shell in a namespace.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// A bound that only a command that hangs exceeds: the machine is emulated and shares its processor.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// Begins the line that tells the end of a command and its exit code.
const MARK: &str = "end-of-command-";

/// A shell, driven by its standard input and what it prints.
pub struct Shell {
    name: String,
    input: Box<dyn Write + Send>,
    output: Arc<Output>,
    /// The part of the output that was looked at.
    seen: usize,
    commands: usize,
}

/// What a command printed on both of its outputs, and its exit code.
pub struct Done {
    /// Lines are separated by `\n`, without colours.
    pub printed: String,
    /// 0 for success.
    pub code: i32,
}

#[derive(Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    is_closed: bool,
}

impl Shell {
    /// Reads `output` in a thread of its own until its end, and keeps a copy of it in the file `log`.
    ///
    /// # Errors
    ///
    /// The log cannot be made.
    pub fn new(
        name: &str,
        input: impl Write + Send + 'static,
        mut output: impl Read + Send + 'static,
        log: &Path,
    ) -> Result<Self> {
        let mut log = File::create(log).with_context(|| format!("making {}", log.display()))?;
        let shared = Arc::new(Output::default());
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let bytes = buffer.get(..length).unwrap_or_default();
                // The log is for people; the test goes on without it.
                let _ = log.write_all(bytes);
                writer.append(bytes);
            }
            writer.close();
        });
        Ok(Self {
            name: name.to_owned(),
            input: Box::new(input),
            output: shared,
            seen: 0,
            commands: 0,
        })
    }

    /// Waits until the output has `text`, after what was waited for before.
    ///
    /// # Errors
    ///
    /// It has not within `limit`, or the shell has ended.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut state = self.output.lock();
        loop {
            let unseen = state.bytes.get(self.seen..).unwrap_or_default();
            if let Some(at) = find(unseen, text.as_bytes()) {
                let before = String::from_utf8_lossy(unseen.get(..at).unwrap_or_default());
                let before = before.into_owned();
                self.seen += at + text.len();
                return Ok(before);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.is_closed || left.is_zero() {
                let shown = String::from_utf8_lossy(unseen).into_owned();
                let why = if state.is_closed {
                    "has ended"
                } else {
                    "took too long"
                };
                bail!("{} {why}, waiting for {text:?} after:\n{shown}", self.name);
            }
            let waited = self.output.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Types text as it is.
    ///
    /// # Errors
    ///
    /// The shell has ended.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.input
            .write_all(text.as_bytes())
            .and_then(|()| self.input.flush())
            .with_context(|| format!("typing at {}", self.name))
    }

    /// Runs one command, which may have several lines, and waits for its end.
    ///
    /// # Errors
    ///
    /// It does not end in time, or the shell has ended. Any exit code is fine.
    pub fn run(&mut self, command: &str) -> Result<Done> {
        self.commands += 1;
        let mark = format!("{MARK}{}=", self.commands);
        // In braces so that variables last. What a command reads is not what is typed next. The mark is
        // put together by the shell, so that an echo of what was typed is not taken for it.
        let half = mark.len() / 2;
        let (first, second) = mark.split_at(half);
        self.send(&format!(
            "{{\n{command}\n}} </dev/null 2>&1; echo \"\n{first}\"\"{second}$?.\"\n"
        ))?;
        let while_running = || format!("running `{command}`");
        let printed = self
            .wait_for(&mark, COMMAND_TIMEOUT)
            .with_context(while_running)?;
        let code = self
            .wait_for(".", COMMAND_TIMEOUT)
            .with_context(while_running)?;
        let code = code
            .parse()
            .with_context(|| format!("reading the exit code {code:?} of `{command}`"))?;
        Ok(Done {
            printed: plain(&printed),
            code,
        })
    }

    /// Runs a command that has to succeed; what it printed.
    ///
    /// # Errors
    ///
    /// As [`Shell::run`], and when the exit code is not 0.
    pub fn succeed(&mut self, command: &str) -> Result<String> {
        let Done { printed, code } = self.run(command)?;
        if code != 0 {
            bail!(
                "`{command}` ended with {code} on {}, having printed:\n{printed}",
                self.name
            );
        }
        Ok(printed)
    }

    /// Runs a command again and again until it succeeds.
    ///
    /// # Errors
    ///
    /// It does not within `limit`.
    pub fn until(&mut self, command: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let Done { printed, code } = self.run(command)?;
            if code == 0 {
                return Ok(printed);
            }
            if Instant::now() > deadline {
                bail!(
                    "`{command}` still ended with {code} on {} after {} s, having printed:\n{printed}",
                    self.name,
                    limit.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Output {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, bytes: &[u8]) {
        self.lock().bytes.extend_from_slice(bytes);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// Text without a terminal's carriage returns and escape sequences.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\r' => {}
            '\x1b' => {
                characters.find(char::is_ascii_alphabetic);
            }
            other => plain.push(other),
        }
    }
    plain.trim_matches('\n').to_owned()
}
