//! The words of the field, as types.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number that the controller gives to one distinct set of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub u32);

impl Identity {
    /// Everything that no segment and no inventory names.
    pub const WORLD: Self = Self(1);
    /// An address that no agent of this controller holds, but that a subnet segment names.
    pub const UNMANAGED: Self = Self(2);
    /// The controllers themselves.
    pub const CONTROLLER: Self = Self(3);
    /// Every host in quarantine, whatever its labels.
    pub const QUARANTINED: Self = Self(4);
    /// The first identity that stands for a set of labels.
    pub const FIRST: Self = Self(256);
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WORLD => f.write_str("world"),
            Self::UNMANAGED => f.write_str("unmanaged"),
            Self::CONTROLLER => f.write_str("controller"),
            Self::QUARANTINED => f.write_str("quarantined"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// The controller's number of a policy set; each accepted change takes the next one. 0 is "none yet".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The direction of the packet that opens a flow, seen from the host that judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Into the host.
    Ingress,
    /// Out of the host.
    Egress,
}

impl Direction {
    /// Both, in the order in which they are numbered in tables.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// What a rule does with a flow that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The flow passes on this side.
    Allow,
    /// The flow is dropped on this side.
    Deny,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// What a rule does with a flow that it matches, tier by tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Decides: the flow passes on this side.
    Allow,
    /// Decides: the flow is dropped on this side.
    Deny,
    /// Decides nothing: no other rule of its tier is asked, the next tier is.
    Pass,
}

impl Action {
    /// The verdict that the action gives; none if it leaves that to the next tier.
    #[must_use]
    pub const fn effect(self) -> Option<Effect> {
        match self {
            Self::Allow => Some(Effect::Allow),
            Self::Deny => Some(Effect::Deny),
            Self::Pass => None,
        }
    }
}

impl From<Effect> for Action {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Allow => Self::Allow,
            Effect::Deny => Self::Deny,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Pass => "pass",
        })
    }
}

/// A moment: whole seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// Whether a policy acts, or only counts in the staged verdict. The stronger comes first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Counts in the enforced verdict and in the staged one.
    #[default]
    Enforce,
    /// Counts in the staged verdict only.
    Observe,
}

/// The layers of policy, outermost first: an earlier one decides before a later one is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// The controller's addresses and DHCP: what nothing cuts.
    Lifeline,
    /// A quarantined host, on itself and on its peers.
    Quarantine,
    /// The operator's way in: below every policy, cut by quarantine alone.
    Failsafe,
    /// A packet from outside that claims one of this host's own addresses.
    AntiSpoofing,
    /// What nothing below can override, in order of priority.
    Guardrail,
    /// What is allowed for a while, beside the policies.
    Exception,
    /// What policies allow, and the deny that being selected by one brings.
    Policy,
    /// As guardrails, for what no policy decides.
    Baseline,
    /// What holds when nothing above decides.
    Default,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lifeline => "lifeline",
            Self::Quarantine => "quarantine",
            Self::Failsafe => "failsafe",
            Self::AntiSpoofing => "anti-spoofing",
            Self::Guardrail => "guardrail",
            Self::Exception => "exception",
            Self::Policy => "policy",
            Self::Baseline => "baseline",
            Self::Default => "default",
        })
    }
}
