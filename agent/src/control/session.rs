//! One stream, from the hello to its end.

mod error;

use std::{future::pending, net::IpAddr, time::Duration};

use policy::{Identity, Revision};
use proto::{
    convert::address_to_bytes,
    host_report::{Announcement, Enforcement, HostReport, announced_controllers},
    v1::{
        AckHeard, AddressClaim, AgentMessage, ControllerMessage, DenialBatch, Heartbeat, Hello,
        PolicyAck, PolicyNack, PolicyUpdate, agent_message, controller_message,
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};
use tracing::{error, info, warn};

use self::error::PATIENCE;
pub use self::error::SessionError;
use crate::{
    enforcement::{self, ApplyAnswer, Facts, Gone},
    error::with_causes,
    spool::{Batch, shared::SharedSpool},
    state::{policy_store::EncodedPolicy, rolled_back::RolledBack},
    systemd,
};

/// How often the controller hears that the host is there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Batches sent and not yet confirmed.
const WINDOW: u64 = 8;
/// Messages between this task and the connection.
const QUEUE: usize = 16;

/// One stream's state.
pub struct Session {
    enforcement: enforcement::Enforcement,
    spool: SharedSpool,
    facts: watch::Receiver<Facts>,
    /// The update that the kernel is getting.
    applying: Option<Applying>,
    /// The newest update that came meanwhile. Older ones are of no use to anybody.
    next: Option<PolicyUpdate>,
    /// The last batch sent on this stream, and the last one confirmed.
    sent: u64,
    kept: u64,
    /// The spool may have more to send.
    more: bool,
    /// How long the answer to an ack may take; none: for ever.
    patience: Option<Duration>,
    /// The ack that is not answered yet.
    unheard: Option<Unheard>,
    /// What was rolled back, as far as the controller was told.
    told: Option<RolledBack>,
    /// The host report, as far as the controller was told.
    reported: HostReport,
    /// The address that the connection comes from.
    source: Option<IpAddr>,
    /// Tells where the controllers say that they are.
    announced: watch::Sender<Option<Announcement>>,
}

/// What a stream needs.
pub struct SessionParts {
    /// The kernel side.
    pub enforcement: enforcement::Enforcement,
    /// Denials that wait.
    pub spool: SharedSpool,
    /// How long the host waits for its controller after a new policy; none: for ever.
    pub rollback_after: Option<Duration>,
    /// The address that the connection comes from; none when it is not known.
    pub source: Option<IpAddr>,
    /// Is told where the controllers say that they are.
    pub announced: watch::Sender<Option<Announcement>>,
}

struct Applying {
    digest: Vec<u8>,
    revision: Revision,
    answer: ApplyAnswer,
}

/// An ack whose answer proves the way to the controller.
struct Unheard {
    digest: Vec<u8>,
    /// When the answer must have come.
    until: Instant,
}

impl Session {
    /// A stream that is about to be opened.
    pub fn new(parts: SessionParts) -> Self {
        let SessionParts {
            enforcement,
            spool,
            rollback_after,
            source,
            announced,
        } = parts;
        let facts = enforcement.facts();
        Self {
            enforcement,
            spool,
            facts,
            applying: None,
            next: None,
            sent: 0,
            kept: 0,
            more: true,
            // The rest of the time is for new connections.
            patience: rollback_after.map(|after| after / 3),
            unheard: None,
            told: None,
            reported: HostReport::default(),
            source,
            announced,
        }
    }

    /// Runs until the stream ends, which it does not do by itself.
    pub async fn run(mut self, channel: Channel) -> SessionError {
        match self.try_run(channel).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_run(
        &mut self,
        channel: Channel,
    ) -> Result<std::convert::Infallible, SessionError> {
        let (outgoing, messages) = mpsc::channel(QUEUE);
        // The controller takes the claim at its word: addresses of some time ago are not good enough.
        self.enforcement.look().await?;
        let facts = self.facts.borrow_and_update().clone();
        let mut claimed = facts.addresses.clone();
        self.reported.clone_from(&facts.report);
        send(&outgoing, agent_message::Message::Hello(hello(&facts))).await?;
        let mut client = proto::client::agents(channel);
        let opening = client.control(ReceiverStream::new(messages));
        let mut incoming = timeout(PATIENCE, opening)
            .await
            .map_err(|_| SessionError::Silent)?
            .map_err(refused)?
            .into_inner();
        info!("connected to a controller");
        systemd::status("enforcing, connected to a controller");

        let mut spooled = self.spool.watch();
        self.spool.with(|spool| spool.rewind());
        self.tell_rollback(&outgoing).await?;
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = incoming.message() => match message.map_err(refused)? {
                    Some(message) => self.receive(message, &outgoing).await?,
                    None => return Err(SessionError::Ended),
                },
                answer = answer_of(&mut self.applying) => {
                    self.report(answer?, &outgoing).await?;
                }
                _ = heartbeat.tick() => {
                    let message = agent_message::Message::Heartbeat(self.heartbeat());
                    send(&outgoing, message).await?;
                }
                changed = self.facts.changed() => {
                    changed.map_err(|_| Gone)?;
                    let addresses = self.facts.borrow_and_update().addresses.clone();
                    self.tell_rollback(&outgoing).await?;
                    self.tell_report(&outgoing).await?;
                    if !self.facts.borrow().learns {
                        self.begin_next(&outgoing).await?;
                    }
                    // The connection is dead, though nobody says so.
                    if let Some(source) = self.source
                        && claimed.contains(&source)
                        && !addresses.contains(&source)
                    {
                        return Err(SessionError::Renumbered);
                    }
                    if addresses != claimed {
                        let claim = claim(&addresses);
                        claimed = addresses;
                        send(&outgoing, agent_message::Message::Addresses(claim)).await?;
                    }
                }
                () = until(self.unheard.as_ref().map(|unheard| unheard.until)) => return Err(SessionError::Unheard),
                _ = spooled.changed() => self.more = true,
                // Room in the queue first: a controller that takes its time with denials must
                // not keep this loop from its policies.
                room = outgoing.reserve(), if self.more && self.sent < self.kept + WINDOW => {
                    let room = room.map_err(|_| SessionError::Ended)?;
                    match self.spool.with(|spool| spool.take()) {
                        Some(batch) => {
                            if self.sent == 0 {
                                self.kept = batch.sequence - 1;
                            }
                            self.sent = batch.sequence;
                            room.send(wrap(agent_message::Message::Denials(batch.into())));
                        }
                        None => self.more = false,
                    }
                }
            }
        }
    }

    async fn receive(
        &mut self,
        message: ControllerMessage,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> Result<(), SessionError> {
        match message.message {
            Some(controller_message::Message::Policy(update)) => {
                if self.applying.is_some() {
                    self.next = Some(update);
                } else {
                    self.begin(update, outgoing).await?;
                }
            }
            Some(controller_message::Message::DenialsKept(kept)) => {
                self.kept = self.kept.max(kept.sequence.min(self.sent));
                self.spool.with(|spool| spool.keep(kept.sequence));
            }
            Some(controller_message::Message::AckHeard(AckHeard { digest })) => {
                if self
                    .unheard
                    .as_ref()
                    .is_some_and(|unheard| unheard.digest == digest)
                {
                    self.unheard = None;
                }
                if let Ok(digest) = digest.try_into() {
                    self.enforcement.reached(digest).await?;
                }
            }
            Some(controller_message::Message::Controllers(addresses)) => {
                match announced_controllers(addresses) {
                    Ok(announced) => _ = self.announced.send_replace(Some(announced)),
                    Err(error) => {
                        warn!(%error, "the controllers' addresses cannot be read; the last ones are kept");
                    }
                }
            }
            // A controller of a later version may say more.
            None => warn!("a message of an unknown kind came; update the agent"),
        }
        Ok(())
    }

    /// Checks an update and hands it to the kernel side, or refuses it. While the host learns its flows it
    /// waits, and makes way for a newer one; a quarantine does not wait.
    async fn begin(
        &mut self,
        update: PolicyUpdate,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> Result<(), SessionError> {
        let learns = self.facts.borrow().learns;
        let held = learns.then(|| update.clone());
        let PolicyUpdate { policy, digest } = update;
        match block_in_place(|| EncodedPolicy::decode(policy.into(), &digest)) {
            Ok(policy) if learns && policy.policy().identity != Identity::QUARANTINED => {
                info!(revision = %policy.policy().revision, "a policy waits: the host learns its flows first");
                self.next = held;
                Ok(())
            }
            Ok(policy) => {
                // What waits is older.
                self.next = None;
                let revision = policy.policy().revision;
                let answer = self.enforcement.apply(policy).await?;
                self.applying = Some(Applying {
                    digest,
                    revision,
                    answer,
                });
                Ok(())
            }
            Err(problem) => {
                let reason = with_causes(&problem);
                error!(reason, "a policy cannot be read; the old one stays");
                // Which revision it was to be is in what cannot be read.
                let nack = PolicyNack {
                    digest,
                    revision: 0,
                    reason,
                };
                send(outgoing, agent_message::Message::Nack(nack)).await
            }
        }
    }

    /// Tells the controller what came of an update, and takes up the next one.
    async fn report(
        &mut self,
        answer: Answer,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> Result<(), SessionError> {
        let Answer {
            digest,
            revision,
            result,
        } = answer;
        let revision = revision.0;
        let message = match result {
            Ok(applied) => {
                systemd::status(&format!("enforcing revision {revision}"));
                let generation = applied.generation;
                // An older controller answers nothing; where nothing is on trial, nothing hangs on it.
                let on_trial = self.facts.borrow().trial.is_some();
                let patience = self.patience.filter(|_| on_trial);
                self.unheard = patience.map(|patience| Unheard {
                    digest: digest.clone(),
                    until: Instant::now() + patience,
                });
                agent_message::Message::Ack(PolicyAck {
                    digest,
                    revision,
                    generation,
                })
            }
            Err(reason) => agent_message::Message::Nack(PolicyNack {
                digest,
                revision,
                reason,
            }),
        };
        self.tell_report(outgoing).await?;
        send(outgoing, message).await?;
        self.begin_next(outgoing).await
    }

    /// Tells the controller what the host says of itself, when that has changed. A policy that protected
    /// nothing was refused; once it protects something it is acknowledged.
    async fn tell_report(
        &mut self,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> Result<(), SessionError> {
        let Facts {
            applied, report, ..
        } = self.facts.borrow().clone();
        if self.reported == report {
            return Ok(());
        }
        let protected_nothing = self.reported.enforcement == Enforcement::PolicesNothing;
        self.reported.clone_from(&report);
        let protects = report.enforcement != Enforcement::PolicesNothing;
        let message = agent_message::Message::Report(report.into());
        send(outgoing, message).await?;
        match applied {
            Some(applied) if protected_nothing && protects => {
                let ack = PolicyAck {
                    digest: applied.digest.into(),
                    revision: applied.revision.0,
                    generation: applied.generation,
                };
                send(outgoing, agent_message::Message::Ack(ack)).await
            }
            _ => Ok(()),
        }
    }

    /// Takes up the update that waits; it may have to wait on.
    async fn begin_next(
        &mut self,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> Result<(), SessionError> {
        if self.applying.is_some() {
            return Ok(());
        }
        match self.next.take() {
            Some(update) => self.begin(update, outgoing).await,
            None => Ok(()),
        }
    }

    /// Tells the controller of a policy that was rolled back, and what is enforced in its place.
    async fn tell_rollback(
        &mut self,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> Result<(), SessionError> {
        let Facts {
            applied,
            rolled_back,
            ..
        } = self.facts.borrow().clone();
        if self.told == rolled_back {
            return Ok(());
        }
        self.told.clone_from(&rolled_back);
        let Some(rolled_back) = rolled_back else {
            return Ok(());
        };
        self.unheard = None;
        if let Some(applied) = applied {
            let ack = PolicyAck {
                digest: applied.digest.into(),
                revision: applied.revision.0,
                generation: applied.generation,
            };
            send(outgoing, agent_message::Message::Ack(ack)).await?;
        }
        let nack = PolicyNack {
            digest: rolled_back.digest.into(),
            revision: rolled_back.revision.0,
            reason: rolled_back.reason(),
        };
        send(outgoing, agent_message::Message::Nack(nack)).await
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            denials_lost: self.spool.with(|spool| spool.lost()),
            packets_denied: self.facts.borrow().packets_denied,
            flows_percent: self.facts.borrow().flows_percent,
        }
    }
}

/// What came of an update.
struct Answer {
    digest: Vec<u8>,
    revision: Revision,
    result: Result<enforcement::Applied, String>,
}

/// Waits for the update that is being applied; for ever where none is.
async fn answer_of(applying: &mut Option<Applying>) -> Result<Answer, Gone> {
    let Some(update) = applying else {
        return pending().await;
    };
    let result = (&mut update.answer).await.map_err(|_| Gone)?;
    match applying.take() {
        Some(Applying {
            digest, revision, ..
        }) => Ok(Answer {
            digest,
            revision,
            result,
        }),
        None => pending().await,
    }
}

/// Waits for a moment; for ever where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

fn hello(facts: &Facts) -> Hello {
    Hello {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        addresses: Some(claim(&facts.addresses)),
        // A policy that protects nothing is not enforced.
        applied_digest: facts
            .applied
            .as_ref()
            .filter(|_| facts.report.enforcement != Enforcement::PolicesNothing)
            .map_or(Vec::new(), |applied| applied.digest.into()),
        report: Some(facts.report.clone().into()),
    }
}

/// The message that claims these addresses.
pub fn claim(addresses: &[IpAddr]) -> AddressClaim {
    AddressClaim {
        addresses: addresses.iter().copied().map(address_to_bytes).collect(),
    }
}

impl From<Batch> for DenialBatch {
    fn from(batch: Batch) -> Self {
        let Batch {
            sequence,
            lost,
            denials,
        } = batch;
        Self {
            sequence,
            lost,
            denials: denials.into_iter().map(Into::into).collect(),
        }
    }
}

fn wrap(message: agent_message::Message) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

async fn send(
    outgoing: &mpsc::Sender<AgentMessage>,
    message: agent_message::Message,
) -> Result<(), SessionError> {
    outgoing
        .send(wrap(message))
        .await
        .map_err(|_| SessionError::Ended)
}

fn refused(status: Status) -> SessionError {
    SessionError::Status(Box::new(status))
}
