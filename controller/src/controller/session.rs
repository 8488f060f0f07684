//! The control stream of one agent, as the controller sees it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use proto::{Sha256Digest, host_report::HostReport, spiffe::HostId, v1};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Controller, blocking, enrol::replaced};
use crate::{
    error::{Error, Result},
    own,
    publish::Watched,
    state::State,
};

/// The longest text of a host that is kept and shown, in bytes.
const MAX_TEXT: usize = 1_024;

/// What an agent says first.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Its version.
    pub agent_version: String,
    /// As `uname -r` has it.
    pub kernel_release: String,
    /// The addresses that it claims.
    pub addresses: BTreeSet<IpAddr>,
    /// What it enforces; none before its first policy.
    pub applied: Option<Sha256Digest>,
    /// How far it is protected; none of an agent that is older than host reports.
    pub report: Option<HostReport>,
}

/// What the task of a stream holds.
#[derive(Debug)]
pub struct SessionHandle {
    /// Whose it is.
    pub host: HostId,
    /// Which of the host's streams it is.
    pub number: u64,
    /// What the host is to enforce.
    pub policy: watch::Receiver<Watched>,
    /// Whether the host is the controller's own machine: its connection comes from there.
    pub same_host: bool,
    /// Where the controller is; none until it is known.
    pub announced: watch::Receiver<Option<Vec<SocketAddr>>>,
    /// Cancelled when another stream takes over, or the host is gone.
    pub end: CancellationToken,
}

impl TryFrom<v1::Hello> for Hello {
    type Error = Error;

    fn try_from(hello: v1::Hello) -> Result<Self> {
        let v1::Hello {
            agent_version,
            kernel_release,
            addresses,
            applied_digest,
            report,
        } = hello;
        Ok(Self {
            agent_version: short(agent_version),
            kernel_release: short(kernel_release),
            addresses: claim(&addresses.unwrap_or_default())?,
            applied: digest(&applied_digest)?,
            report: report.map(reported).transpose()?,
        })
    }
}

/// The addresses of a claim; IPv4 addresses written as IPv6 ones are IPv4 addresses.
pub fn claim(claim: &v1::AddressClaim) -> Result<BTreeSet<IpAddr>> {
    let v1::AddressClaim { addresses } = claim;
    addresses
        .iter()
        .map(|bytes| proto::convert::address_from_bytes(bytes).map(|it| it.to_canonical()))
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::Invalid(format!("reading the claimed addresses: {error}")))
}

/// What a host says of itself.
pub fn reported(report: v1::HostReport) -> Result<HostReport> {
    HostReport::try_from(report)
        .map_err(|error| Error::Invalid(format!("reading the host's report: {error}")))
}

/// A text of a host, cut off where it is longer than any honest one.
fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

/// A digest; empty is none.
fn digest(bytes: &[u8]) -> Result<Option<Sha256Digest>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let wrong = |_| Error::Invalid(format!("a digest has {} bytes, not 32", bytes.len()));
    bytes.try_into().map(Some).map_err(wrong)
}

impl Controller {
    /// Takes a host's stream in, in place of one that it may have.
    ///
    /// # Errors
    /// When the host has been replaced.
    pub async fn open_session(
        &self,
        id: HostId,
        source: IpAddr,
        hello: Hello,
    ) -> Result<SessionHandle> {
        let Hello {
            agent_version,
            kernel_release,
            addresses,
            applied,
            report: reported,
        } = hello;
        let own = blocking("reading this machine's addresses", own::of_this_machine).await?;
        let same_host = source.is_loopback() || own.contains(&source);
        let mut state = self.lock().await;
        let name = state.host(id).ok_or_else(|| replaced(id))?.name.clone();
        tracing::info!(host = %name, %source, agent_version, kernel_release, "connected");
        let (number, end) = state.open_session(id, source);
        let policy = state.publisher.watch(id);
        let desired = state.publisher.current(id);
        state.report(id, |report| {
            report.agent_version = agent_version;
            report.kernel_release = kernel_release;
            report.applied_digest = applied;
            match desired {
                Some(desired) if Some(desired.digest) == applied => {
                    report.applied_revision = desired.policy.revision;
                    report.accepted();
                }
                _ if applied.is_none() => report.applied_revision = policy::Revision(0),
                _ => {}
            }
        });
        take_report(&mut state, id, reported);
        if let Some(session) = state.sessions.get_mut(&id) {
            session.claimed = addresses;
        }
        self.judge(&mut state, id).await;
        Ok(SessionHandle {
            host: id,
            number,
            policy,
            same_host,
            announced: self.announced.subscribe(),
            end,
        })
    }

    /// Notes that a stream is over.
    pub async fn close_session(&self, session: &SessionHandle) {
        let mut state = self.lock().await;
        state.close_session(session.host, session.number);
        if let Some(host) = state.host(session.host) {
            tracing::info!(host = %host.name, "disconnected");
        }
    }

    /// Takes a change of a host's addresses.
    pub async fn claim_addresses(&self, id: HostId, addresses: BTreeSet<IpAddr>) {
        let mut state = self.lock().await;
        if let Some(session) = state.sessions.get_mut(&id) {
            session.claimed = addresses;
        }
        self.judge(&mut state, id).await;
    }

    /// Notes that a host enforces what was sent.
    ///
    /// # Errors
    /// When the digest is not one.
    pub async fn acknowledged(&self, id: HostId, ack: &v1::PolicyAck) -> Result<()> {
        let v1::PolicyAck {
            digest: bytes,
            revision,
            generation,
        } = ack;
        let applied = digest(bytes)?;
        let mut state = self.lock().await;
        if let Some(host) = state.host(id) {
            tracing::debug!(host = %host.name, revision, generation, "applied");
        }
        state.report(id, |report| {
            report.applied_digest = applied;
            report.applied_revision = policy::Revision(*revision);
            report.accepted();
        });
        Ok(())
    }

    /// Notes that a host refused what was sent, and keeps what it had.
    ///
    /// # Errors
    /// The digest is none.
    pub async fn refused(&self, id: HostId, nack: v1::PolicyNack) -> Result<()> {
        let v1::PolicyNack {
            digest: refused,
            revision,
            reason,
        } = nack;
        let reason = short(reason);
        let refused = digest(&refused)?;
        let mut state = self.lock().await;
        if let Some(host) = state.host(id) {
            tracing::error!(host = %host.name, revision, reason, "the host refused its policy");
        }
        state.report(id, |report| {
            report.refused_digest = refused;
            report.refusal = if reason.is_empty() {
                "no reason given".into()
            } else {
                reason
            };
        });
        Ok(())
    }

    /// Notes what a host says of itself, and logs what has changed about how far it is protected.
    pub async fn reported(&self, id: HostId, reported: HostReport) {
        take_report(&mut *self.lock().await, id, Some(reported));
    }

    /// Notes a host's counters.
    pub async fn heartbeat(&self, id: HostId, heartbeat: v1::Heartbeat) {
        let v1::Heartbeat {
            denials_lost,
            packets_denied,
            flows_percent,
        } = heartbeat;
        self.lock().await.report(id, |report| {
            report.denials_lost = report.denials_lost.max(denials_lost);
            report.packets_denied = packets_denied;
            report.flows_percent = flows_percent.min(100);
        });
    }
}

/// More problems of a host than these are not logged; `bulkhead hosts -o json` has them all.
const MOST_PROBLEMS: usize = 4;

/// Keeps what a host says of itself, and logs what has changed about how far it is protected.
fn take_report(state: &mut State, id: HostId, reported: Option<HostReport>) {
    let Some(host) = state.host(id) else { return };
    let before = host.report.host.as_ref().map(|it| it.enforcement);
    let now = reported.as_ref().map(|it| it.enforcement);
    if let Some(reported) = &reported
        && before != now
    {
        let (host, enforcement) = (&host.name, reported.enforcement.word());
        if reported.enforcement.confirms() {
            tracing::info!(%host, enforcement, "the host's protection has changed");
        } else {
            let problems = &reported.problems[..reported.problems.len().min(MOST_PROBLEMS)];
            let problems = problems.join("; ");
            tracing::warn!(%host, enforcement, problems, "the host's protection has changed");
        }
    }
    state.report(id, |report| report.host = reported);
}
