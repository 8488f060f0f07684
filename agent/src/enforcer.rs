//! Policy in, kernel maps out: classify, lower, plan, execute. All calls block; give them a thread.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use datapath::{Reason, layout::Counter};
use policy::{HostPolicy, classify::TooLarge};
use tokio::sync::mpsc;

use crate::{
    denial::Denial,
    interfaces::{self, Unfit},
    kernel::{self, Events, KernelError, Maps, Programs},
    local_tiers::LocalTiers,
    lower::lower,
    plan::{NoRoom, Observed, Stamp, plan},
    rule_book::RuleBook,
};

/// A denied flow is reported at most once in this many nanoseconds; its repeats are summed.
const REPORT_INTERVAL: u64 = 1_000_000_000;
/// Batches between the reader of events and who takes them; a full one fills the ring, which counts.
const BATCHES: usize = 16;
const BATCH: usize = 512;

/// What the enforcer is to police, and where it keeps its pins.
#[derive(Clone, Debug)]
pub struct EnforcerOptions {
    /// `<bpffs>/bulkhead/v1`.
    pub pin_dir: PathBuf,
    /// Interface names; none means automatic.
    pub interfaces: Vec<String>,
    /// Flows of each address family that the kernel remembers.
    pub flows: u32,
}

/// What the kernel enforces now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The kernel's number of the tables.
    pub generation: u32,
    /// The policy set's revision.
    pub revision: policy::Revision,
    /// SHA-256 of the encoded host policy.
    pub digest: [u8; 32],
}

/// Counters since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets dropped, for whatever reason.
    pub packets_denied: u64,
    /// Events that the full ring did not take.
    pub events_lost: u64,
    /// Packets under each reason.
    pub reasons: Vec<(&'static str, u64)>,
}

/// What the pins tell, with or without a running agent.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// What is enforced.
    pub live: Option<Live>,
    /// Interfaces that the programs are attached to.
    pub interfaces: Vec<String>,
    /// Counters.
    pub counters: Counters,
}

/// A policy that was not applied; what was enforced before still is.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// Its tables are too large.
    #[error("the policy does not fit this host")]
    TooLarge(#[from] TooLarge),
    /// The tables of the old and the new policy together are.
    #[error("the policy does not fit this host beside the one in force")]
    NoRoom(#[from] NoRoom),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl EnforceError {
    /// The exit code that fits.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::TooLarge(_) | Self::NoRoom(_) => 78,
            Self::Kernel(error) => error.exit_code(),
        }
    }
}

/// The host's enforcement.
pub struct Enforcer {
    options: EnforcerOptions,
    programs: Programs,
    maps: Maps,
    observed: Observed,
    rule_book: RuleBook,
    /// Interfaces that were complained about, so as to do so once.
    unfit: Vec<(String, Unfit)>,
}

impl Enforcer {
    /// Loads the programs on what is pinned, or on new maps. Attaches nothing yet.
    ///
    /// # Errors
    /// What the host lacks.
    pub fn open(options: EnforcerOptions) -> Result<Self, EnforceError> {
        let programs = Programs::load(&options.pin_dir, options.flows)?;
        let maps = Maps::open(&options.pin_dir)?;
        let observed = maps.observe()?;
        let rule_book = RuleBook::default();
        Ok(Self {
            options,
            programs,
            maps,
            observed,
            rule_book,
            unfit: Vec::new(),
        })
    }

    /// What the kernel enforces now; `None` before the first policy.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn live(&self) -> Result<Option<Live>, EnforceError> {
        Ok(self.maps.live()?.map(live_of))
    }

    /// Makes a policy the one that is enforced, with the host's own rules, by one flip. When it is
    /// already, nothing is written.
    ///
    /// # Errors
    /// Nothing changed for any packet.
    pub fn apply(
        &mut self,
        policy: &HostPolicy,
        digest: [u8; 32],
        local: &LocalTiers,
    ) -> Result<Live, EnforceError> {
        let merged = Arc::new(local.merge(policy));
        let stamp = Stamp {
            revision: policy.revision.0,
            digest,
            local: local.fingerprint(),
            report_interval: REPORT_INTERVAL,
        };
        if let Some(settings) = self.maps.live()?
            && settings.digest == digest
            && settings.local == stamp.local
        {
            self.rule_book.insert(settings.generation, merged);
            return Ok(live_of(settings));
        }
        let classes = policy::classify(&merged)?;
        let operations = plan(&self.observed, &lower(&merged, &classes), &stamp)?;
        let next = crate::plan::following(self.observed.generation);
        // Before the flip: the first packet that the new tables deny may be reported at once.
        self.rule_book.insert(next, merged);
        for operation in &operations {
            if let Err(error) = self.maps.execute(operation) {
                // Half a plan may stand in the idle tables; the next one starts from what is there.
                self.observed = self.maps.observe()?;
                return Err(error.into());
            }
        }
        self.observed = std::mem::take(&mut self.observed).after(&operations);
        tracing::info!(
            revision = policy.revision.0,
            generation = next,
            rules = policy.rules.len(),
            peers = self.observed.peers.len(),
            operations = operations.len(),
            "policy applied"
        );
        Ok(Live {
            generation: next,
            revision: policy.revision,
            digest,
        })
    }

    /// Attaches to the interfaces that shall be policed and are not yet; their names.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`]; interfaces before the failing one stay attached.
    pub fn attach(&mut self) -> Result<Vec<String>, EnforceError> {
        let (interfaces, unfit) = interfaces::policed(&self.options.interfaces);
        for (name, why) in &unfit {
            if *why == Unfit::NotEthernet {
                return Err(KernelError::Interface {
                    interface: name.clone(),
                    problem: "carries no Ethernet frames and cannot be policed: take it out of `interfaces` in the agent's config",
                }
                .into());
            }
            if !self.unfit.contains(&(name.clone(), why.clone())) {
                tracing::warn!(
                    interface = name,
                    "not there yet: it is policed as soon as it appears"
                );
            }
        }
        self.unfit = unfit;
        self.programs.forget_missing(&interfaces);
        let mut attached = Vec::new();
        for interface in interfaces {
            if self.programs.attach(&interface)? {
                attached.push(interface.name);
            }
        }
        Ok(attached)
    }

    /// The addresses of the policed interfaces that can name this host.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        interfaces::addresses(&interfaces::policed(&self.options.interfaces).0)
    }

    /// Starts to read denials from the ring.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn denials(&self) -> Result<DenialReader, EnforceError> {
        let mut events = Events::open(&self.options.pin_dir)?;
        let rule_book = self.rule_book.clone();
        let (sender, receiver) = mpsc::channel(BATCHES);
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || read_events(&mut events, &rule_book, &sender))
            .map_err(|error| KernelError::io("starting the reader of denial events", error))?;
        Ok(DenialReader(receiver))
    }

    /// Counters since the maps were made.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn counters(&self) -> Result<Counters, EnforceError> {
        Ok(counters_of(self.maps.reasons()?))
    }

    /// Removes everything: enforcement ends. The interfaces that it ended on; `None` when nothing was
    /// pinned.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn detach(pin_dir: &Path) -> Result<Option<Vec<String>>, EnforceError> {
        if !pin_dir.exists() {
            return Ok(None);
        }
        let attached = attached_names(pin_dir);
        kernel::detach(pin_dir, &interfaces::all())?;
        Ok(Some(attached))
    }

    /// Reads the pins; `None` when there are none.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn inspect(pin_dir: &Path) -> Result<Option<Inspection>, EnforceError> {
        if !pin_dir.join("GENERATION").exists() {
            return Ok(None);
        }
        let maps = Maps::open(pin_dir)?;
        let interfaces = attached_names(pin_dir);
        let counters = counters_of(maps.reasons()?);
        Ok(Some(Inspection {
            live: maps.live()?.map(live_of),
            interfaces,
            counters,
        }))
    }
}

/// The names of the interfaces that the pinned links are on.
fn attached_names(pin_dir: &Path) -> Vec<String> {
    let attached = kernel::attached_indices(pin_dir);
    interfaces::all()
        .into_iter()
        .filter(|interface| attached.contains(&interface.index))
        .map(|interface| interface.name)
        .collect()
}

fn live_of(settings: datapath::layout::Settings) -> Live {
    Live {
        generation: settings.generation,
        revision: policy::Revision(settings.revision),
        digest: settings.digest,
    }
}

fn counters_of(reasons: Vec<(Reason, Counter)>) -> Counters {
    let mut counters = Counters::default();
    for (reason, Counter { packets, bytes: _ }) in reasons {
        if reason.drops() {
            counters.packets_denied += packets;
        }
        if reason == Reason::EventLost {
            counters.events_lost = packets;
        }
        counters.reasons.push((reason.word(), packets));
    }
    counters
}

/// Reads until nobody listens any more.
fn read_events(events: &mut Events, rule_book: &RuleBook, sender: &mpsc::Sender<Vec<Denial>>) {
    while !sender.is_closed() {
        if let Err(error) = events.wait(500) {
            tracing::error!(%error, "denials are not read any more");
            return;
        }
        loop {
            let batch: Vec<Denial> = std::iter::from_fn(|| events.take())
                .take(BATCH)
                .filter_map(|event| rule_book.resolve(&event))
                .collect();
            if batch.is_empty() {
                break;
            }
            if sender.blocking_send(batch).is_err() {
                return;
            }
        }
    }
}

/// Denials as they come.
#[derive(Debug)]
pub struct DenialReader(mpsc::Receiver<Vec<Denial>>);

impl DenialReader {
    /// Waits for at least one denial; `None` when the reader has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Denial>> {
        self.0.recv().await
    }
}

#[cfg(test)]
mod tests;
