//! How the other tasks reach the enforcement task, and what they may know of it.

use std::net::IpAddr;

use ipnet::IpNet;
use policy::Revision;
use proto::{Sha256Digest, host_report::HostReport};
use tokio::sync::{mpsc, oneshot, watch};

use crate::state::{
    controllers::WayToControllers, policy_store::EncodedPolicy, rolled_back::RolledBack,
};

/// Commands that wait; each sender waits for its answer, so there are never many.
const QUEUE: usize = 8;

/// What the host enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Names the policy to the controller.
    pub digest: Sha256Digest,
    /// The policy set that it is from.
    pub revision: Revision,
    /// The kernel's number of the tables.
    pub generation: u32,
}

/// What the rest of the agent may know at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// None while the kernel enforces what the controller has to send again.
    pub applied: Option<Applied>,
    /// The host learns its flows: no policy but a quarantine is to be applied yet.
    pub learns: bool,
    /// The policy in force, while the controller was not reached with it.
    pub trial: Option<Sha256Digest>,
    /// What the host went back from, and takes no more.
    pub rolled_back: Option<RolledBack>,
    /// Global addresses of the policed interfaces.
    pub addresses: Vec<IpAddr>,
    /// Since the maps were made.
    pub packets_denied: u64,
    /// Since the maps were made.
    pub events_lost: u64,
    /// Of the fuller flow table, in percent.
    pub flows_percent: u32,
    /// How far the host is protected.
    pub report: HostReport,
}

/// What the task answers to an apply: what is live, or why the policy was refused.
pub type ApplyAnswer = oneshot::Receiver<Result<Applied, String>>;

/// The task has ended; its process is about to.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the enforcement task has ended")]
pub struct Gone;

/// How other tasks reach the enforcement task.
#[derive(Clone, Debug)]
pub struct Enforcement {
    commands: mpsc::Sender<Command>,
    facts: watch::Receiver<Facts>,
}

/// Settings that can change while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where operators come from.
    pub failsafe_subnets: Vec<IpNet>,
    /// The TCP ports that they come to.
    pub failsafe_tcp_ports: Vec<u16>,
    /// The interfaces to police; none means automatic.
    pub interfaces: Vec<String>,
}

/// What the task is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Enforce this policy.
    Apply {
        /// The policy, decoded and checked.
        policy: Box<EncodedPolicy>,
        /// Hears what came of it.
        answer: oneshot::Sender<Result<Applied, String>>,
    },
    /// These are the controllers now: nothing may cut the way to them.
    SetControllers {
        /// Where they are, and what leads there.
        way: WayToControllers,
        /// Hears when it is done.
        answer: oneshot::Sender<()>,
    },
    /// These are the operator's settings now.
    Reload {
        /// Those that can change while the agent runs.
        settings: Settings,
        /// Hears when they are in force.
        answer: oneshot::Sender<()>,
    },
    /// The controller was reached while this policy was in force.
    Reached {
        /// Names the policy.
        digest: Sha256Digest,
        /// Hears when it is noted.
        answer: oneshot::Sender<()>,
    },
    /// Bring what may be known up to date.
    Look {
        /// Hears when it is.
        answer: oneshot::Sender<()>,
    },
    /// Show that the task is alive.
    Ping {
        /// Hears it.
        answer: oneshot::Sender<()>,
    },
}

impl Enforcement {
    /// A way to reach whoever receives the commands.
    #[must_use]
    pub fn new(facts: watch::Receiver<Facts>) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        (Self { commands, facts }, receiver)
    }

    /// Hands a policy over; the answer comes when the kernel enforces it or has refused it.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn apply(&self, policy: EncodedPolicy) -> Result<ApplyAnswer, Gone> {
        let (answer, receiver) = oneshot::channel();
        let command = Command::Apply {
            policy: Box::new(policy),
            answer,
        };
        self.commands.send(command).await.map_err(|_| Gone)?;
        Ok(receiver)
    }

    /// Opens the way to the controllers; returns when it is open.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn set_controllers(&self, way: WayToControllers) -> Result<(), Gone> {
        self.ask(|answer| Command::SetControllers { way, answer })
            .await
    }

    /// Takes other settings up; returns when they are in force.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn reload(&self, settings: Settings) -> Result<(), Gone> {
        self.ask(|answer| Command::Reload { settings, answer })
            .await
    }

    /// Says that the controller was reached while this policy was in force; returns when it is noted.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn reached(&self, digest: Sha256Digest) -> Result<(), Gone> {
        self.ask(|answer| Command::Reached { digest, answer }).await
    }

    /// Returns when the task has shown that it works.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn ping(&self) -> Result<(), Gone> {
        self.ask(|answer| Command::Ping { answer }).await
    }

    /// Returns when the facts are those of now.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn look(&self) -> Result<(), Gone> {
        self.ask(|answer| Command::Look { answer }).await
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> Result<(), Gone> {
        let (answer, receiver) = oneshot::channel();
        self.commands
            .send(command(answer))
            .await
            .map_err(|_| Gone)?;
        receiver.await.map_err(|_| Gone)
    }

    /// What is known now, and when it changes.
    #[must_use]
    pub fn facts(&self) -> watch::Receiver<Facts> {
        self.facts.clone()
    }
}
