//! Policy in, kernel maps out: classify, lower, plan, execute. All calls block; give them a thread.

mod inspection;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use datapath::{Direction, Verdict, layout::WORLD};
use policy::{
    Action, HostPolicy, Identity, PeerMatch, Revision, Tier, Timestamp, classify::TooLarge,
};

use self::inspection::counters_of;
pub use self::inspection::{Counters, Inspection};
use crate::{
    brief::brief,
    config::{Behaviour, HookingChoice, OtherEthertypes},
    denial_reader::DenialReader,
    error::with_causes,
    exceptions,
    interfaces::{Interface, Network, Reason, Survey, Unpoliced},
    kernel::{
        self, Attachment, Census, Changed, Disturbance, Events, Hooking, KernelError, Maps,
        Programs,
    },
    local_tiers::LocalTiers,
    lower::{TABLES_VERSION, lower},
    plan::{NoRoom, Observed, Operation, Stamp, plan, runs},
    rule_book::RuleBook,
};

mod one_address;

use self::one_address::Applied;

/// A denied flow is reported at most once in this many nanoseconds; its repeats are summed.
const REPORT_INTERVAL: u64 = 1_000_000_000;

/// What the enforcer is to police, and where it keeps its pins.
#[derive(Clone, Debug)]
pub struct EnforcerOptions {
    /// `<bpffs>/bulkhead/v3`, by the layout's version.
    pub pin_dir: PathBuf,
    /// Interface names; none means automatic.
    pub interfaces: Vec<String>,
    /// Flows of each address family that the kernel remembers.
    pub flows: u32,
    /// What the programs do beside what policy says.
    pub behaviour: Behaviour,
    /// How to hook into interfaces.
    pub hooking: HookingChoice,
}

/// What keeps interfaces from being policed as they are to be, each with its reason.
#[derive(Debug, thiserror::Error)]
#[error("{}", texts(.0))]
pub struct Shortfall(Vec<KernelError>);

impl Shortfall {
    /// Whether each is a matter of one interface, and the others are policed.
    #[must_use]
    pub fn is_of_single_interfaces(&self) -> bool {
        let is_of_interface = |error: &KernelError| {
            matches!(
                error,
                KernelError::Interface { .. } | KernelError::PinsLost { .. }
            )
        };
        self.0.iter().all(is_of_interface)
    }
}

/// Which interfaces have a verdict, as the last look found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Both programs run there.
    pub policed: Vec<Interface>,
    /// No verdict is given there.
    pub unpoliced: Vec<Unpoliced>,
    /// Why the host is not policed as it is to be, a sentence each.
    pub problems: Vec<String>,
}

fn texts(errors: &[KernelError]) -> String {
    let texts: Vec<_> = errors.iter().map(|error| with_causes(error)).collect();
    texts.join("; ")
}

/// What the kernel enforces now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The kernel's number of the tables.
    pub generation: u32,
    /// The policy set's revision.
    pub revision: Revision,
    /// SHA-256 of the encoded host policy.
    pub digest: [u8; 32],
}

/// What the kernel side could not do; what was enforced before still is.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// Its tables are too large.
    #[error("the policy does not fit this host")]
    TooLarge(#[from] TooLarge),
    /// The tables of the old and the new policy together are.
    #[error("the policy does not fit this host beside the one in force")]
    NoRoom(#[from] NoRoom),
    /// Some interfaces are not policed; the others are.
    #[error(transparent)]
    Shortfall(#[from] Shortfall),
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
            Self::Shortfall(Shortfall(errors)) => errors.first().map_or(70, KernelError::exit_code),
            Self::Kernel(error) => error.exit_code(),
        }
    }
}

/// Tells one behaviour from another.
fn fingerprint(behaviour: &Behaviour) -> u64 {
    let mut hasher = DefaultHasher::new();
    behaviour.hash(&mut hasher);
    hasher.finish()
}

/// What tables come from beside the policy's digest. Tables that an agent of another meaning has lowered are
/// not those of this one. The last end tells which rules are left out; 0 is never one of a rule in force.
fn of_this_host(
    policy: &HostPolicy,
    local: &LocalTiers,
    behaviour: &Behaviour,
    now: Timestamp,
) -> u64 {
    let last_end = exceptions::last_end(policy, now).unwrap_or_default();
    local.fingerprint() ^ TABLES_VERSION.rotate_right(8) ^ last_end.0 ^ fingerprint(behaviour)
}

/// What becomes of frames that no rule speaks of: in quarantine they are dropped, whatever the setting says. So they
/// are on a host that has lost its policy, which may have been in quarantine: what it enforces has no identity.
fn other_ether_types(policy: &HostPolicy, local: &LocalTiers) -> u32 {
    let denies_all = |tier| {
        policy.rules.iter().any(|rule| {
            rule.tier == tier && rule.action == Action::Deny && rule.peers == PeerMatch::Any
        })
    };
    let is_lost = policy.identity == Identity::UNMANAGED && denies_all(Tier::Default);
    if denies_all(Tier::Quarantine) || is_lost {
        OtherEthertypes::Drop.number()
    } else {
        local.other_ethertypes.number()
    }
}

/// The host's enforcement.
pub struct Enforcer {
    options: EnforcerOptions,
    programs: Programs,
    maps: Maps,
    /// What the maps hold; `None` when that is not known, and is to be read before the next plan.
    observed: Option<Observed>,
    /// What they were last filled from, if this process did so.
    applied: Option<Applied>,
    rule_book: RuleBook,
    /// Events that an agent of another version left unread.
    left_in_ring: u64,
    /// The interfaces and addresses, as they were listed last.
    network: Network,
    /// What is to be policed of them.
    survey: Survey,
    coverage: Coverage,
}

impl Enforcer {
    /// Loads the programs on what is pinned, or on new maps. Attaches nothing yet.
    ///
    /// # Errors
    /// What the host lacks.
    pub fn open(options: EnforcerOptions) -> Result<Self, EnforceError> {
        let hooking = Hooking::choose(options.hooking)?;
        let programs = Programs::load(&options.pin_dir, options.flows, hooking)?;
        let maps = Maps::open(&options.pin_dir)?;
        let rule_book = RuleBook::default();
        Ok(Self {
            options,
            programs,
            maps,
            observed: None,
            applied: None,
            rule_book,
            left_in_ring: 0,
            network: Network::default(),
            survey: Survey::default(),
            coverage: Coverage::default(),
        })
    }

    /// How long a host without a policy yet learns its flows.
    #[must_use]
    pub fn warm_start(&self) -> Duration {
        self.options.behaviour.warm_start
    }

    /// What the kernel enforces now; `None` before the first policy.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn live(&self) -> Result<Option<Live>, EnforceError> {
        Ok(self.maps.live()?.map(live_of))
    }

    /// Makes a policy the one that is enforced, with the host's own rules and without those that have
    /// ended by `now`, by one flip. When it is already, nothing is written.
    ///
    /// # Errors
    /// The flip was not made: nothing changed for any packet, but that one address may be treated as it was to be
    /// where that was the whole change. What fails after the flip is logged: the next plan cleans up, and
    /// [`Enforcer::attach`] takes the place of an agent of another version.
    pub fn apply(
        &mut self,
        policy: &HostPolicy,
        digest: [u8; 32],
        local: &LocalTiers,
        now: Timestamp,
    ) -> Result<Live, EnforceError> {
        let live = self.fill(policy, digest, local, now)?;
        if let Err(error) = self.take_over() {
            tracing::error!(
                error = with_causes(&error),
                "the policy is in the kernel, but not every interface has changed over from the agent of another version: it is tried again"
            );
        }
        Ok(live)
    }

    /// Takes the place of an agent of another version, with tables that are live. What its ring still
    /// holds is of its own layout: it is counted and lost.
    fn take_over(&mut self) -> Result<(), KernelError> {
        let Some(predecessor) = self.programs.predecessor() else {
            return Ok(());
        };
        let mut left = predecessor.events()?;
        self.programs.take_over(&all_interfaces()?)?;
        let lost = left.count();
        self.left_in_ring += lost;
        if lost > 0 {
            tracing::warn!(
                lost,
                "denials that the other version had not read yet are lost, and counted"
            );
        }
        Ok(())
    }

    fn fill(
        &mut self,
        policy: &HostPolicy,
        digest: [u8; 32],
        local: &LocalTiers,
        now: Timestamp,
    ) -> Result<Live, EnforceError> {
        let stamp = Stamp {
            revision: policy.revision.0,
            digest,
            local: of_this_host(policy, local, &self.options.behaviour, now),
            report_interval: REPORT_INTERVAL,
            timeouts: self.options.behaviour.timeouts,
            limits: self.options.behaviour.limits,
            // Without a policy yet, what passes may be of flows from before the agent.
            learn: policy.revision == Revision::default(),
            other_ether_types: other_ether_types(policy, local),
        };
        let settings = self.maps.live()?;
        if let Some(settings) = settings
            && settings.digest == digest
            && settings.local == stamp.local
        {
            let merged = Self::merged(policy, local, now);
            self.rule_book.insert(settings.generation, &merged);
            return Ok(live_of(settings));
        }
        if let Some(settings) = &settings
            && settings.local == stamp.local
        {
            match self.apply_address(policy, settings, &stamp) {
                Ok(Some(live)) => return Ok(live),
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    error = with_causes(&error),
                    "an address could not be changed by itself: all tables are written anew"
                ),
            }
        }
        let merged = Self::merged(policy, local, now);
        let live = self.write_anew(policy, &merged, &stamp)?;
        drop(merged);
        kernel::give_back();
        Ok(live)
    }

    /// Makes tables and flips to them.
    fn write_anew(
        &mut self,
        policy: &HostPolicy,
        merged: &HostPolicy,
        stamp: &Stamp,
    ) -> Result<Live, EnforceError> {
        let classes = policy::classify(merged)?;
        let observed = match &self.observed {
            Some(observed) => observed.clone(),
            None => self.observe()?,
        };
        let operations = plan(&observed, &lower(merged, &classes), stamp)?;
        let next = crate::plan::following(observed.generation);
        let numbers = |of: &Observed| of.peers.values().max().copied().unwrap_or(WORLD);
        let highest = numbers(&observed);
        let after = observed.after(&operations);
        let unused = highest.max(numbers(&after)) + 1;
        // Before the flip: the first packet that the new tables deny may be reported at once.
        self.rule_book.insert(next, merged);
        // Unknown until all is done: half a plan may stand in the idle tables.
        self.observed = None;
        self.applied = None;
        let flip = operations
            .iter()
            .position(|operation| matches!(operation, Operation::Flip { .. }))
            .map_or(0, |flip| flip + 1);
        for run in runs(&operations[..flip]) {
            self.maps.execute(run)?;
        }
        let mut clean = true;
        for run in runs(&operations[flip..]) {
            if let Err(error) = self.maps.execute(run) {
                tracing::warn!(
                    error = with_causes(&error),
                    "the policy is enforced, but what it has no more use for stays in the kernel maps: the next one removes it"
                );
                clean = false;
            }
        }
        tracing::info!(
            revision = policy.revision.0,
            generation = next,
            rules = merged.rules.len(),
            peers = after.peers.len(),
            operations = operations.len(),
            "policy applied"
        );
        self.observed = clean.then_some(after);
        self.applied = Some(Applied::new(policy, merged, unused));
        Ok(Live {
            generation: next,
            revision: policy.revision,
            digest: stamp.digest,
        })
    }

    /// What the maps hold. A first generation in them follows that of the predecessor, by which the
    /// flows were judged that are carried over.
    fn observe(&self) -> Result<Observed, KernelError> {
        let mut observed = self.maps.observe()?;
        if observed.generation == 0
            && let Some(predecessor) = self.programs.predecessor()
        {
            observed.generation = predecessor.generation();
        }
        Ok(observed)
    }

    /// Whether an agent of another version left tables that are enforced as long as ours are not.
    #[must_use]
    pub fn has_predecessor(&self) -> bool {
        self.programs.predecessor().is_some()
    }

    /// A policy with the host's own rules and without those that have ended.
    fn merged(policy: &HostPolicy, local: &LocalTiers, now: Timestamp) -> HostPolicy {
        let mut merged = local.merge(policy);
        exceptions::leave_out_ended(&mut merged, now);
        merged
    }

    /// Attaches to the interfaces that shall be policed and are not; their names.
    ///
    /// # Errors
    /// As [`Enforcer::look`].
    pub fn attach(&mut self) -> Result<Vec<String>, EnforceError> {
        self.look(&Changed::anything())
    }

    /// As [`Enforcer::attach`], and does no more than what has changed asks for: an interface on which the
    /// programs stand costs two system calls, or none.
    ///
    /// # Errors
    /// [`EnforceError::Shortfall`] when some could not be taken; all others are policed.
    pub fn look(&mut self, changed: &Changed) -> Result<Vec<String>, EnforceError> {
        if changed.is_of_network() {
            self.list_network()?;
        }
        let Survey {
            policed,
            mut unpoliced,
        } = self.survey.clone();
        let mut errors: Vec<KernelError> = unpoliced.iter().filter_map(shortfall).collect();
        if self.maps.live()?.is_none() {
            // Tables that hold nothing yet would drop everything. Another version's programs enforce meanwhile.
            let policed = match self.has_predecessor() {
                true => policed,
                false => Vec::new(),
            };
            self.note_coverage(policed, unpoliced, &errors);
            return Ok(Vec::new());
        }
        self.take_over()?;
        if changed.is_of_network() {
            self.programs.forget_dead_links(&self.network.all());
        }
        let mut attached = Vec::new();
        let mut covered = Vec::new();
        for interface in policed {
            let found = match self.programs.stands(&interface, changed) {
                Ok(true) => Ok(Attachment::Standing),
                Ok(false) => self.programs.attach(&interface),
                Err(error) => Err(error),
            };
            match found {
                Ok(Attachment::Standing) => covered.push(interface),
                Ok(Attachment::Made | Attachment::Updated) => {
                    attached.push(interface.name.clone());
                    covered.push(interface);
                }
                Ok(Attachment::Unpinned) => {
                    errors.push(unpinned(&interface, &self.options.pin_dir));
                    covered.push(interface);
                }
                // Gone since it was listed: the next look finds it, if it comes back.
                Ok(Attachment::Gone) => {}
                Err(error) => {
                    errors.push(error);
                    unpoliced.push(self.network.failed(&interface));
                }
            }
        }
        errors.extend(self.programs.mend_pins().err());
        unpoliced.sort();
        self.note_coverage(covered, unpoliced, &errors);
        if errors.iter().all(is_missing) {
            return Ok(attached);
        }
        if !attached.is_empty() {
            tracing::info!(interfaces = brief(&attached), "interfaces are policed");
        }
        errors.retain(|error| !is_missing(error));
        Err(Shortfall(errors).into())
    }

    /// Lists the interfaces and addresses anew.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`]: they are not known, which is not to say that there are none.
    pub fn list_network(&mut self) -> Result<(), EnforceError> {
        self.network = read_network()?;
        self.survey = self.network.survey(&self.options.interfaces);
        Ok(())
    }

    /// Remembers what is policed and what is not, and logs once what is not.
    fn note_coverage(
        &mut self,
        policed: Vec<Interface>,
        unpoliced: Vec<Unpoliced>,
        errors: &[KernelError],
    ) {
        for Unpoliced { name, reason, .. } in &unpoliced {
            let before = &self.coverage.unpoliced;
            if before
                .iter()
                .any(|it| it.name == *name && it.reason == *reason)
            {
                continue;
            }
            match reason {
                Reason::Missing => tracing::warn!(
                    interface = name,
                    "not there yet: it is policed as soon as it appears"
                ),
                Reason::NotEthernet => tracing::warn!(
                    interface = name,
                    "it carries no Ethernet frames: what passes it is not policed"
                ),
                // The error says more.
                Reason::Failed => {}
                Reason::Bridge
                | Reason::Container
                | Reason::Overlay
                | Reason::Unused
                | Reason::NotConfigured => {
                    tracing::debug!(interface = name, %reason, "it is not policed");
                }
            }
        }
        let problems = errors.iter().map(|error| with_causes(error)).collect();
        self.coverage = Coverage {
            policed,
            unpoliced,
            problems,
        };
    }

    /// Which interfaces have a verdict, as the last look found them.
    #[must_use]
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// What others did to the programs since the last call; it is made good already.
    pub fn take_disturbances(&mut self) -> Vec<Disturbance> {
        self.programs.take_disturbances()
    }

    /// Changes which interfaces are to be policed. The programs stay on those that are not, until `detach`.
    pub fn set_interfaces(&mut self, interfaces: Vec<String>) {
        self.options.interfaces = interfaces;
        self.survey = self.network.survey(&self.options.interfaces);
    }

    /// The addresses of the interfaces that are to be policed, which can name this host, as of the last look.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.network.addresses_of(&self.survey.policed)
    }

    /// All addresses of this host, as of the last look: no packet from outside may claim one.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<IpAddr> {
        self.network.local_addresses()
    }

    /// Starts to read denials from the ring.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn denials(&self) -> Result<DenialReader, EnforceError> {
        let events = Events::open(&self.options.pin_dir)?;
        Ok(DenialReader::start(events, self.rule_book.clone())?)
    }

    /// Counters since the maps were made.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn counters(&self) -> Result<Counters, EnforceError> {
        let mut counters = counters_of(self.maps.reasons()?);
        counters.events_lost += self.left_in_ring;
        Ok(counters)
    }

    /// How full the flow tables are, of IPv4 and of IPv6. Reads all of them.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn census(&self) -> Result<[Census; 2], EnforceError> {
        Ok(kernel::census(&self.options.pin_dir)?)
    }

    /// Judges a frame that no device has seen, `repeat` times: the last verdict, and the mean time.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn time_packet(
        &mut self,
        direction: Direction,
        frame: &[u8],
        repeat: u32,
    ) -> Result<(Verdict, Duration), EnforceError> {
        Ok(self.programs.time_packet(direction, frame, repeat)?)
    }
}

fn read_network() -> Result<Network, KernelError> {
    Network::read().map_err(|error| KernelError::io("listing the host's interfaces", error))
}

fn all_interfaces() -> Result<Vec<Interface>, KernelError> {
    read_network().map(|network| network.all())
}

/// What is wrong with an interface that the configuration names.
fn shortfall(unpoliced: &Unpoliced) -> Option<KernelError> {
    let problem = match unpoliced.reason {
        _ if !unpoliced.is_problem => return None,
        Reason::Missing => MISSING,
        Reason::NotEthernet => {
            "carries no Ethernet frames and cannot be policed: take it out of `interfaces` in the agent's config"
        }
        Reason::Bridge
        | Reason::Container
        | Reason::Overlay
        | Reason::Unused
        | Reason::NotConfigured
        | Reason::Failed => return None,
    };
    Some(KernelError::Interface {
        interface: unpoliced.name.clone(),
        problem: problem.into(),
    })
}

const MISSING: &str = "does not exist, though `interfaces` of the agent's config names it: it is policed as soon as it appears; `ip link` lists those that do exist";

/// It may be on its way, so it is a problem of the host's protection and no failure of the look.
fn is_missing(error: &KernelError) -> bool {
    matches!(error, KernelError::Interface { problem, .. } if problem == MISSING)
}

fn unpinned(interface: &Interface, pin_dir: &Path) -> KernelError {
    KernelError::Interface {
        interface: interface.name.clone(),
        problem: format!(
            "it is policed only as long as the agent runs, as its links cannot be pinned in {}: make room there",
            pin_dir.display()
        ),
    }
}

fn live_of(settings: datapath::layout::Settings) -> Live {
    Live {
        generation: settings.generation,
        revision: Revision(settings.revision),
        digest: settings.digest,
    }
}

#[cfg(test)]
pub(crate) mod tests;
