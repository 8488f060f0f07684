//! What agents call.

use std::{net::IpAddr, time::Duration};

use proto::{
    Sha256Digest,
    host_report::{Announcement, announce_controllers},
    spiffe::HostId,
    v1::{self, agent_message::Message as Up, controller_message::Message as Down},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Result, Status, Streaming};

use super::{Service, source_of};
use crate::{
    auth,
    controller::{Hello, SessionHandle, claim, reported},
    publish::Watched,
};

/// How long a new stream may take to say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Messages to an agent that wait in its stream.
const BACKLOG: usize = 4;

type Messages = mpsc::Sender<Result<v1::ControllerMessage>>;

#[tonic::async_trait]
impl v1::agents_server::Agents for Service {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>> {
        let source = source_of(&request)?;
        let controller = self.controller.clone();
        let request = request.into_inner();
        self.finish(async move { controller.enrol(source, request).await })
            .await
            .map(Response::new)
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewResponse>> {
        let host = auth::host(&request)?;
        Ok(Response::new(
            self.controller.renew(host, request.get_ref()).await?,
        ))
    }

    type ControlStream = ReceiverStream<Result<v1::ControllerMessage>>;

    async fn control(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::ControlStream>> {
        let host = auth::host(&request)?;
        let source = source_of(&request)?;
        let (down, messages) = mpsc::channel(BACKLOG);
        let service = self.clone();
        self.tasks.spawn(async move {
            if let Err(status) = service
                .serve(host, source, request.into_inner(), &down)
                .await
            {
                tracing::info!(host = %host, status = status.message(), "stream ended");
                // The agent may be gone, and with it the receiver.
                let _ = down.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Service {
    /// The life of one control stream.
    async fn serve(
        &self,
        host: HostId,
        source: IpAddr,
        mut up: Streaming<v1::AgentMessage>,
        down: &Messages,
    ) -> Result<()> {
        let first = tokio::select! {
            first = timeout(HELLO_WITHIN, up.message()) => first,
            () = self.stop.cancelled() => return Err(stopping()),
        };
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(v1::AgentMessage {
            message: Some(Up::Hello(hello)),
        }) = first
        else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        let hello = Hello::try_from(hello)?;
        let applied = hello.applied;
        let mut session = self.controller.open_session(host, source, hello).await?;
        let outcome = self.converse(&mut session, applied, &mut up, down).await;
        self.controller.close_session(&session).await;
        outcome
    }

    async fn converse(
        &self,
        session: &mut SessionHandle,
        applied: Option<Sha256Digest>,
        up: &mut Streaming<v1::AgentMessage>,
        down: &Messages,
    ) -> Result<()> {
        let end = session.end.clone();
        // What the agent has, or will have once it has read what was sent.
        let mut given = applied;
        session.policy.mark_changed();
        // First of all: whatever policy comes, the agent knows the way back.
        if let Some(first) = announcement(session)
            && !self.send(down, &end, first).await?
        {
            return Ok(());
        }
        loop {
            let answer = tokio::select! {
                () = self.stop.cancelled() => return Err(stopping()),
                () = end.cancelled() => return Err(taken_over()),
                changed = session.policy.changed() => {
                    changed.map_err(|_| taken_over())?;
                    update(&session.policy.borrow_and_update(), &mut given)
                }
                changed = session.announced.changed() => {
                    changed.map_err(|_| taken_over())?;
                    announcement(session)
                }
                message = up.message() => match message? {
                    Some(v1::AgentMessage { message: Some(message) }) => {
                        self.hear(session.host, message).await?
                    }
                    // A newer agent may say more than is understood here.
                    Some(v1::AgentMessage { message: None }) => None,
                    None => return Ok(()),
                },
            };
            if let Some(message) = answer
                && !self.send(down, &end, message).await?
            {
                return Ok(());
            }
        }
    }

    /// Sends one message. Returns whether the agent is still there.
    async fn send(&self, down: &Messages, end: &CancellationToken, message: Down) -> Result<bool> {
        let message = v1::ControllerMessage {
            message: Some(message),
        };
        tokio::select! {
            () = self.stop.cancelled() => Err(stopping()),
            () = end.cancelled() => Err(taken_over()),
            sent = down.send(Ok(message)) => Ok(sent.is_ok()),
        }
    }

    /// Takes in one message of an agent.
    async fn hear(&self, host: HostId, message: Up) -> Result<Option<Down>> {
        match message {
            Up::Hello(_) => return Err(Status::invalid_argument("hello was said before")),
            Up::Ack(ack) => {
                self.controller.acknowledged(host, &ack).await?;
                let digest = ack.digest;
                return Ok(Some(Down::AckHeard(v1::AckHeard { digest })));
            }
            Up::Nack(nack) => self.controller.refused(host, nack).await?,
            Up::Addresses(addresses) => {
                self.controller
                    .claim_addresses(host, claim(&addresses)?)
                    .await;
            }
            Up::Report(report) => self.controller.reported(host, reported(report)?).await,
            Up::Heartbeat(heartbeat) => self.controller.heartbeat(host, heartbeat).await,
            Up::Denials(batch) => {
                let sequence = batch.sequence;
                self.controller.keep_denials(host, batch).await?;
                return Ok(Some(Down::DenialsKept(v1::DenialsKept { sequence })));
            }
        }
        Ok(None)
    }
}

/// Where the controller is, if anything of that is known.
fn announcement(session: &mut SessionHandle) -> Option<Down> {
    let same_host = session.same_host;
    let addresses = match session.announced.borrow_and_update().clone() {
        Some(addresses) => addresses,
        None if same_host => Vec::new(),
        None => return None,
    };
    Some(Down::Controllers(announce_controllers(Announcement {
        addresses,
        same_host,
    })))
}

/// The policy to send, if the agent does not have it.
fn update(desired: &Watched, given: &mut Option<Sha256Digest>) -> Option<Down> {
    let desired = desired.as_ref()?;
    if *given == Some(desired.digest) {
        return None;
    }
    *given = Some(desired.digest);
    Some(Down::Policy(v1::PolicyUpdate {
        policy: desired.bytes.clone(),
        digest: desired.digest.to_vec(),
    }))
}

fn stopping() -> Status {
    Status::unavailable("the controller is stopping")
}

fn taken_over() -> Status {
    Status::aborted(
        "another connection with this host's name took over: if this host is enrolled twice, \
         enrol it again with a token of its own",
    )
}
