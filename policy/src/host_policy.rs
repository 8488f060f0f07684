//! A policy as one host enforces it: flat, resolved and in order of precedence.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    service::{PortKey, PortSpan},
    words::{Action, Direction, Identity, Mode, Revision, Tier, Timestamp},
};

/// Where a rule stands in [`HostPolicy::rules`]; small and dense, so that the kernel can count by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub u32);

/// Everything that a host of one identity enforces.
///
/// The enforced verdict of a flow is that of the first rule of its direction with
/// [`Mode::Enforce`] that matches, where one that passes skips the rest of its tier; the staged
/// verdict comes from the rules of both modes in the same way. Compile ends each direction with a
/// rule that matches everything and does not pass, so there always is one.
/// Equal input gives an equal value and equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPolicy {
    /// The policy set that this was compiled from.
    pub revision: Revision,
    /// Whose policy this is.
    pub identity: Identity,
    /// In order of precedence, both directions mixed; a rule's [`RuleId`] is its index.
    pub rules: Vec<Rule>,
    /// The address book: the identity of each address that some rule's peers name by identity.
    pub addresses: BTreeMap<IpAddr, Identity>,
}

/// One line of a host policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Which flows it is asked about.
    pub direction: Direction,
    /// The layer that it belongs to.
    pub tier: Tier,
    /// What it does. After [`Action::Pass`] the rest of its tier is not asked.
    pub action: Action,
    /// Whether it counts in the enforced verdict or only in the staged one.
    pub mode: Mode,
    /// The other end.
    pub peers: PeerMatch,
    /// Protocols and ports, sorted; empty matches every protocol.
    pub ports: Vec<PortSpan>,
    /// Whether flows that it allows are reported too.
    pub log: bool,
    /// From this moment on the rule is as if it were not there; none: it stays.
    pub expires: Option<Timestamp>,
    /// Where it was written.
    pub origin: Arc<Origin>,
}

/// The other end of a flow, as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerMatch {
    /// Every address of both families.
    Any,
    /// An address in the book with one of these identities, or an address in one of these subnets.
    Of {
        /// Sorted, without duplicates.
        identities: Vec<Identity>,
        /// Sorted, without duplicates.
        subnets: Vec<SubnetMatch>,
    },
}

/// The addresses of a subnet, less those of the subnets excepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SubnetMatch {
    /// The subnet; host bits are zero.
    pub subnet: IpNet,
    /// Parts of it that do not match; sorted.
    pub except: Vec<IpNet>,
}

/// Where a rule was written, for reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// The rule's name, such as `db-ingress/ingress[0]`, `db-ingress/ingress` for the deny that
    /// being selected brings, or `default`.
    pub rule: String,
    /// The file as the author named it; empty where no file wrote the rule.
    pub file: String,
    /// The line in the file, from 1; 0 where no file wrote the rule.
    pub line: u32,
}

impl Origin {
    /// File and line; `None` where no file wrote the rule.
    #[must_use]
    pub fn place(&self) -> Option<String> {
        (!self.file.is_empty()).then(|| match self.line {
            0 => self.file.clone(),
            line => format!("{}:{line}", self.file),
        })
    }
}

impl RuleId {
    /// Stands where no rule matches, which happens only to policies that [`HostPolicy::check`]
    /// refuses. Whoever meets it denies.
    pub const NONE: Self = Self(u32::MAX);
}

/// A host policy that did not come from [`crate::compile()`] as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A flow that no other rule matches would have no verdict.
    #[error("no enforced rule of this policy matches every {0} flow")]
    Open(Direction),
    /// The lists of a rule are searched as sorted ones.
    #[error("rule {0} names peers or ports out of order")]
    Unsorted(usize),
    /// A tier's rules stand together and in the order of the tiers, so that passing has a meaning.
    #[error("rule {0} stands before a rule of an earlier tier")]
    Tiers(usize),
    /// A port span that holds keys which its protocol does not have, or none at all.
    #[error("rule {0} names ports that its protocol does not have")]
    Ports(usize),
}

impl HostPolicy {
    /// The rule that decides the enforced verdict of a flow at a moment, found by asking rule after
    /// rule. `peer` is the other end, `port` what the flow is for. It allows or denies, never passes;
    /// none only for a policy that [`HostPolicy::check`] refuses.
    #[must_use]
    pub fn decide(
        &self,
        direction: Direction,
        peer: IpAddr,
        port: PortKey,
        now: Timestamp,
    ) -> Option<&Rule> {
        let identity = self.addresses.get(&peer).copied();
        let mut passed = None;
        self.rules.iter().find(|rule| {
            let counts = rule.mode == Mode::Enforce
                && rule.expires.is_none_or(|end| now < end)
                && passed != Some(rule.tier)
                && rule.matches(direction, peer, identity, port);
            if counts && rule.action == Action::Pass {
                passed = Some(rule.tier);
            }
            counts && rule.action != Action::Pass
        })
    }

    /// Checks what [`crate::compile()`] promises of its output: for policies that come from elsewhere,
    /// over the wire or from disk.
    ///
    /// # Errors
    /// The first promise that does not hold.
    pub fn check(&self) -> Result<(), Malformed> {
        for direction in Direction::ALL {
            let catches_all = |rule: &Rule| {
                rule.direction == direction
                    && rule.mode == Mode::Enforce
                    && rule.tier == Tier::Default
                    && rule.action != Action::Pass
                    && rule.expires.is_none()
                    && rule.ports.is_empty()
                    && rule.peers == PeerMatch::Any
            };
            if !self.rules.iter().any(catches_all) {
                return Err(Malformed::Open(direction));
            }
        }
        let mut tiers = [Tier::Lifeline; 2];
        for (index, rule) in self.rules.iter().enumerate() {
            let before = &mut tiers[rule.direction as usize];
            if rule.tier < *before {
                return Err(Malformed::Tiers(index));
            }
            *before = rule.tier;
            if let PeerMatch::Of {
                identities,
                subnets,
            } = &rule.peers
                && !(identities.is_sorted_by(|a, b| a < b) && subnets.is_sorted_by(|a, b| a < b))
            {
                return Err(Malformed::Unsorted(index));
            }
            if !rule.ports.is_sorted_by(|a, b| a < b) {
                return Err(Malformed::Unsorted(index));
            }
            if rule
                .ports
                .iter()
                .any(|span| span.first > span.last || span.last > span.slot.last_key())
            {
                return Err(Malformed::Ports(index));
            }
        }
        Ok(())
    }
}

impl Origin {
    /// The origin of a rule that no file wrote.
    #[must_use]
    pub fn unwritten(rule: &str) -> Self {
        Self {
            rule: rule.to_owned(),
            file: String::new(),
            line: 0,
        }
    }
}

impl From<IpNet> for SubnetMatch {
    /// All of the subnet.
    fn from(subnet: IpNet) -> Self {
        Self {
            subnet,
            except: Vec::new(),
        }
    }
}

impl Rule {
    /// Whether the rule speaks of this flow, seen from the judging host.
    #[must_use]
    pub fn matches(
        &self,
        direction: Direction,
        peer: IpAddr,
        identity: Option<Identity>,
        port: PortKey,
    ) -> bool {
        self.direction == direction
            && (self.ports.is_empty() || self.ports.iter().any(|span| span.contains(port)))
            && self.peers.contains(peer, identity)
    }
}

impl PeerMatch {
    /// Whether an address with this identity (none: not in the address book) is one of these peers.
    #[must_use]
    pub fn contains(&self, peer: IpAddr, identity: Option<Identity>) -> bool {
        match self {
            Self::Any => true,
            Self::Of {
                identities,
                subnets,
            } => {
                identity.is_some_and(|identity| identities.binary_search(&identity).is_ok())
                    || subnets.iter().any(|subnet| subnet.contains(peer))
            }
        }
    }
}

impl SubnetMatch {
    /// Whether the address is in the subnet and in none of its exceptions.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.subnet.contains(&address) && !self.except.iter().any(|hole| hole.contains(&address))
    }
}
