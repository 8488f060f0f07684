//! What this process has put on interfaces, and the cheap question whether it still runs there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io, mem,
    path::{Path, PathBuf},
};

use crate::{
    interfaces::Interface,
    kernel::{Changed, HOOKS, Hooking, Lost, attach, link, link::Link, requirements},
};

/// What stands, by the index of the interface.
#[derive(Debug, Default)]
pub struct Standing {
    /// The links of both hooks, in the order of [`HOOKS`]; none where filters stand.
    interfaces: BTreeMap<u32, Vec<HeldLink>>,
    disturbances: Vec<Disturbance>,
}

/// A pinned link.
#[derive(Debug)]
pub struct HeldLink {
    /// The kernel's number of it.
    id: u32,
    /// Where it is pinned.
    pub pin: PathBuf,
    /// Held open, so that it outlives its pin; none beyond half of the descriptors that the process may have.
    pub link: Option<Link>,
}

/// What others did to Bulkhead's programs, and the agent has made good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Another tool's program was put before ours on this interface.
    OvertakenOn(String),
    /// Our programs were taken off this interface.
    TakenOff(String),
    /// The pins were removed.
    Unpinned(Lost),
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OvertakenOn(interface) => write!(
                f,
                "another tool's program was put before Bulkhead's on {interface} and could let packets through; Bulkhead's runs first again"
            ),
            Self::TakenOff(interface) => write!(
                f,
                "Bulkhead's programs were taken off {interface}, and packets passed it without a verdict; they are put back"
            ),
            Self::Unpinned(lost) => write!(f, "{lost}; they are made again"),
        }
    }
}

impl Standing {
    /// Notes that both programs stand on an interface. One whose links cannot be opened is not noted, and is
    /// looked at in full each time.
    pub fn remember(&mut self, hooking: Hooking, interface: &Interface, pin_dir: &Path) {
        let links = match hooking {
            Hooking::Clsact => Vec::new(),
            Hooking::Tcx => {
                let pins = HOOKS
                    .iter()
                    .map(|hook| attach::pin(pin_dir, interface, hook));
                let holds = 2 * self.interfaces.len() < requirements::most_files() / 2;
                match pins.map(|pin| HeldLink::open(pin, holds)).collect() {
                    Ok(links) => links,
                    Err(error) => {
                        tracing::debug!(interface = interface.name, %error, "a link is not held");
                        return;
                    }
                }
            }
        };
        self.interfaces.insert(interface.index, links);
    }

    /// Forgets an interface; whether the programs stood there.
    pub fn forget(&mut self, index: u32) -> bool {
        self.interfaces.remove(&index).is_some()
    }

    /// Forgets all but these.
    pub fn keep_only(&mut self, interfaces: &[Interface]) {
        let stay: BTreeSet<u32> = interfaces.iter().map(|of| of.index).collect();
        self.interfaces.retain(|index, _| stay.contains(index));
    }

    /// Whether the programs still run on an interface, before all others.
    ///
    /// # Errors
    /// As `bpf(2)` reports.
    pub fn stands(&self, interface: &Interface, changed: &Changed) -> io::Result<bool> {
        let Some(links) = self.interfaces.get(&interface.index) else {
            return Ok(false);
        };
        if links.is_empty() {
            return Ok(!changed.is_of_filters(interface.index));
        }
        for (hook, held) in HOOKS.iter().zip(links) {
            let running = link::running_at(interface.index, hook.point)?;
            if running.first().map(|running| running.link) != Some(held.id) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The links that are noted.
    pub fn links(&self) -> impl Iterator<Item = &HeldLink> {
        self.interfaces.values().flatten()
    }

    /// Where they are pinned.
    pub fn pins(&self) -> BTreeSet<&Path> {
        self.links().map(|held| held.pin.as_path()).collect()
    }

    /// Notes what others did.
    pub fn disturbed(&mut self, disturbance: Disturbance) {
        self.disturbances.push(disturbance);
    }

    /// What others did since the last call.
    pub fn take_disturbances(&mut self) -> Vec<Disturbance> {
        mem::take(&mut self.disturbances)
    }
}

impl HeldLink {
    fn open(pin: PathBuf, holds: bool) -> io::Result<Self> {
        let link = Link::open(&pin)?.ok_or(io::ErrorKind::NotFound)?;
        let id = link.state()?.id;
        let link = holds.then_some(link);
        Ok(Self { id, pin, link })
    }
}
