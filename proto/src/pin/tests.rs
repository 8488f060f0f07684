#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A TLS server on loopback with a leaf for `name` from `issuer`, that shows `shown` as its CA.
async fn server(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    shown: &CertifiedIssuer<'static, KeyPair>,
) -> String {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    let leaf = params.signed_by(&key, issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone(), shown.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        let _ = TlsAcceptor::from(Arc::new(config)).accept(connection).await;
    });
    address
}

#[tokio::test]
async fn the_ca_that_the_token_names_is_learned() {
    let ca = authority();
    let address = server(&ca, SERVER_NAME, &ca).await;
    let learned = fetch_ca(&address, sha256(ca.der())).await.unwrap();
    assert_eq!(pem::parse(learned).unwrap().contents(), ca.der().as_ref());
}

#[tokio::test]
async fn another_ca_is_refused() {
    let (ca, other) = (authority(), authority());
    let address = server(&other, SERVER_NAME, &other).await;
    let refused = fetch_ca(&address, sha256(ca.der())).await;
    assert!(
        matches!(refused, Err(PinError::OtherCa { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn showing_the_right_ca_without_a_leaf_from_it_is_refused() {
    let (ca, other) = (authority(), authority());
    let address = server(&other, SERVER_NAME, &ca).await;
    let refused = fetch_ca(&address, sha256(ca.der())).await;
    assert!(
        matches!(refused, Err(PinError::Handshake { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_leaf_of_the_ca_for_something_else_than_a_controller_is_refused() {
    let ca = authority();
    let address = server(&ca, "host-1.example", &ca).await;
    let refused = fetch_ca(&address, sha256(ca.der())).await;
    assert!(
        matches!(refused, Err(PinError::Handshake { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_silent_port_is_named() {
    let refused = fetch_ca("127.0.0.1:1", [0; 32]).await;
    assert!(
        matches!(refused, Err(PinError::Connect { .. })),
        "{refused:?}"
    );
}
