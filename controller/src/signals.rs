//! What each signal does to the controller.

use anyhow::{Context as _, Result};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// SIGINT and SIGTERM end the process; SIGHUP reloads; SIGUSR1 and SIGUSR2, by default an end without a
/// word, are logged and ignored.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes all of them over. `reload` is notified for each SIGHUP.
    ///
    /// # Errors
    /// When the system refuses to deliver one.
    pub fn new(reload: Arc<Notify>) -> Result<Self> {
        let mut hangup = listen(SignalKind::hangup(), "SIGHUP")?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                reload.notify_one();
            }
        });
        for (kind, name) in [
            (SignalKind::user_defined1(), "SIGUSR1"),
            (SignalKind::user_defined2(), "SIGUSR2"),
        ] {
            let mut ignored = listen(kind, name)?;
            tokio::spawn(async move {
                while ignored.recv().await.is_some() {
                    tracing::info!("{name} means nothing to the controller and is ignored");
                }
            });
        }
        Ok(Self {
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
        })
    }

    /// Waits for the next signal that ends the process.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn listen(kind: SignalKind, name: &str) -> Result<Signal> {
    signal(kind).with_context(|| format!("listening for {name}"))
}
