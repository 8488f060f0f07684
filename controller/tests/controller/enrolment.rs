//! Tokens, and what they buy.

use proto::{client, token::EnrolmentToken, v1};
use tonic::{Code, Status};

use crate::site::{Site, token_for};

fn says_what_to_do(refused: &Status, what: &str) {
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(refused.message().contains(what), "{}", refused.message());
    assert!(
        refused.message().contains("`bulkhead token create`"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn a_token_is_good_once() {
    let site = Site::new().await;
    let token = site.token(token_for("web")).await;
    site.try_enrol(&token, "web-1").await.unwrap();
    let refused = site.try_enrol(&token, "web-2").await.err().unwrap();
    says_what_to_do(&refused, "has been used, by the host web-1");
    assert_eq!(site.hosts().await.len(), 1);
    assert_eq!(site.status().await.security_events, 1);
}

#[tokio::test]
async fn two_hosts_at_once_with_one_token_are_one_host() {
    let site = Site::new().await;
    let token = site.token(token_for("web")).await;
    let (left, right) = tokio::join!(
        site.try_enrol(&token, "web-1"),
        site.try_enrol(&token, "web-2")
    );
    assert_eq!(
        [left.is_ok(), right.is_ok()]
            .iter()
            .filter(|enrolled| **enrolled)
            .count(),
        1
    );
    assert_eq!(site.hosts().await.len(), 1);
}

#[tokio::test]
async fn an_unknown_token_is_refused() {
    let site = Site::new().await;
    let token = EnrolmentToken {
        secret: [7; 32],
        ca_sha256: [0; 32],
    };
    says_what_to_do(
        &site.try_enrol(&token, "web-1").await.err().unwrap(),
        "is not known",
    );
    assert!(site.hosts().await.is_empty());
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let mut site = Site::new().await;
    let token = site.token(token_for("web")).await;
    // Time does not pass in a test, so the store is told that it has.
    site.stop().await;
    let path = site.options.data_dir.join("bulkhead.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("UPDATE tokens SET expires_unix = expires_unix - 3601")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    site.start().await;
    says_what_to_do(
        &site.try_enrol(&token, "web-1").await.err().unwrap(),
        "has expired",
    );
}

#[tokio::test]
async fn a_request_that_is_none_does_not_use_the_token_up() {
    let site = Site::new().await;
    let token = site.token(token_for("web")).await;
    let request = v1::EnrollRequest {
        token_secret: token.secret_hex(),
        host_name: "web-1".into(),
        csr_pem: "nonsense".into(),
    };
    let refused = client::agents(site.anonymous().await)
        .enroll(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = site.try_enrol(&token, "not a name").await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    site.try_enrol(&token, "web-1").await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_unless_the_token_fixes_it() {
    let site = Site::new().await;
    let old = site.enrol("web-1", "web").await;
    let mut stream = old.connect(&site, &["10.1.0.1"]).await;
    stream.policy().await;

    let token = site.token(token_for("web")).await;
    let refused = site.try_enrol(&token, "web-1").await.err().unwrap();
    assert_eq!(refused.code(), Code::AlreadyExists);

    let fixed = v1::CreateTokenRequest {
        host_name: "web-1".into(),
        ..token_for("db")
    };
    let new = site
        .try_enrol(&site.token(fixed).await, "whatever")
        .await
        .unwrap();
    assert_eq!(new.name, "web-1");
    // The old certificate is worth nothing any more, and its stream is cut.
    assert_eq!(stream.end().await.code(), Code::Aborted);
    let renew = v1::RenewRequest {
        csr_pem: String::new(),
    };
    let refused = old.client(&site).await.renew(renew).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    new.connect(&site, &[]).await.policy().await;
    let hosts = site.hosts().await;
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].labels["tier"], "db");
}

#[tokio::test]
async fn enrolling_again_is_no_way_out_of_quarantine() {
    let site = Site::new().await;
    site.enrol("web-1", "web").await;
    let request = v1::QuarantineRequest {
        host: "web-1".into(),
        reason: "it scans".into(),
        including_the_controller: false,
    };
    site.operator().await.quarantine(request).await.unwrap();
    let fixed = v1::CreateTokenRequest {
        host_name: "web-1".into(),
        ..token_for("web")
    };
    site.try_enrol(&site.token(fixed).await, "").await.unwrap();
    assert!(site.host("web-1").await.quarantined);
}

#[tokio::test]
async fn a_token_for_what_cannot_be_is_refused() {
    let site = Site::new().await;
    let good = token_for("web");
    let mut labels = good.labels.clone();
    labels.insert("no such key!".into(), "x".into());
    let bad_subnet = v1::Subnet {
        address: vec![10, 0, 0, 1],
        prefix_length: 8,
    };
    for request in [
        v1::CreateTokenRequest {
            labels,
            ..good.clone()
        },
        v1::CreateTokenRequest {
            host_name: "not a name".into(),
            ..good.clone()
        },
        v1::CreateTokenRequest {
            address_subnets: vec![bad_subnet],
            ..good.clone()
        },
        v1::CreateTokenRequest {
            valid_seconds: 59,
            ..good.clone()
        },
        v1::CreateTokenRequest {
            valid_seconds: 2_592_001,
            ..good.clone()
        },
    ] {
        let refused = site.operator().await.create_token(request.clone()).await;
        assert_eq!(
            refused.unwrap_err().code(),
            Code::InvalidArgument,
            "{request:?}"
        );
    }
}
