//! Telling the controller that the operator has ended enforcement on this host.

use std::time::Duration;

use proto::{
    host_report::{Enforcement, HostReport},
    v1::{AgentMessage, Hello, agent_message},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::session::{SessionError, claim};
use crate::{
    config::Config,
    interfaces::Network,
    state::{StateDir, controllers::Controllers, identity::HostIdentity},
};

/// How long it may take in all: whoever detaches a host waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says hello as a host that enforces nothing, and waits until the controller has taken it in.
///
/// # Errors
/// When no controller takes it in within a few seconds.
pub async fn tell(
    config: &Config,
    state: &StateDir,
    identity: &HostIdentity,
) -> Result<(), SessionError> {
    timeout(PATIENCE, try_tell(config, state, identity))
        .await
        .map_err(|_| SessionError::Silent)?
}

async fn try_tell(
    config: &Config,
    state: &StateDir,
    identity: &HostIdentity,
) -> Result<(), SessionError> {
    let HostIdentity {
        host_name: _,
        ca_pem,
        certificate_chain_pem,
        key_pem,
    } = identity;
    let addresses: Vec<String> = Controllers::load(&config.controllers, state)
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    let channel =
        proto::client::channel(&addresses, ca_pem, certificate_chain_pem, key_pem).await?;
    // The host holds its addresses on, whether it enforces or not.
    let configured: Vec<String> = config.interfaces.iter().cloned().map(Into::into).collect();
    let network = Network::read().unwrap_or_default();
    let held = network.addresses_of(&network.survey(&configured).policed);
    let report = HostReport {
        enforcement: Enforcement::Detached,
        ..HostReport::default()
    };
    let hello = Hello {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        addresses: Some(claim(&held)),
        applied_digest: Vec::new(),
        report: Some(report.into()),
    };
    let (outgoing, messages) = mpsc::channel(1);
    let hello = AgentMessage {
        message: Some(agent_message::Message::Hello(hello)),
    };
    outgoing
        .send(hello)
        .await
        .map_err(|_| SessionError::Ended)?;
    let mut client = proto::client::agents(channel);
    let refused = |status| SessionError::Status(Box::new(status));
    let mut incoming = client
        .control(ReceiverStream::new(messages))
        .await
        .map_err(refused)?
        .into_inner();
    // Whatever comes first answers the hello.
    match incoming.message().await.map_err(refused)? {
        Some(_) => Ok(()),
        None => Err(SessionError::Ended),
    }
}
