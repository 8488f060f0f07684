#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use policy::{HostName, IdentityTable, Labels, PolicySet, Revision, SourceFile};
use proto::{spiffe::HostId, v1};
use tempfile::TempDir;

use super::*;
use crate::model::{Host, PolicyFiles, Report, Token};

async fn new_store() -> (TempDir, PathBuf, Store) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bulkhead.db");
    let store = Store::create(&path).await.unwrap();
    (dir, path, store)
}

fn token(number: u8) -> Token {
    Token {
        secret_sha256: [number; 32],
        labels: [("tier".to_owned(), "web".to_owned())].into(),
        address_subnets: vec!["10.1.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        host_name: Some(HostName("web-1".into())),
        created_by: "ann".into(),
        // In 2100: the same each time that it is asked for.
        expires_unix: 4_102_444_800,
        used_by: None,
    }
}

fn host(number: u8, name: &str) -> Host {
    let token = token(number);
    Host {
        id: HostId([number; 16]),
        name: HostName(name.into()),
        identity: IdentityTable::default().assign(&token.labels),
        labels: token.labels,
        address_subnets: token.address_subnets,
        addresses: BTreeSet::from(["10.1.0.9".parse().unwrap(), "fd00::9".parse().unwrap()]),
        quarantine: Some("it scans".into()),
        report: Report {
            applied_digest: Some([9; 32]),
            ..Report::default()
        },
    }
}

async fn enrolled(store: &Store, number: u8, name: &str) -> Host {
    store.add_token(&token(number)).await.unwrap();
    let host = host(number, name);
    store
        .enrol(&host, &host.labels, &[number; 32])
        .await
        .unwrap();
    host
}

fn denials(count: u16) -> Vec<v1::HostDenial> {
    let denial = |port| v1::Denial {
        peer_port: u32::from(port),
        ..v1::Denial::default()
    };
    (0..count)
        .map(|port| v1::HostDenial {
            host: "web-1".into(),
            denial: Some(denial(port)),
            ..v1::HostDenial::default()
        })
        .collect()
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart() {
    let (_dir, path, store) = new_store().await;
    let host = enrolled(&store, 1, "web-1").await;
    let file = SourceFile {
        path: "a.yaml".into(),
        content: "# nothing\n".into(),
    };
    let policy = PolicyFiles {
        revision: Revision(1),
        files: vec![file],
    };
    store
        .add_policy(&policy, &BTreeMap::new(), "ann")
        .await
        .unwrap();
    // As after a crash: not closed, the log not folded in.
    drop(store);

    let store = Store::open(&path).await.unwrap();
    let known = store.known(&PolicySet::default()).await.unwrap();
    assert_eq!(known.hosts, [host]);
    let used = Token {
        used_by: Some(HostName("web-1".into())),
        ..token(1)
    };
    assert_eq!(known.tokens, [used]);
    assert_eq!(known.identities.iter().count(), 1);
    assert_eq!(store.policy().await.unwrap(), policy);
}

#[tokio::test]
async fn a_token_is_used_once_also_in_the_store() {
    let (_dir, _path, store) = new_store().await;
    enrolled(&store, 1, "web-1").await;
    store
        .enrol(&host(2, "web-2"), &Labels::new(), &[1; 32])
        .await
        .unwrap_err();
    assert_eq!(
        store
            .known(&PolicySet::default())
            .await
            .unwrap()
            .hosts
            .len(),
        1
    );
}

#[tokio::test]
async fn denials_are_kept_in_order_once_and_up_to_the_limit() {
    let (_dir, _path, store) = new_store().await;
    let id = enrolled(&store, 1, "web-1").await.id;
    assert_eq!(
        store.add_denials(id, 1, &denials(6), 10).await.unwrap(),
        Some(1)
    );
    assert_eq!(
        store.add_denials(id, 1, &denials(6), 10).await.unwrap(),
        None
    );
    assert_eq!(
        store.add_denials(id, 2, &denials(6), 10).await.unwrap(),
        Some(7)
    );
    assert_eq!(
        store.add_denials(id, 1, &denials(6), 10).await.unwrap(),
        None
    );
    let counts = store.denial_counts().await.unwrap();
    assert_eq!((counts.kept, counts.given_up), (10, 2));

    for host in ["", "web-1"] {
        let (first, last) = store.denials_range(host, 3).await.unwrap();
        let (page, next) = store.denials_page(host, first, last).await.unwrap();
        let ids: Vec<_> = page.iter().map(|kept| kept.id).collect();
        assert_eq!((ids, next), (vec![10, 11, 12], None));
        assert_eq!(page[2].denial, denials(6)[5]);
    }
    let (first, last) = store.denials_range("db-1", 3).await.unwrap();
    assert!(
        store
            .denials_page("db-1", first, last)
            .await
            .unwrap()
            .0
            .is_empty()
    );
}

#[tokio::test]
async fn many_denials_are_read_page_by_page() {
    let (_dir, _path, store) = new_store().await;
    let id = enrolled(&store, 1, "web-1").await.id;
    store
        .add_denials(id, 1, &denials(2_500), 10_000)
        .await
        .unwrap();
    let (first, last) = store.denials_range("web-1", 10_000).await.unwrap();
    let (mut next, mut seen) = (Some(first), 0);
    while let Some(first) = next {
        let (page, following) = store.denials_page("web-1", first, last).await.unwrap();
        seen += page.len();
        next = following;
    }
    assert_eq!(seen, 2_500);
}

#[tokio::test]
async fn a_full_disk_is_said_and_loses_nothing() {
    let (_dir, _path, store) = new_store().await;
    let id = enrolled(&store, 1, "web-1").await.id;
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(&store.writer)
        .await
        .unwrap();
    let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {}", pages + 8));
    sqlx::query(limit).execute(&store.writer).await.unwrap();

    let refused = store
        .add_denials(id, 1, &denials(10_000), 100_000)
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Full), "{refused:?}");
    assert_eq!(store.denial_counts().await.unwrap().kept, 0);
    // The batch does not count as kept: it comes again.
    assert_eq!(
        store
            .add_denials(id, 1, &denials(3), 100_000)
            .await
            .unwrap(),
        Some(1)
    );
}

#[tokio::test]
async fn a_store_of_a_newer_controller_is_refused_and_left_alone() {
    let (_dir, path, store) = new_store().await;
    sqlx::raw_sql("PRAGMA user_version = 2")
        .execute(&store.writer)
        .await
        .unwrap();
    store.close().await;
    let before = fs::read(&path).unwrap();
    let refused = Store::open(&path).await.unwrap_err();
    assert!(
        matches!(
            refused,
            StoreError::Newer {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_store_is_refused_and_left_alone() {
    let (_dir, path, store) = new_store().await;
    enrolled(&store, 1, "web-1").await;
    store.close().await;
    let mut bytes = fs::read(&path).unwrap();
    // Everything behind the first page, which says what the file is.
    bytes[4_096..].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let refused = Store::open(&path).await.unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn another_file_is_not_taken_for_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.txt");
    fs::write(
        &text,
        "not a database, but long enough to look into ".repeat(40),
    )
    .unwrap();
    let refused = Store::open(&text).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotOurs { .. }), "{refused:?}");

    let other = dir.path().join("other.db");
    let options = SqliteConnectOptions::new()
        .filename(&other)
        .create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (x)")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    let refused = Store::open(&other).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotOurs { .. }), "{refused:?}");
    let refused = Store::create(&other).await.unwrap_err();
    assert!(matches!(refused, StoreError::Exists { .. }), "{refused:?}");

    let refused = Store::open(&dir.path().join("nothing.db"))
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Missing { .. }), "{refused:?}");
}
