//! First contact: learning the CA certificate from a controller that is not trusted yet.
//!
//! The token carries the SHA-256 of the CA certificate. [`fetch_ca`] completes a TLS handshake only
//! with a server that shows a CA with this hash and a leaf that this CA issued for
//! [`SERVER_NAME`], and sends nothing. Everything after it uses the CA that it returns.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{SERVER_NAME, Sha256Digest, sha256};

/// How long the connection and the handshake may take, each.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a controller's CA could not be learned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// No connection.
    #[error("connecting to the controller at {address}")]
    Connect {
        /// As it was given.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server shows another CA, or none.
    #[error(
        "the server at {address} does not show the CA that the token names: it is not the \
         controller that made the token, or somebody is between; check the address, or ask the \
         operator for a new token (`bulkhead token create`)"
    )]
    OtherCa {
        /// As it was given.
        address: String,
    },
    /// The CA is the right one, but the handshake fails.
    #[error("verifying the controller at {address}")]
    Handshake {
        /// As it was given.
        address: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
}

/// Learns the CA certificate (PEM) of the controller at `address` (`host:port`), given its SHA-256.
///
/// # Errors
/// [`PinError`] when nobody answers within seconds, the server shows another CA, or its own
/// certificate is not one that the CA issued for a controller.
pub async fn fetch_ca(address: &str, ca_sha256: Sha256Digest) -> Result<String, PinError> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let connection = timeout(PATIENCE, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(late()))
        .map_err(|source| PinError::Connect {
            address: address.to_owned(),
            source,
        })?;

    let refused = |source| PinError::Handshake {
        address: address.to_owned(),
        source,
    };
    let verifier = Arc::new(PinnedCa::new(ca_sha256));
    let config = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let name = server_name().map_err(|error| refused(io::Error::other(error)))?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, connection);
    let outcome = timeout(PATIENCE, handshake)
        .await
        .unwrap_or_else(|_| Err(late()));
    match (outcome, verifier.found.get()) {
        (Ok(_), Some(Some(ca))) => Ok(to_pem(ca)),
        (Err(source), Some(Some(_)) | None) => Err(refused(source)),
        (_, Some(None)) | (Ok(_), None) => Err(PinError::OtherCa {
            address: address.to_owned(),
        }),
    }
}

fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let pem = pem::Pem::new("CERTIFICATE", certificate.to_vec());
    pem::encode_config(
        &pem,
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

fn server_name() -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from(SERVER_NAME).map_err(|error| rustls::Error::General(error.to_string()))
}

/// Believes one CA: the one with this hash, found in the chain that the server presents.
#[derive(Debug)]
struct PinnedCa {
    sha256: Sha256Digest,
    provider: Arc<CryptoProvider>,
    /// Set when the server has shown its chain: the CA in it, if it was there.
    found: OnceLock<Option<CertificateDer<'static>>>,
}

impl PinnedCa {
    fn new(sha256: Sha256Digest) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Self {
            sha256,
            provider,
            found: OnceLock::new(),
        }
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| sha256(certificate) == self.sha256);
        let ca = self
            .found
            .get_or_init(|| ca.map(|ca| ca.clone().into_owned()));
        let ca = ca.clone().ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca)?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], &server_name()?, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests;
