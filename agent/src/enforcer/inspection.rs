//! What the pins tell, and their end, with or without a running agent.

use std::path::Path;

use datapath::{Reason, layout::Counter};
use policy::{HostPolicy, Rule, Timestamp};

use super::{EnforceError, Enforcer, Live, all_interfaces, live_of, of_this_host, read_network};
use crate::{
    config::Behaviour,
    interfaces::{Interface, Survey},
    kernel::{self, Census, KernelError, Maps, Predecessor},
    local_tiers::LocalTiers,
};

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
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// What is enforced.
    pub live: Option<Live>,
    /// Interfaces that the programs are attached to.
    pub interfaces: Vec<String>,
    /// Whether this version's maps are pinned. Programs that run without pins end with the agent, and what they
    /// enforce cannot be read.
    pub is_pinned: bool,
    /// Counters.
    pub counters: Counters,
    /// The pins of an agent of another version that enforces, such as `v1`.
    pub predecessor: Option<String>,
    /// How full the flow tables are, of IPv4 and of IPv6; none where only another version's are there.
    pub flows: Option<[Census; 2]>,
    /// Whether the host still learns its flows, because no policy has come yet.
    pub learns: bool,
}

impl Enforcer {
    /// Removes everything: enforcement ends. The interfaces that it ended on; `None` when there was
    /// nothing.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn detach(pin_dir: &Path) -> Result<Option<Vec<String>>, EnforceError> {
        let interfaces = all_interfaces()?;
        // One of the two programs is enough.
        let attached = kernel::attached(pin_dir, interfaces.clone(), 1)?;
        if attached.is_empty() && !kernel::has_pins(pin_dir)? {
            return Ok(None);
        }
        kernel::detach(pin_dir, &interfaces)?;
        Ok(Some(names(attached)))
    }

    /// Which interfaces are to be policed under this setting, and which are not.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn survey(configured: &[String]) -> Result<Survey, EnforceError> {
        Ok(read_network()?.survey(configured))
    }

    /// The rules of the live tables, each with its counter; `None` when these are not the tables that this
    /// policy and this host's own rules make now.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn rules(
        pin_dir: &Path,
        policy: &HostPolicy,
        local: &LocalTiers,
        behaviour: &Behaviour,
        now: Timestamp,
    ) -> Result<Option<Vec<(Rule, Counter)>>, EnforceError> {
        let maps = Maps::open(pin_dir)?;
        let live = maps.live()?;
        let of_this_host = of_this_host(policy, local, behaviour, now);
        let Some(settings) = live.filter(|live| live.local == of_this_host) else {
            return Ok(None);
        };
        let rules = (0..).zip(Self::merged(policy, local, now).rules);
        let counted: Vec<(Rule, Counter)> = rules
            .map(|(number, rule)| Ok((rule, maps.rule(settings.generation, number)?)))
            .collect::<Result<_, KernelError>>()?;
        // Their slot is filled anew with the next tables but one.
        Ok((maps.live()? == live).then_some(counted))
    }

    /// Reads the pins and asks the interfaces; `None` when there is nothing at either.
    ///
    /// # Errors
    /// [`EnforceError::Kernel`].
    pub fn inspect(pin_dir: &Path) -> Result<Option<Inspection>, EnforceError> {
        let predecessor = Predecessor::look(pin_dir)?;
        let has_maps = kernel::has_maps(pin_dir)?;
        let maps = has_maps.then(|| Maps::open(pin_dir)).transpose()?;
        // One with one of the two programs is not policed.
        let mut attached = kernel::attached(pin_dir, all_interfaces()?, 2)?;
        if maps.is_none() && predecessor.is_none() && attached.is_empty() {
            return Ok(None);
        }
        if let Some(predecessor) = &predecessor {
            attached.extend(kernel::attached(
                predecessor.pin_dir(),
                all_interfaces()?,
                2,
            )?);
            attached.sort();
            attached.dedup();
        }
        let counters = maps.as_ref().map(Maps::reasons).transpose()?;
        let live = maps.as_ref().map(Maps::live).transpose()?.flatten();
        let flows = maps
            .is_some()
            .then(|| kernel::census(pin_dir))
            .transpose()?;
        Ok(Some(Inspection {
            flows,
            learns: live.is_some_and(|live| live.learns()),
            live: live.map(live_of),
            interfaces: names(attached),
            is_pinned: has_maps,
            counters: counters.map(counters_of).unwrap_or_default(),
            predecessor: predecessor.map(|predecessor| predecessor.name()),
        }))
    }
}

fn names(interfaces: Vec<Interface>) -> Vec<String> {
    interfaces
        .into_iter()
        .map(|interface| interface.name)
        .collect()
}

pub(super) fn counters_of(reasons: Vec<(Reason, Counter)>) -> Counters {
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
