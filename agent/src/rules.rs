//! `bulkhead-agent rules`: what this host enforces, rule by rule, and what each has decided.

use std::{fmt, path::Path};

use policy::{Action, Direction, Mode, Origin, Tier};
use proto::Sha256Digest;
use serde::Serialize;

use crate::{
    app::local_tiers,
    clock::Clock,
    columns,
    config::Config,
    enforcement::own_policies,
    enforcer::{EnforceError, Enforcer},
    error::AgentError,
    interfaces,
    kernel::KernelError,
    local_tiers::LocalTiers,
    state::{
        StateDir,
        controllers::Controllers,
        policy_store::{EncodedPolicy, PolicyStore},
    },
};

/// The rules of the live tables, in order of precedence.
#[derive(Debug)]
pub struct RuleList(Vec<RuleLine>);

/// One rule.
#[derive(Debug, Serialize)]
pub struct RuleLine {
    tier: Tier,
    direction: Direction,
    action: Action,
    mode: Mode,
    #[serde(flatten)]
    origin: Origin,
    /// Packets that it denied, or flows that it let open, since these tables were made. Those of one
    /// that is only staged are events.
    packets: u64,
    /// Bytes of these packets, link headers included.
    bytes: u64,
}

impl RuleList {
    /// Reads the counters of the live tables.
    ///
    /// # Errors
    /// When nothing is enforced, or the tables are of other rules than those that this host has now.
    pub fn look(config: &Config, config_file: &Path) -> Result<Self, AgentError> {
        let state = StateDir::peek(&config.state_dir);
        let way = Controllers::load(&config.controllers, &state).way();
        let own_addresses = interfaces::local_addresses()
            .map_err(|error| KernelError::io("listing the host's addresses", error))
            .map_err(EnforceError::from)?;
        let local = LocalTiers {
            own_addresses,
            ..local_tiers(config, config_file, way)
        };
        let live = Enforcer::inspect(&config.pin_dir())?.and_then(|seen| seen.live);
        let Some(live) = live else {
            return Err(AgentError::NoRules("nothing is enforced on this host"));
        };
        let policy = of_digest(PolicyStore::new(&state), live.digest)
            .ok_or(AgentError::NoRules("the policy that is enforced is not on disk: it is once the controller has sent it again"))?;
        let rules = Enforcer::rules(
            &config.pin_dir(),
            policy.policy(),
            &local,
            &config.behaviour(),
            Clock::of_host().timestamp(),
        )?;
        let rules = rules.ok_or(AgentError::NoRules(
            "the tables are being made anew: try again in a moment",
        ))?;
        Ok(Self(
            rules
                .into_iter()
                .map(|(rule, counter)| RuleLine {
                    tier: rule.tier,
                    direction: rule.direction,
                    action: rule.action,
                    mode: rule.mode,
                    origin: rule.origin.as_ref().clone(),
                    packets: counter.packets,
                    bytes: counter.bytes,
                })
                .collect(),
        ))
    }

    /// One by one.
    pub fn lines(&self) -> impl Iterator<Item = &RuleLine> {
        self.0.iter()
    }
}

fn of_digest(store: PolicyStore<'_>, digest: Sha256Digest) -> Option<EncodedPolicy> {
    own_policies()
        .into_iter()
        .chain(store.all())
        .find(|policy| policy.digest() == digest)
}

/// A table for people.
impl fmt::Display for RuleList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = ["TIER", "DIR", "ACTION", "RULE", "PLACE", "PACKETS", "BYTES"];
        let cells = self.0.iter().map(|line| {
            let staged = if line.mode == Mode::Enforce {
                ""
            } else {
                ", staged"
            };
            [
                line.tier.to_string(),
                line.direction.to_string(),
                format!("{}{staged}", line.action),
                line.origin.rule.clone(),
                line.origin.place().unwrap_or_else(|| "-".to_owned()),
                line.packets.to_string(),
                line.bytes.to_string(),
            ]
        });
        f.write_str(&columns::table(headings, cells))
    }
}
