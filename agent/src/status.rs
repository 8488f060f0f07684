//! `bulkhead-agent status`: what this host enforces, as its kernel and its disk have it.

use std::{collections::BTreeMap, fmt, path::Path};

use jiff::Timestamp;
use policy::Revision;
use serde::Serialize;

use crate::{
    config::Config,
    enforcer::{Enforcer, Inspection},
    error::AgentError,
    interfaces::{Reason, Survey, Unpoliced},
    kernel::Census,
    spool,
    state::{
        StateDir, StateError, identity::HostIdentity, policy_store::PolicyStore,
        rolled_back::RolledBack,
    },
};

/// Everything that can be known without the controller and without a running agent.
#[derive(Debug, Serialize)]
pub struct Status {
    /// As the controller knows the host; none before enrolment.
    host_name: Option<String>,
    controllers: Vec<String>,
    certificate_expires: Option<Timestamp>,
    /// Whether the kernel has live tables, on at least one interface.
    enforcing: bool,
    /// The pins of an agent of another version, whose tables are in force until its place is taken.
    other_version: Option<String>,
    interfaces: Vec<String>,
    /// Whether this version's maps are pinned. Programs without pins enforce as long as the agent runs.
    pinned: bool,
    /// Interfaces that are up, or that the configuration names, and on which no verdict is given. Loopback is
    /// not among them.
    not_policed: BTreeMap<String, NotPoliced>,
    generation: Option<u32>,
    /// Of the policy that the kernel enforces; 0 while none has come.
    revision: Option<Revision>,
    /// Of the policy that a reboot would bring.
    last_good_revision: Option<Revision>,
    /// What the host went back from because it lost its controller, in words.
    rolled_back: Option<String>,
    /// Seconds that the host learns its connections before its first policy; none once one has come.
    learning_seconds: Option<u64>,
    /// Of IPv4 and of IPv6.
    flow_tables: Vec<FlowTable>,
    packets_denied: u64,
    events_lost: u64,
    /// The datapath's own counters, those above 0.
    reasons: BTreeMap<&'static str, u64>,
    spool_bytes: u64,
    spool_limit_bytes: u64,
}

/// An interface without a verdict.
#[derive(Debug, Serialize)]
struct NotPoliced {
    /// One word: missing, not-ethernet, bridge, container, overlay, unused, not-configured or failed.
    reason: &'static str,
    /// The same in a few words.
    why: String,
    /// Packets have passed it.
    carries_traffic: bool,
    /// It is to be policed, so the host is not protected as it is configured.
    is_problem: bool,
}

impl From<Unpoliced> for NotPoliced {
    fn from(unpoliced: Unpoliced) -> Self {
        Self {
            reason: unpoliced.reason.word(),
            why: unpoliced.reason.to_string(),
            carries_traffic: unpoliced.carries_traffic,
            is_problem: unpoliced.is_problem,
        }
    }
}

/// Those that are not to be policed, and those that are and on which the programs do not run.
fn not_policed(survey: Survey, policed: &[String]) -> BTreeMap<String, NotPoliced> {
    let Survey {
        policed: wanted,
        unpoliced,
    } = survey;
    let failed = wanted
        .into_iter()
        .filter(|interface| !policed.contains(&interface.name))
        .map(|interface| Unpoliced {
            name: interface.name,
            reason: Reason::Failed,
            is_problem: true,
            carries_traffic: false,
        });
    unpoliced
        .into_iter()
        .chain(failed)
        .filter(|unpoliced| !policed.contains(&unpoliced.name))
        .map(|unpoliced| (unpoliced.name.clone(), unpoliced.into()))
        .collect()
}

/// How full a flow table is.
#[derive(Debug, Serialize)]
struct FlowTable {
    /// Flows that are not past their timeouts.
    live: u32,
    /// Flows that it has room for.
    slots: u32,
}

impl From<Census> for FlowTable {
    fn from(Census { live, slots }: Census) -> Self {
        Self { live, slots }
    }
}

impl Status {
    /// Looks.
    ///
    /// # Errors
    /// When the state directory or the pins cannot be read.
    pub fn look(config: &Config) -> Result<Self, AgentError> {
        let state = StateDir::peek(&config.state_dir);
        let identity = HostIdentity::load(&state)?;
        let validity = identity
            .as_ref()
            .and_then(|identity| identity.validity().ok());
        let good = PolicyStore::new(&state).next_boot()?;
        let inspection = Enforcer::inspect(&config.pin_dir())?;
        let configured: Vec<String> = config.interfaces.iter().cloned().map(Into::into).collect();
        let survey = Enforcer::survey(&configured)?;
        let spool_bytes = spool_size(&state.file("spool"))?;
        let Inspection {
            live,
            interfaces,
            counters,
            predecessor: other_version,
            flows,
            learns,
            is_pinned,
        } = inspection.unwrap_or_default();
        Ok(Self {
            certificate_expires: validity
                .and_then(|validity| Timestamp::try_from(validity.not_after).ok()),
            host_name: identity.map(|identity| identity.host_name),
            controllers: config.controllers.iter().map(ToString::to_string).collect(),
            // Programs whose pins are gone deny on.
            enforcing: (live.is_some() || other_version.is_some() || !is_pinned)
                && !interfaces.is_empty(),
            pinned: is_pinned,
            other_version,
            not_policed: not_policed(survey, &interfaces),
            interfaces,
            generation: live.map(|live| live.generation),
            revision: live.map(|live| live.revision),
            last_good_revision: good.map(|good| good.policy().revision),
            rolled_back: RolledBack::load(&state)?.map(|rolled_back| rolled_back.reason()),
            learning_seconds: learns.then(|| config.warm_start.duration().as_secs()),
            flow_tables: flows.into_iter().flatten().map(FlowTable::from).collect(),
            packets_denied: counters.packets_denied,
            events_lost: counters.events_lost,
            reasons: counters
                .reasons
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
            spool_bytes,
            spool_limit_bytes: config.spool_bytes(),
        })
    }

    /// Whether an interface that is to be policed is not.
    fn has_gaps(&self) -> bool {
        self.not_policed
            .values()
            .any(|not_policed| not_policed.is_problem)
    }

    /// Whether the host enforces anything.
    #[must_use]
    pub fn is_enforcing(&self) -> bool {
        self.enforcing
    }
}

fn spool_size(path: &Path) -> Result<u64, StateError> {
    spool::size(path).map_err(|source| StateError::Io {
        action: "read the directory",
        path: path.to_owned(),
        source,
    })
}

/// A table for people.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row =
            |name: &str, value: String| writeln!(f, "{}", format!("{name:<18}{value}").trim_end());
        let or = |value: Option<String>, without: &str| value.unwrap_or_else(|| without.to_owned());
        row("host", or(self.host_name.clone(), "not enrolled"))?;
        row("controllers", self.controllers.join(", "))?;
        let expires = self
            .certificate_expires
            .map(|time| format!("good until {time:.0}"));
        row("certificate", or(expires, "none"))?;
        let policed = match self.interfaces.join(", ") {
            names if self.enforcing => match &self.other_version {
                Some(pins) => format!("on {names}, by an agent of another version ({pins})"),
                None if !self.pinned => format!(
                    "on {names}, by programs whose pins are gone: it ends when the agent stops"
                ),
                None if self.has_gaps() => {
                    format!("on {names}, but not on all that are to be policed")
                }
                None => format!("on {names}"),
            },
            _ => "off: nothing is denied on this host".to_owned(),
        };
        row("enforcement", policed)?;
        let mut name = "not policed";
        for (interface, not_policed) in &self.not_policed {
            let traffic = match not_policed.carries_traffic {
                true => "; it carries traffic",
                false => "",
            };
            row(name, format!("{interface} ({}{traffic})", not_policed.why))?;
            name = "";
        }
        row(name, "lo (its traffic stays on this host)".to_owned())?;
        row(
            "generation",
            or(self.generation.map(|number| number.to_string()), "none"),
        )?;
        let revision = match (self.revision, self.last_good_revision) {
            (Some(Revision(0)) | None, None) => "none: no policy has come yet".to_owned(),
            (Some(live), good) if good != Some(live) => {
                let good = good.map_or("none".to_owned(), |good| good.to_string());
                format!("{live} (a reboot would bring {good})")
            }
            (Some(live), _) => live.to_string(),
            (None, Some(good)) => format!("none ({good} is on disk, for the next run)"),
        };
        row("revision", revision)?;
        if let Some(reason) = &self.rolled_back {
            row("last policy", reason.clone())?;
        }
        if let Some(seconds) = self.learning_seconds {
            row(
                "warm start",
                format!(
                    "nothing is denied before the first policy, which waits until the host has learned its connections for {seconds} s"
                ),
            )?;
        }
        if let [v4, v6] = &self.flow_tables[..] {
            let row_of = |table: &FlowTable| format!("{} of {}", table.live, table.slots);
            row(
                "flows",
                format!("{} (IPv4), {} (IPv6)", row_of(v4), row_of(v6)),
            )?;
        }
        row("packets denied", self.packets_denied.to_string())?;
        row("events lost", self.events_lost.to_string())?;
        if !self.reasons.is_empty() {
            row("packets by reason", String::new())?;
        }
        for (reason, count) in &self.reasons {
            row(&format!("  {reason}"), count.to_string())?;
        }
        let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20);
        row(
            "spool",
            format!(
                "{} of {}",
                mib(self.spool_bytes),
                mib(self.spool_limit_bytes)
            ),
        )
    }
}
