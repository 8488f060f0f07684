//! Every denial is kept once, with its names; every one that is lost is counted.

use policy::Identity;
use proto::v1::{self, agent_message::Message as Up};
use tokio::time::timeout;
use tonic::{Code, Streaming};

use crate::site::{PATIENCE, POLICY, Site};

pub fn denial(peer: [u8; 4], port: u32) -> v1::Denial {
    v1::Denial {
        time_ns: 1_700_000_000_000_000_000 + u64::from(port),
        direction: v1::Direction::Ingress.into(),
        reason: "policy".into(),
        tier: v1::Tier::Policy.into(),
        origin: Some(v1::Origin {
            rule: "db-ingress/ingress".into(),
            file: "policy.yaml".into(),
            line: 15,
        }),
        revision: 1,
        generation: 2,
        protocol: 6,
        local_address: vec![10, 2, 0, 1],
        peer_address: peer.to_vec(),
        local_port: port,
        peer_port: 40_000,
        packets: 3,
        staged: false,
        staged_allows: false,
        lost_before: 0,
        frame: None,
    }
}

pub async fn watch(site: &Site, request: v1::WatchDenialsRequest) -> Streaming<v1::HostDenial> {
    site.operator()
        .await
        .watch_denials(request)
        .await
        .unwrap()
        .into_inner()
}

/// Everything of a stream that ends by itself.
pub async fn all(site: &Site, request: v1::WatchDenialsRequest) -> Vec<v1::HostDenial> {
    let mut stream = watch(site, request).await;
    let mut denials = Vec::new();
    while let Some(denial) = next(&mut stream).await {
        denials.push(denial);
    }
    denials
}

async fn next(stream: &mut Streaming<v1::HostDenial>) -> Option<v1::HostDenial> {
    timeout(PATIENCE, stream.message())
        .await
        .expect("a denial or the end comes")
        .unwrap()
}

fn ports(denials: &[v1::HostDenial]) -> Vec<u32> {
    denials
        .iter()
        .map(|denial| denial.denial.as_ref().unwrap().local_port)
        .collect()
}

#[tokio::test]
async fn a_denial_is_kept_with_the_names_of_both_ends_and_its_rule() {
    let site = Site::new().await;
    let subnets = format!(
        "{POLICY}---\napiVersion: bulkhead/v1\nkind: Segment\nname: office\n\
         subnets: [192.0.2.0/24]\n"
    );
    let (web, db) = (
        site.enrol("web-1", "web").await,
        site.enrol("db-1", "db").await,
    );
    let answer = site.apply(&subnets).await;
    assert!(answer.problems.is_empty(), "{:?}", answer.problems);
    let _web = web.connect(&site, &["10.1.0.1"]).await;
    site.host_when("web-1", |host| !host.addresses.is_empty())
        .await;
    let mut db = db.connect(&site, &["10.2.0.1"]).await;
    let peers = [[10, 1, 0, 1], [192, 0, 2, 9], [203, 0, 113, 9]];
    let sent: Vec<_> = (22..)
        .zip(peers)
        .map(|(port, peer)| denial(peer, port))
        .collect();
    db.report(1, sent.clone(), 0).await;

    let kept = all(&site, v1::WatchDenialsRequest::default()).await;
    let web_identity = site.host("web-1").await.identity;
    let names: Vec<_> = kept
        .iter()
        .map(|kept| (kept.peer.as_str(), kept.peer_identity))
        .collect();
    assert_eq!(
        names,
        [
            ("web-1", web_identity),
            ("", Identity::UNMANAGED.0),
            ("", Identity::WORLD.0)
        ]
    );
    for (kept, sent) in kept.iter().zip(sent) {
        assert_eq!(kept.host, "db-1");
        assert_eq!(kept.denial.as_ref(), Some(&sent));
    }
}

#[tokio::test]
async fn a_batch_that_is_sent_twice_is_kept_once() {
    let site = Site::new().await;
    let host = site.enrol("db-1", "db").await;
    let mut stream = host.connect(&site, &[]).await;
    stream.report(1, vec![denial([10, 1, 0, 1], 22)], 5).await;
    stream.report(1, vec![denial([10, 1, 0, 1], 22)], 5).await;
    drop(stream);
    let mut stream = host.connect(&site, &[]).await;
    stream.report(1, vec![denial([10, 1, 0, 1], 22)], 5).await;
    stream.report(2, vec![denial([10, 1, 0, 1], 23)], 0).await;
    let kept = all(&site, v1::WatchDenialsRequest::default()).await;
    assert_eq!(ports(&kept), [22, 23]);
    let status = site.status().await;
    assert_eq!((status.denials_kept, status.denials_lost), (2, 5));
}

#[tokio::test]
async fn a_denial_that_makes_no_sense_is_counted_and_does_not_block_the_rest() {
    let site = Site::new().await;
    let host = site.enrol("db-1", "db").await;
    let mut stream = host.connect(&site, &[]).await;
    let broken = v1::Denial {
        peer_address: vec![1, 2, 3],
        ..denial([0; 4], 1)
    };
    stream
        .report(1, vec![broken, denial([10, 1, 0, 1], 22)], 0)
        .await;
    let status = site.host_when("db-1", |host| host.denials_lost == 1).await;
    assert_eq!(status.denials_lost, 1);
    assert_eq!(
        ports(&all(&site, v1::WatchDenialsRequest::default()).await),
        [22]
    );
}

#[tokio::test]
async fn counters_of_a_host_are_shown() {
    let site = Site::new().await;
    let host = site.enrol("db-1", "db").await;
    let stream = host.connect(&site, &[]).await;
    stream
        .say(Up::Heartbeat(v1::Heartbeat {
            denials_lost: 4,
            packets_denied: 99,
            flows_percent: 91,
        }))
        .await;
    let status = site
        .host_when("db-1", |host| host.packets_denied == 99)
        .await;
    assert_eq!(status.denials_lost, 4);
    assert_eq!(status.flows_percent, 91);
    assert!(status.last_seen_unix > 0);
}

#[tokio::test]
async fn the_oldest_beyond_the_limit_are_given_up_and_counted() {
    let mut site = Site::stopped().await;
    site.options.keep_denials = 3;
    site.start().await;
    let host = site.enrol("db-1", "db").await;
    let mut stream = host.connect(&site, &[]).await;
    stream
        .report(
            1,
            (0..5).map(|port| denial([10, 1, 0, 1], port)).collect(),
            0,
        )
        .await;
    assert_eq!(
        ports(&all(&site, v1::WatchDenialsRequest::default()).await),
        [2, 3, 4]
    );
    let status = site.status().await;
    assert_eq!((status.denials_kept, status.denials_lost), (3, 2));
}

#[tokio::test]
async fn a_follower_sees_the_kept_ones_then_each_new_one_once() {
    let site = Site::new().await;
    let (web, db) = (
        site.enrol("web-1", "web").await,
        site.enrol("db-1", "db").await,
    );
    let mut web = web.connect(&site, &[]).await;
    let mut db = db.connect(&site, &[]).await;
    db.report(
        1,
        vec![denial([10, 1, 0, 1], 1), denial([10, 1, 0, 1], 2)],
        0,
    )
    .await;
    let request = v1::WatchDenialsRequest {
        follow: true,
        host: "db-1".into(),
        limit: 1,
        since_ns: 0,
    };
    let mut follower = watch(&site, request).await;
    assert_eq!(ports(&[next(&mut follower).await.unwrap()]), [2]);
    web.report(1, vec![denial([10, 1, 0, 1], 3)], 0).await;
    db.report(2, vec![denial([10, 1, 0, 1], 4)], 0).await;
    db.report(2, vec![denial([10, 1, 0, 1], 4)], 0).await;
    db.report(3, vec![denial([10, 1, 0, 1], 5)], 0).await;
    for port in [4, 5] {
        let denial = next(&mut follower).await.unwrap();
        assert_eq!(
            (ports(std::slice::from_ref(&denial)), denial.missed),
            (vec![port], 0)
        );
    }

    let since_ns = denial([0; 4], 4).time_ns;
    let request = v1::WatchDenialsRequest {
        since_ns,
        ..v1::WatchDenialsRequest::default()
    };
    assert_eq!(ports(&all(&site, request).await), [4, 5]);
}

#[tokio::test]
async fn a_follower_that_is_too_slow_is_told_how_many_it_missed() {
    const BATCHES: u32 = 14;
    const SIZE: u32 = 1_000;
    let site = Site::new().await;
    let host = site.enrol("db-1", "db").await;
    let mut stream = host.connect(&site, &[]).await;
    let request = v1::WatchDenialsRequest {
        follow: true,
        ..v1::WatchDenialsRequest::default()
    };
    let mut follower = watch(&site, request).await;
    // Nobody reads while these come, and nobody waits for the reader either.
    for batch in 0..BATCHES {
        let numbers = batch * SIZE..(batch + 1) * SIZE;
        // Large, so that they do not all fit into the buffers on the way.
        let large = |port| v1::Denial {
            reason: "r".repeat(1_000),
            ..denial([10, 1, 0, 1], port)
        };
        let denials = numbers.map(large).collect();
        stream.report(u64::from(batch) + 1, denials, 0).await;
    }
    let (mut seen, mut missed) = (0, 0);
    loop {
        let denial = next(&mut follower).await.unwrap();
        seen += 1;
        missed += denial.missed;
        if ports(&[denial]) == [BATCHES * SIZE - 1] {
            break;
        }
    }
    assert!(missed > 0);
    assert_eq!(seen + missed, u64::from(BATCHES * SIZE));
    assert_eq!(site.status().await.denials_kept, u64::from(BATCHES * SIZE));
}

#[tokio::test]
async fn denials_of_a_host_that_does_not_exist_are_refused() {
    let site = Site::new().await;
    site.enrol("db-1", "db").await;
    let request = v1::WatchDenialsRequest {
        host: "db1".into(),
        ..Default::default()
    };
    let refused = site
        .operator()
        .await
        .watch_denials(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(
        refused.message().contains("did you mean db-1?"),
        "{}",
        refused.message()
    );
}
