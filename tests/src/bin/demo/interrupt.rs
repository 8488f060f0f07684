//! Ctrl-C, and SIGTERM: the first ends the tour and cleans up, the second ends at once.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// The tour was interrupted.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Knows whether somebody wants the demo to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    wanted: Arc<(AtomicBool, Mutex<()>, Condvar)>,
}

impl Interrupt {
    /// Takes over both signals.
    pub fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting to listen for signals")?;
        let guard = runtime.enter();
        let mut ctrl_c = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        drop(guard);
        let told = interrupt.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                for second in [false, true] {
                    tokio::select! {
                        _ = ctrl_c.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if second {
                        // What stays behind, the next lab removes.
                        std::process::exit(130);
                    }
                    told.tell();
                }
            });
        });
        Ok(interrupt)
    }

    fn tell(&self) {
        let (wanted, lock, condition) = &*self.wanted;
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.store(true, Ordering::Relaxed);
        condition.notify_all();
    }

    /// [`Interrupted`], if so.
    pub fn check(&self) -> Result<()> {
        if self.wanted.0.load(Ordering::Relaxed) {
            Err(Interrupted.into())
        } else {
            Ok(())
        }
    }

    /// Waits for it.
    pub fn wait(&self) {
        let (wanted, lock, condition) = &*self.wanted;
        let mut guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !wanted.load(Ordering::Relaxed) {
            guard = condition
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
