//! Why a controller ended the connection, from its TLS alert.
//!
//! In TLS 1.3 the server judges the client's certificate after the client has finished its
//! handshake, so the first call fails; and tonic tells only that the connection is gone.

use std::{sync::Arc, time::Duration};

use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::OperatorFile;

/// How long one address may take to say no.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the controllers have against the operator's certificate, in words; none: nothing.
pub async fn refusal(operator: &OperatorFile) -> Option<String> {
    let config = Arc::new(config(operator).ok()?);
    for address in &operator.controllers {
        match timeout(PATIENCE, alert(address, config.clone()))
            .await
            .ok()
            .flatten()
        {
            Some(AlertDescription::CertificateExpired) => {
                return Some("it has expired".to_owned());
            }
            Some(AlertDescription::UnknownCA) => {
                return Some("another CA issued it".to_owned());
            }
            // A certificate of another CA with the same name fails by its signature.
            Some(AlertDescription::DecryptError | AlertDescription::BadCertificate) => {
                return Some("its signature does not verify, another CA issued it".to_owned());
            }
            Some(alert) => return Some(format!("TLS alert {alert:?}")),
            None => {}
        }
    }
    None
}

fn config(operator: &OperatorFile) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(operator.ca_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let chain = CertificateDer::pem_slice_iter(operator.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(operator.key_pem.as_bytes())?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The alert that the controller answers the handshake with. Without one it sends its HTTP/2
/// settings, and nothing is wrong.
async fn alert(address: &str, config: Arc<ClientConfig>) -> Option<AlertDescription> {
    let connection = TcpStream::connect(address).await.ok()?;
    let name = ServerName::try_from(proto::SERVER_NAME).ok()?;
    let error = match TlsConnector::from(config).connect(name, connection).await {
        Ok(mut connection) => connection.read_u8().await.err()?,
        Err(error) => error,
    };
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    }
}
