//! Reaching a controller whose CA is known.

use std::{error::Error, io, time::Duration};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{
    MAX_MESSAGE_BYTES, SERVER_NAME,
    v1::{agents_client::AgentsClient, operators_client::OperatorsClient},
};

/// How long the TCP connection and the TLS handshake may take, each.
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection that was silent this long is asked whether it still lives.
const PING_AFTER: Duration = Duration::from_secs(10);
/// How long the answer may take. Both together: a dead peer is noticed within 15 seconds.
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// Why no controller could be reached.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// There is nothing to try.
    #[error("no controller address is configured")]
    NoAddress,
    /// Each address was tried.
    #[error("no controller can be reached: {}", failures.join("; "))]
    Unreachable {
        /// What came of each.
        failures: Vec<String>,
        /// Those of which somebody said that nobody listens there.
        refused: Vec<String>,
    },
}

/// Connects to the first of `addresses` (`host:port`) that answers and that `ca_pem` vouches for,
/// with a client certificate (leaf first) and its key.
///
/// # Errors
/// [`ChannelError`] names each address that was tried and why it failed.
pub async fn channel(
    addresses: &[String],
    ca_pem: &str,
    cert_pem: &str,
    key_pem: &str,
) -> Result<Channel, ChannelError> {
    channel_and_address(addresses, ca_pem, cert_pem, key_pem)
        .await
        .map(|(channel, _)| channel)
}

/// As [`channel`], with the address of the one that answered.
///
/// # Errors
/// As [`channel`].
pub async fn channel_and_address(
    addresses: &[String],
    ca_pem: &str,
    cert_pem: &str,
    key_pem: &str,
) -> Result<(Channel, String), ChannelError> {
    connect(
        addresses,
        ca_pem,
        Some(Identity::from_pem(cert_pem, key_pem)),
    )
    .await
}

/// As [`channel`], without a client certificate: good for [`AgentsClient::enroll`] only.
///
/// # Errors
/// As [`channel`].
pub async fn channel_without_certificate(
    addresses: &[String],
    ca_pem: &str,
) -> Result<Channel, ChannelError> {
    connect(addresses, ca_pem, None)
        .await
        .map(|(channel, _)| channel)
}

/// A client for an agent's calls, with the message limit that both sides agree on.
#[must_use]
pub fn agents(channel: Channel) -> AgentsClient<Channel> {
    AgentsClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// A client for an operator's calls, with the message limit that both sides agree on.
#[must_use]
pub fn operators(channel: Channel) -> OperatorsClient<Channel> {
    OperatorsClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

async fn connect(
    addresses: &[String],
    ca_pem: &str,
    identity: Option<Identity>,
) -> Result<(Channel, String), ChannelError> {
    if addresses.is_empty() {
        return Err(ChannelError::NoAddress);
    }
    let mut tls = ClientTlsConfig::new()
        .domain_name(SERVER_NAME)
        .ca_certificate(Certificate::from_pem(ca_pem))
        .timeout(PATIENCE);
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let mut failures = Vec::new();
    let mut refused = Vec::new();
    for address in addresses {
        match connect_to(address, tls.clone()).await {
            Ok(channel) => return Ok((channel, address.clone())),
            Err(error) => {
                if is_refused(&error) {
                    refused.push(address.clone());
                }
                failures.push(format!("{address}: {}", causes(&error)));
            }
        }
    }
    Err(ChannelError::Unreachable { failures, refused })
}

async fn connect_to(
    address: &str,
    tls: ClientTlsConfig,
) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(tls)?
        .connect_timeout(PATIENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true)
        .connect()
        .await
}

fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        next = cause.source();
    }
    false
}

/// An error and what caused it, in one line: tonic's own text is only "transport error".
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
