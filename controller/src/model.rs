//! What the controller knows about hosts and tokens.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use policy::{HostName, Identity, Labels, Revision, SourceFile};
use proto::{Sha256Digest, host_report::HostReport, spiffe::HostId};
use serde::{Deserialize, Serialize};

mod reported;

/// An enrolled host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// In its certificate; a host that enrols again gets another.
    pub id: HostId,
    /// Unique.
    pub name: HostName,
    /// From the token that it enrolled with.
    pub labels: Labels,
    /// That of those labels that make identity under the policy in force.
    pub identity: Identity,
    /// From the token: addresses that it may claim beside the one it connects from.
    pub address_subnets: Vec<IpNet>,
    /// Those that count as its own.
    pub addresses: BTreeSet<IpAddr>,
    /// Why it is in quarantine, if it is.
    pub quarantine: Option<String>,
    /// What it last said about itself.
    pub report: Report,
}

impl Host {
    /// The identity that policy gives the host now.
    pub fn effective_identity(&self) -> Identity {
        if self.quarantine.is_some() {
            Identity::QUARANTINED
        } else {
            self.identity
        }
    }

    /// The host as policy sees it.
    pub fn to_policy(&self) -> policy::Host {
        policy::Host {
            name: self.name.clone(),
            addresses: self.addresses.iter().copied().collect(),
            labels: self.labels.clone(),
            quarantined: self.quarantine.is_some(),
        }
    }
}

/// What an agent says about itself. It is shown to operators, and decides whether an acknowledged
/// policy counts as enforced and which changes the guards ask about; never what any host enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The agent's version.
    pub agent_version: String,
    /// As `uname -r` has it.
    pub kernel_release: String,
    /// Seconds since the Unix epoch; 0 is never.
    pub last_seen_unix: u64,
    /// The revision under which the policy that it enforces was compiled.
    pub applied_revision: Revision,
    /// The digest of the policy that it enforces.
    pub applied_digest: Option<Sha256Digest>,
    /// The policy that it refused last.
    pub refused_digest: Option<Sha256Digest>,
    /// Why it refused that one.
    pub refusal: String,
    /// Denial events lost on the way here; only grows.
    pub denials_lost: u64,
    /// Denied packets; only grows.
    pub packets_denied: u64,
    /// Of the fuller flow table, that live flows take, 0 to 100.
    pub flows_percent: u32,
    /// How far it is protected; none of an agent that is older than host reports.
    #[serde(with = "reported")]
    pub host: Option<HostReport>,
}

impl Report {
    /// Forgets what was refused: the host enforces something newer.
    pub fn accepted(&mut self) {
        self.refused_digest = None;
        self.refusal.clear();
    }
}

/// A token that was created here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What is kept of its secret.
    pub secret_sha256: Sha256Digest,
    /// The labels of the host that enrols with it.
    pub labels: Labels,
    /// Addresses that the host may claim beside the one it connects from.
    pub address_subnets: Vec<IpNet>,
    /// Fixes the host's name.
    pub host_name: Option<HostName>,
    /// The operator who created it.
    pub created_by: String,
    /// Seconds since the Unix epoch.
    pub expires_unix: u64,
    /// The host that enrolled with it.
    pub used_by: Option<HostName>,
}

/// The policy files in force and their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyFiles {
    /// 0 before the first apply.
    pub revision: Revision,
    /// In the order in which they were sent.
    pub files: Vec<SourceFile>,
}

/// Seconds since the Unix epoch.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
