//! Many new flows, one after the other, each judged.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow};

use crate::{
    namespace::Namespace,
    probe::{Outcome, Service, tcp, udp, udp_socket},
};

/// An allowed flow that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A denied flow is given up after this long, to try the next one: an answer takes far less.
const IMPATIENCE: Duration = Duration::from_millis(20);

/// Between two flows of a thread, so that two cores have time for the rest of the lab.
const PACE: Duration = Duration::from_millis(1);

/// How many failures are kept word for word.
const KEPT: usize = 10;

/// What a hammer saw.
#[derive(Clone, Debug, Default)]
pub struct HammerReport {
    /// Flows that were to be allowed, and tried.
    pub allowed: u64,
    /// Flows that were to be denied, and tried.
    pub denied: u64,
    /// How many were not judged as expected.
    pub surprises: u64,
    /// The first of those, in words.
    pub examples: Vec<String>,
}

/// Threads that open new flows without end.
#[derive(Debug)]
pub struct Hammer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    allowed: AtomicU64,
    denied: AtomicU64,
    surprises: AtomicU64,
    examples: Mutex<Vec<String>>,
}

/// One kind of flow for a hammer.
pub(crate) struct Nail {
    pub from: Namespace,
    pub to: SocketAddr,
    pub service: Service,
    pub expected: Outcome,
}

impl Hammer {
    pub(crate) fn start(nails: Vec<Nail>) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = nails
            .into_iter()
            .map(|nail| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || nail.from.inside(|| shared.hammer(&nail)))
            })
            .collect();
        Self { shared, threads }
    }

    /// Flows tried so far.
    #[must_use]
    pub fn tried(&self) -> u64 {
        self.shared.allowed.load(Ordering::Relaxed) + self.shared.denied.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a thread could not work at all.
    pub fn finish(mut self) -> Result<HammerReport> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| anyhow!("a hammering thread panicked"))??;
        }
        let Shared {
            stop: _,
            allowed,
            denied,
            surprises,
            examples,
        } = &*self.shared;
        Ok(HammerReport {
            allowed: allowed.load(Ordering::Relaxed),
            denied: denied.load(Ordering::Relaxed),
            surprises: surprises.load(Ordering::Relaxed),
            examples: examples
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        })
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn hammer(&self, nail: &Nail) {
        let Nail {
            from: _,
            to,
            service,
            expected,
        } = nail;
        let (to, may_pass) = (*to, *expected == Outcome::Allowed);
        let (patience, tried) = if may_pass {
            (PATIENCE, &self.allowed)
        } else {
            (IMPATIENCE, &self.denied)
        };
        while !self.stop.load(Ordering::Relaxed) {
            let result = match service {
                Service::Tcp(_) => tcp(to, patience),
                Service::Udp(_) if may_pass => udp(to, patience),
                // Nothing to wait for: the server counts what arrives.
                Service::Udp(_) => shout(to),
                Service::Sctp(_) | Service::Ping => {
                    Err(io::Error::other("hammers are for TCP and UDP"))
                }
            };
            tried.fetch_add(1, Ordering::Relaxed);
            let counted_elsewhere = !may_pass && matches!(service, Service::Udp(_));
            if result.is_ok() != may_pass && !counted_elsewhere {
                self.note(match result {
                    Ok(()) => format!("{service} at {to} answered"),
                    Err(error) => format!("{service} at {to}: {error}"),
                });
            }
            thread::sleep(PACE);
        }
    }

    fn note(&self, surprise: String) {
        self.surprises.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        if examples.len() < KEPT {
            examples.push(surprise);
        }
    }
}

/// A datagram from a new port.
fn shout(to: SocketAddr) -> io::Result<()> {
    udp_socket(to)?.send(b"ahoy").map(drop)
}
