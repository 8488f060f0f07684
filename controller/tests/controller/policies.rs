//! From an apply to an ack.

use policy::{Action, Identity, PeerMatch, Revision};
use proto::v1::{self, agent_message::Message as Up, controller_message::Message as Down};
use tonic::Code;

use crate::site::{POLICY, Site};

#[tokio::test]
async fn an_applied_policy_reaches_each_host_and_its_ack_comes_back() {
    let site = Site::new().await;
    let (web, db) = (
        site.enrol("web-1", "web").await,
        site.enrol("db-1", "db").await,
    );
    let mut web = web.connect(&site, &["10.1.0.1"]).await;
    let mut db = db.connect(&site, &["10.2.0.1"]).await;
    assert_eq!(web.apply().await.0.revision, Revision(0));

    let answer = site.apply(POLICY).await;
    assert_eq!((answer.revision, answer.problems.len()), (1, 0));
    let (policy, _) = db
        .apply_until(|policy| policy.revision == Revision(1) && !policy.addresses.is_empty())
        .await;
    let allow = policy
        .rules
        .iter()
        .find(|rule| rule.action == Action::Allow)
        .unwrap();
    assert_eq!(allow.origin.file, "policy.yaml");
    let web_identity = Identity(site.host("web-1").await.identity);
    assert!(
        matches!(&allow.peers, PeerMatch::Of { identities, .. } if *identities == [web_identity])
    );
    assert_eq!(policy.addresses[&"10.1.0.1".parse().unwrap()], web_identity);

    let status = site.host_when("db-1", |host| host.in_sync).await;
    assert_eq!((status.applied_revision, status.connected), (1, true));
    assert_eq!(status.kernel_release, "6.1.0");
    let status = site.status().await;
    assert_eq!(
        (status.policies, status.segments, status.hosts_connected),
        (1, 2, 2)
    );
}

#[tokio::test]
async fn a_host_that_has_its_policy_is_not_sent_it_again() {
    let site = Site::new().await;
    site.apply(POLICY).await;
    let host = site.enrol("web-1", "web").await;
    let mut stream = host.connect(&site, &[]).await;
    let (_, digest) = stream.apply().await;
    drop(stream);

    let mut stream = host.connect_with(&site, &[], &digest).await;
    let status = site
        .host_when("web-1", |host| host.connected && host.in_sync)
        .await;
    assert_eq!(status.applied_revision, 1);
    // The next thing that it is sent is one that means something else.
    let answer = site.apply(POLICY).await;
    assert_eq!((answer.revision, answer.hosts_changed), (2, 0));
    let status = site.host("web-1").await;
    assert_eq!((status.in_sync, status.applied_revision), (true, 2));
    let other = POLICY.replace("appliesTo: db", "appliesTo: [db, web]");
    assert_eq!(site.apply(&other).await.hosts_changed, 1);
    assert!(!site.host("web-1").await.in_sync);
    assert_eq!(stream.apply().await.0.revision, Revision(3));
    let status = site.host_when("web-1", |host| host.in_sync).await;
    assert_eq!(status.applied_revision, 3);
}

#[tokio::test]
async fn an_ack_is_answered_so_that_the_host_knows_that_the_way_is_open() {
    let site = Site::new().await;
    site.apply(POLICY).await;
    let web = site.enrol("web-1", "web").await;
    let mut web = web.connect(&site, &[]).await;
    let (_, digest) = web.apply().await;
    let answer = web.next().await.unwrap();
    let heard = v1::AckHeard { digest };
    assert_eq!(answer, Some(Down::AckHeard(heard)));
}

#[tokio::test]
async fn an_apply_that_changes_one_policy_is_sent_to_nobody_else() {
    let site = Site::new().await;
    site.apply(POLICY).await;
    let (web, db) = (
        site.enrol("web-1", "web").await,
        site.enrol("db-1", "db").await,
    );
    let mut web = web.connect(&site, &[]).await;
    let mut db = db.connect(&site, &[]).await;
    web.apply().await;
    db.apply().await;
    let answer = site.apply(&POLICY.replace("5432", "5433")).await;
    assert_eq!((answer.revision, answer.hosts_changed), (2, 1));
    assert_eq!(db.apply().await.0.revision, Revision(2));
    for name in ["web-1", "db-1"] {
        let status = site.host_when(name, |host| host.in_sync).await;
        assert_eq!(status.applied_revision, 2, "{name}");
    }
    // What comes down next is the answer to what goes up.
    for sequence in 1..=3 {
        let batch = v1::DenialBatch {
            sequence,
            denials: Vec::new(),
            lost: 0,
        };
        web.say(Up::Denials(batch)).await;
        let heard = web.hear().await.unwrap();
        assert!(matches!(heard, Some(Down::DenialsKept(_))), "{heard:?}");
    }
}

#[tokio::test]
async fn an_invalid_policy_is_refused_and_the_old_one_stays() {
    let site = Site::new().await;
    site.apply(POLICY).await;
    let host = site.enrol("db-1", "db").await;
    let mut stream = host.connect(&site, &[]).await;
    stream
        .apply_until(|policy| policy.revision == Revision(1))
        .await;

    let bad = POLICY.replace("from: [web]", "from: [wbe]");
    let answer = site.apply_files(&[("team/db.yaml", &bad)], false).await;
    assert_eq!(answer.revision, 1);
    assert_eq!(answer.problems.len(), 1, "{answer:?}");
    let text = &answer.problems[0];
    assert!(
        text.contains("team/db.yaml:16:") && text.contains("wbe"),
        "{text}"
    );

    let in_force = site
        .operator()
        .await
        .get_policy(v1::GetPolicyRequest {})
        .await
        .unwrap();
    let in_force = in_force.into_inner();
    assert_eq!(in_force.revision, 1);
    assert_eq!(in_force.files[0].content, POLICY);
    assert_eq!(site.status().await.revision, 1);
    site.host_when("db-1", |host| host.in_sync).await;
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let site = Site::new().await;
    site.enrol("db-1", "db").await;
    let answer = site.apply_files(&[("policy.yaml", POLICY)], true).await;
    assert_eq!((answer.revision, answer.hosts_changed), (0, 1));
    assert_eq!(site.status().await.revision, 0);
    assert_eq!(site.apply(POLICY).await.hosts_changed, 1);
    // The same once more is a new revision that means the same to everybody.
    let again = site.apply(POLICY).await;
    assert_eq!((again.revision, again.hosts_changed), (2, 0));
}

#[tokio::test]
async fn the_empty_set_takes_a_policy_back() {
    let site = Site::new().await;
    let host = site.enrol("db-1", "db").await;
    let mut stream = host.connect(&site, &[]).await;
    site.apply(POLICY).await;
    stream
        .apply_until(|policy| policy.revision == Revision(1))
        .await;
    let answer = site.apply_files(&[], false).await;
    assert_eq!((answer.revision, answer.problems.len()), (2, 0));
    let (policy, _) = stream
        .apply_until(|policy| policy.revision == Revision(2))
        .await;
    assert!(policy.rules.iter().all(|rule| rule.action == Action::Allow));
}

#[tokio::test]
async fn a_policy_that_no_kernel_would_hold_is_refused_by_name() {
    let site = Site::new().await;
    site.apply(POLICY).await;
    let host = site.enrol("db-1", "db").await;
    let mut large = POLICY.to_owned();
    for number in 0..policy::limits::MAX_RULES {
        let (third, fourth) = (number / 256, number % 256);
        large.push_str(&format!(
            "  - {{from: [{{subnet: 10.9.{third}.{fourth}/32}}], allow: [tcp/22]}}\n"
        ));
    }
    let answer = site.apply(&large).await;
    assert_eq!(answer.revision, 1);
    assert_eq!(answer.problems.len(), 1, "{:.2000?}", answer.problems);
    let text = &answer.problems[0];
    assert!(text.contains("db-1") && text.contains("rules"), "{text}");
    assert_eq!(
        host.connect(&site, &[]).await.policy().await.0.revision,
        Revision(1)
    );
}

#[tokio::test]
async fn a_host_that_refuses_is_shown_with_its_reason() {
    let site = Site::new().await;
    let host = site.enrol("web-1", "web").await;
    let mut stream = host.connect(&site, &[]).await;
    let (policy, digest) = stream.policy().await;
    let nack = v1::PolicyNack {
        digest,
        revision: 0,
        reason: "the maps are too small".into(),
    };
    stream.say(Up::Nack(nack.clone())).await;
    let status = site
        .host_when("web-1", |host| !host.refusal.is_empty())
        .await;
    assert_eq!(status.refusal, "the maps are too small");
    assert!(!status.in_sync);

    // The refusal is of the old policy, and so is one that comes late: neither is held against the new.
    site.apply(POLICY).await;
    let status = site.host_when("web-1", |host| !host.in_sync).await;
    assert_eq!(status.refusal, "");
    stream.say(Up::Nack(nack)).await;
    let (next, _) = stream.apply().await;
    assert!(next.revision > policy.revision);
    site.host_when("web-1", |host| host.in_sync && host.refusal.is_empty())
        .await;
}

#[tokio::test]
async fn a_new_stream_of_a_host_takes_over_from_the_old_one() {
    let site = Site::new().await;
    let host = site.enrol("web-1", "web").await;
    let mut old = host.connect(&site, &[]).await;
    old.policy().await;
    let mut new = host.connect(&site, &[]).await;
    new.policy().await;
    assert_eq!(old.end().await.code(), Code::Aborted);
    assert!(site.host("web-1").await.connected);
    drop(new);
    site.host_when("web-1", |host| !host.connected).await;
}

#[tokio::test]
async fn a_stream_that_does_not_begin_with_hello_is_refused() {
    let site = Site::new().await;
    let host = site.enrol("web-1", "web").await;
    let heartbeat = v1::AgentMessage {
        message: Some(Up::Heartbeat(v1::Heartbeat::default())),
    };
    let messages = tokio_stream::iter([heartbeat]);
    let stream = host.client(&site).await.control(messages).await.unwrap();
    let refused = stream.into_inner().message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}
