//! Nobody is who they say they are.

use std::time::{Duration, SystemTime};

use bulkhead_controller::ca::{CertificateAuthority, HOST_LIFE, Validity};
use proto::{
    client, pin, sha256,
    spiffe::{HostId, SpiffeId},
    v1,
};
use tonic::Code;

use crate::site::{Credentials, Site, spiffe_id};

fn credentials(ca: &CertificateAuthority, id: &SpiffeId, validity: Validity) -> Credentials {
    let issued = ca.issue(id, &[], validity).unwrap();
    Credentials {
        chain_pem: issued.chain_pem,
        key_pem: issued.key_pem,
    }
}

fn operator() -> SpiffeId {
    SpiffeId::Operator("ann".into())
}

/// What a client says that was refused before it could call anything. Which TLS alert it was comes
/// after it, if the alert was read before the connection was gone.
const NO_HANDSHAKE: &str = "transport error";

/// What the controller makes of an operator's call with these credentials: the TLS alert or the
/// gRPC status, as text.
async fn status_with(site: &Site, who: &Credentials) -> Result<(), String> {
    let channel = site.channel(who).await.map_err(|error| error.to_string())?;
    // In TLS 1.3 a client hears of its own refusal only when it reads.
    match client::operators(channel)
        .status(v1::StatusRequest {})
        .await
    {
        Ok(_) => Ok(()),
        Err(status) => Err(format!("{status:?}")),
    }
}

#[tokio::test]
async fn a_certificate_from_another_ca_is_refused() {
    let site = Site::new().await;
    let life = Validity::of(HOST_LIFE);
    let good = credentials(&site.ca(), &operator(), life);
    status_with(&site, &good).await.unwrap();

    let other = CertificateAuthority::create().unwrap();
    let refused = status_with(&site, &credentials(&other, &operator(), life))
        .await
        .unwrap_err();
    assert!(refused.contains(NO_HANDSHAKE), "{refused}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let site = Site::new().await;
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let past = Validity {
        from: now - 2 * hour,
        until: now - hour,
    };
    let refused = status_with(&site, &credentials(&site.ca(), &operator(), past))
        .await
        .unwrap_err();
    assert!(refused.contains(NO_HANDSHAKE), "{refused}");
    let future = Validity {
        from: now + hour,
        until: now + 2 * hour,
    };
    status_with(&site, &credentials(&site.ca(), &operator(), future))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_hosts_certificate_on_an_operators_call_is_refused_and_says_so() {
    let site = Site::new().await;
    let host = site.enrol("web-1", "web").await;
    let channel = site.channel(&host.credentials).await.unwrap();
    let mut client = client::operators(channel);
    let refused = client
        .list_hosts(v1::ListHostsRequest {})
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("that of the host"),
        "{}",
        refused.message()
    );
    let release = v1::ReleaseRequest {
        host: "web-1".into(),
    };
    assert_eq!(
        client.release(release).await.unwrap_err().code(),
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn an_operators_certificate_on_a_hosts_call_is_refused_and_says_so() {
    let site = Site::new().await;
    let channel = site.channel(&site.operator_credentials()).await.unwrap();
    let renew = v1::RenewRequest {
        csr_pem: String::new(),
    };
    let refused = client::agents(channel).renew(renew).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("operator ann"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn without_a_certificate_only_enrolment_can_be_called() {
    let site = Site::new().await;
    let anonymous = site.anonymous().await;
    let status = client::operators(anonymous.clone())
        .status(v1::StatusRequest {})
        .await;
    assert_eq!(status.unwrap_err().code(), Code::Unauthenticated);
    let renew = v1::RenewRequest {
        csr_pem: String::new(),
    };
    let renewed = client::agents(anonymous.clone()).renew(renew).await;
    assert_eq!(renewed.unwrap_err().code(), Code::Unauthenticated);
    let control = client::agents(anonymous)
        .control(tokio_stream::empty())
        .await;
    assert_eq!(control.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_good_certificate_of_a_host_that_was_never_enrolled_is_refused() {
    let site = Site::new().await;
    let forged = SpiffeId::Host(HostId([1; 16]));
    let who = credentials(&site.ca(), &forged, Validity::of(HOST_LIFE));
    let mut client = client::agents(site.channel(&who).await.unwrap());
    let refused = client
        .renew(v1::RenewRequest {
            csr_pem: String::new(),
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn the_controllers_own_certificate_makes_no_calls() {
    let site = Site::new().await;
    let own = credentials(&site.ca(), &SpiffeId::Controller, Validity::of(HOST_LIFE));
    // It is good for a server only, which the handshake checks.
    let refused = status_with(&site, &own).await.unwrap_err();
    assert!(refused.contains(NO_HANDSHAKE), "{refused}");
}

#[tokio::test]
async fn a_new_host_learns_the_ca_from_the_hash_in_its_token() {
    let site = Site::new().await;
    let token = site.token(crate::site::token_for("web")).await;
    let learned = pin::fetch_ca(&site.address(), token.ca_sha256)
        .await
        .unwrap();
    assert_eq!(learned.trim(), site.ca_pem.trim());
    let wrong = pin::fetch_ca(&site.address(), sha256(b"another")).await;
    assert!(
        matches!(wrong, Err(pin::PinError::OtherCa { .. })),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn a_host_renews_its_certificate_and_keeps_its_id() {
    let site = Site::new().await;
    let host = site.enrol("web-1", "web").await;
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let request = v1::RenewRequest {
        csr_pem: csr.pem().unwrap(),
    };
    let renewed = host
        .client(&site)
        .await
        .renew(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        spiffe_id(&renewed.certificate_chain_pem),
        spiffe_id(&host.credentials.chain_pem)
    );
    let renewed = crate::agent::Host {
        name: host.name,
        credentials: Credentials {
            chain_pem: renewed.certificate_chain_pem,
            key_pem: key.serialize_pem(),
        },
    };
    renewed.connect(&site, &[]).await.policy().await;
}
