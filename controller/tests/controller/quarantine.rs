//! A quarantined host is one for itself and for its peers.

use policy::{Identity, Tier};
use proto::v1::{self, agent_message::Message as Up};
use tonic::Code;

use crate::site::{POLICY, Site, addresses, claim, token_for};

fn request(host: &str, reason: &str) -> v1::QuarantineRequest {
    v1::QuarantineRequest {
        host: host.into(),
        reason: reason.into(),
        including_the_controller: false,
    }
}

#[tokio::test]
async fn quarantine_reaches_the_host_and_its_peers_and_release_takes_it_back() {
    let site = Site::new().await;
    site.apply(POLICY).await;
    let (web, db) = (
        site.enrol("web-1", "web").await,
        site.enrol("db-1", "db").await,
    );
    let mut web = web.connect(&site, &["10.1.0.1"]).await;
    let mut db = db.connect(&site, &["10.2.0.1"]).await;
    let address = "10.1.0.1".parse().unwrap();
    let (before, _) = db
        .apply_until(|policy| policy.addresses.contains_key(&address))
        .await;

    let mut operator = site.operator().await;
    let answer = operator
        .quarantine(request("web-1", "it scans"))
        .await
        .unwrap();
    assert!(answer.into_inner().changed);
    let again = operator
        .quarantine(request("web-1", "once more"))
        .await
        .unwrap();
    assert!(!again.into_inner().changed);

    let (own, _) = web
        .apply_until(|policy| policy.identity == Identity::QUARANTINED)
        .await;
    assert!(own.rules.iter().any(|rule| rule.tier == Tier::Quarantine));
    db.apply_until(|policy| policy.addresses.get(&address) == Some(&Identity::QUARANTINED))
        .await;
    let status = site.host_when("web-1", |host| host.in_sync).await;
    assert!(status.quarantined);
    assert_eq!(status.quarantine_reason, "it scans");
    assert_eq!(status.identity, Identity::QUARANTINED.0);
    assert_eq!(site.status().await.hosts_quarantined, 1);

    let release = v1::ReleaseRequest {
        host: "web-1".into(),
    };
    assert!(
        operator
            .release(release.clone())
            .await
            .unwrap()
            .into_inner()
            .changed
    );
    assert!(
        !operator
            .release(release)
            .await
            .unwrap()
            .into_inner()
            .changed
    );
    let (after, _) = db.apply_until(|policy| *policy == before).await;
    assert_eq!(after.revision, before.revision);
    web.apply_until(|policy| policy.identity != Identity::QUARANTINED)
        .await;
}

#[tokio::test]
async fn a_host_in_quarantine_cannot_talk_or_enrol_its_way_out_of_it() {
    let site = Site::new().await;
    let (web, db) = (
        site.enrol("web-1", "web").await,
        site.enrol("db-1", "db").await,
    );
    let mut stream = web.connect(&site, &["10.1.0.1"]).await;
    let mut db = db.connect(&site, &["10.2.0.1"]).await;
    stream.policy().await;
    site.host_when("web-1", |host| !host.addresses.is_empty())
        .await;
    let mut operator = site.operator().await;
    operator
        .quarantine(request("web-1", "it scans"))
        .await
        .unwrap();
    let shut_out = |policy: &policy::HostPolicy, address: &str| {
        policy.addresses.get(&address.parse().unwrap()) == Some(&Identity::QUARANTINED)
    };
    db.apply_until(|policy| shut_out(policy, "10.1.0.1")).await;

    // It says that it has no address any more, and then that it has another one.
    stream.say(Up::Addresses(claim(&[]))).await;
    stream.say(Up::Addresses(claim(&["10.1.0.2"]))).await;
    let (peers, _) = db.apply_until(|policy| shut_out(policy, "10.1.0.2")).await;
    assert!(shut_out(&peers, "10.1.0.1"), "{:?}", peers.addresses);

    // It is enrolled again, and has not been heard of since.
    drop(stream);
    let token = v1::CreateTokenRequest {
        host_name: "web-1".into(),
        ..token_for("web")
    };
    let token = site.token(token).await;
    let web = site.try_enrol(&token, "web-1").await.unwrap();
    let status = site.host("web-1").await;
    assert!(status.quarantined);
    assert_eq!(addresses(&status.addresses), ["10.1.0.1", "10.1.0.2"]);

    // After a release its claim is what counts.
    let mut stream = web.connect(&site, &["10.1.0.3"]).await;
    stream
        .apply_until(|policy| policy.identity == Identity::QUARANTINED)
        .await;
    operator
        .release(v1::ReleaseRequest {
            host: "web-1".into(),
        })
        .await
        .unwrap();
    let status = site.host("web-1").await;
    assert_eq!(addresses(&status.addresses), ["10.1.0.3"]);
}

#[tokio::test]
async fn quarantine_holds_before_any_policy_was_applied() {
    let site = Site::new().await;
    let host = site.enrol("web-1", "web").await;
    site.operator()
        .await
        .quarantine(request("web-1", "it scans"))
        .await
        .unwrap();
    let mut stream = host.connect(&site, &[]).await;
    stream
        .apply_until(|policy| policy.identity == Identity::QUARANTINED)
        .await;
}

#[tokio::test]
async fn a_wrong_name_or_no_reason_is_refused_with_what_to_do() {
    let site = Site::new().await;
    site.enrol("web-1", "web").await;
    let mut operator = site.operator().await;
    let refused = operator
        .quarantine(request("web1", "it scans"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(
        refused.message().contains("did you mean web-1?"),
        "{}",
        refused.message()
    );
    let refused = operator
        .quarantine(request("web-1", "  "))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let release = v1::ReleaseRequest {
        host: "nobody".into(),
    };
    assert_eq!(
        operator.release(release).await.unwrap_err().code(),
        Code::NotFound
    );
    assert!(!site.host("web-1").await.quarantined);
}
