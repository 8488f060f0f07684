//! A restart of the controller changes nothing.

use policy::{Identity, Revision};
use proto::v1;

use crate::{
    denials::{all, denial},
    site::{POLICY, Site, addresses, token_for},
};

#[tokio::test]
async fn a_restart_keeps_everything() {
    let mut site = Site::new().await;
    site.apply(POLICY).await;
    site.apply(POLICY).await;
    let unused = site.token(token_for("web")).await;
    let used = site.token(token_for("db")).await;
    let db = site.try_enrol(&used, "db-1").await.unwrap();
    let mut stream = db.connect(&site, &["10.2.0.1"]).await;
    let (_, digest) = stream
        .apply_until(|policy| policy.revision == Revision(2))
        .await;
    stream.report(7, vec![denial([10, 1, 0, 1], 22)], 3).await;
    site.enrol("bad-1", "web").await;
    let request = v1::QuarantineRequest {
        host: "bad-1".into(),
        reason: "it scans".into(),
        including_the_controller: false,
    };
    site.operator().await.quarantine(request).await.unwrap();
    let before = site.host_when("db-1", |host| host.in_sync).await;

    site.restart().await;

    let after = site.host("db-1").await;
    assert!(!after.connected);
    assert_eq!(
        after,
        v1::HostStatus {
            connected: false,
            // What was heard last is kept; whether it still holds is not known.
            in_sync: false,
            ..before
        }
    );
    assert_eq!(addresses(&after.addresses), ["10.2.0.1"]);
    let bad = site.host("bad-1").await;
    assert_eq!(
        (bad.quarantined, bad.quarantine_reason.as_str()),
        (true, "it scans")
    );
    assert_eq!(bad.identity, Identity::QUARANTINED.0);
    let status = site.status().await;
    assert_eq!(
        (status.revision, status.denials_kept, status.denials_lost),
        (2, 1, 3)
    );
    assert_eq!(
        all(&site, v1::WatchDenialsRequest::default()).await.len(),
        1
    );

    // The same policy has the same digest, so nothing is sent; the batch is known already.
    let mut stream = db.connect_with(&site, &["10.2.0.1"], &digest).await;
    stream.report(7, vec![denial([10, 1, 0, 1], 22)], 3).await;
    assert_eq!(site.status().await.denials_kept, 1);
    assert!(site.host("db-1").await.in_sync);

    // Tokens are what they were.
    site.try_enrol(&used, "db-2").await.err().unwrap();
    site.try_enrol(&unused, "web-1").await.unwrap();
    // An identity once given stays: the labels of web-1 are those of bad-1 before quarantine.
    site.operator()
        .await
        .release(v1::ReleaseRequest {
            host: "bad-1".into(),
        })
        .await
        .unwrap();
    assert_eq!(
        site.host("web-1").await.identity,
        site.host("bad-1").await.identity
    );
    assert_eq!(site.apply(POLICY).await.revision, 3);
}

#[tokio::test]
async fn after_a_restart_nobody_is_sent_a_policy_that_means_the_same_as_its_own() {
    let mut site = Site::new().await;
    site.apply(POLICY).await;
    let host = site.enrol("db-1", "db").await;
    let mut stream = host.connect(&site, &[]).await;
    let (policy, digest) = stream.apply().await;
    assert_eq!(policy.revision, Revision(1));
    site.host_when("db-1", |host| host.in_sync).await;
    site.apply(POLICY).await;

    site.restart().await;
    // What the host said last, and nothing that it has not said.
    let status = site.host("db-1").await;
    assert_eq!((status.in_sync, status.applied_revision), (false, 1));
    let mut stream = host.connect_with(&site, &[], &digest).await;
    let status = site
        .host_when("db-1", |host| host.connected && host.in_sync)
        .await;
    assert_eq!(status.applied_revision, 2);
    site.apply(&POLICY.replace("5432", "5433")).await;
    assert_eq!(stream.policy().await.0.revision, Revision(3));
}

#[tokio::test]
async fn a_stopping_controller_ends_its_streams_and_says_so() {
    let mut site = Site::new().await;
    let host = site.enrol("web-1", "web").await;
    let mut stream = host.connect(&site, &[]).await;
    stream.policy().await;
    site.stop().await;
    assert_eq!(stream.end().await.code(), tonic::Code::Unavailable);
}
