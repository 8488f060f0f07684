//! What is refused until the request says that it is meant, whatever tool sends it; and what the answers
//! say.

use proto::{
    host_report::{Enforcement, HostReport, announced_controllers},
    v1::{self, Standing, agent_message::Message as Up, controller_message::Message as Down},
};
use tonic::Code;

use crate::site::{POLICY, Site, addresses};

/// A host that has nothing to hide, and no failsafe.
fn report() -> HostReport {
    HostReport {
        enforcement: Enforcement::Enforcing,
        ..HostReport::default()
    }
}

fn request(policy: &str) -> v1::ApplyPolicyRequest {
    v1::ApplyPolicyRequest {
        files: vec![v1::PolicyFile {
            path: "policy.yaml".into(),
            content: policy.into(),
        }],
        // The operator of the tests is at the controller; this is where the operator's SSH comes from.
        operator_addresses: vec![vec![192, 0, 2, 7]],
        ..v1::ApplyPolicyRequest::default()
    }
}

async fn apply(site: &Site, request: v1::ApplyPolicyRequest) -> v1::ApplyPolicyResponse {
    let mut operator = site.operator().await;
    operator.apply_policy(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn an_apply_that_closes_ssh_to_its_operator_is_refused_until_it_is_meant() {
    let site = Site::new().await;
    let (web, db) = (
        site.enrol("web-1", "web").await,
        site.enrol("db-1", "db").await,
    );
    let web = web.connect(&site, &["10.1.0.1"]).await;
    let db = db.connect(&site, &["10.2.0.1"]).await;
    for agent in [&web, &db] {
        agent.say(Up::Report(report().into())).await;
    }
    site.host_when("db-1", |host| host.report.is_some()).await;
    site.host_when("web-1", |host| host.report.is_some()).await;

    let dry = v1::ApplyPolicyRequest {
        dry_run: true,
        ..request(POLICY)
    };
    for request in [dry, request(POLICY)] {
        let answer = apply(&site, request).await;
        assert_eq!(answer.revision, 0);
        assert_eq!(answer.refusals.len(), 1, "{answer:?}");
        assert!(answer.refusals[0].contains("--allow-lockout"), "{answer:?}");
        let lost = &answer.lost_access[0];
        assert_eq!((lost.host.as_str(), lost.port), ("db-1", 22));
        assert_eq!(
            addresses(std::slice::from_ref(&lost.operator_address)),
            ["192.0.2.7"]
        );
        let origin = lost.origin.clone().unwrap();
        assert_eq!((origin.file.as_str(), origin.line), ("policy.yaml", 15));
        assert_eq!(answer.hosts_not_selected, ["web-1"]);
        assert_eq!(answer.hosts_selected, 1);
    }
    assert_eq!(site.status().await.revision, 0);

    // With a failsafe that covers the operator nothing is lost.
    let covered = HostReport {
        failsafe_subnets: vec!["192.0.2.0/24".parse().unwrap()],
        failsafe_tcp_ports: vec![22],
        ..report()
    };
    db.say(Up::Report(covered.into())).await;
    site.host_when("db-1", |host| {
        let report = host.report.as_ref();
        report.is_some_and(|report| !report.failsafe_subnets.is_empty())
    })
    .await;
    let answer = apply(&site, request(POLICY)).await;
    assert_eq!(
        (answer.revision, answer.refusals.len()),
        (1, 0),
        "{answer:?}"
    );
    assert_eq!(answer.hosts_connected, ["db-1", "web-1"]);
}

#[tokio::test]
async fn files_that_open_every_host_are_refused_until_it_is_meant() {
    let site = Site::new().await;
    site.apply(POLICY).await;
    let empty = v1::ApplyPolicyRequest::default();
    let answer = apply(&site, empty.clone()).await;
    assert_eq!(answer.revision, 1);
    assert!(answer.refusals[0].contains("--allow-empty"), "{answer:?}");
    let meant = v1::ApplyPolicyRequest {
        allow_empty: true,
        ..empty
    };
    assert_eq!(apply(&site, meant).await.revision, 2);
}

#[tokio::test]
async fn the_controllers_own_host_is_quarantined_only_when_it_is_meant_or_stays_reachable() {
    let site = Site::new().await;
    let host = site.enrol("ctl-1", "db").await;
    // From the machine of the controller, and it names no address of another one.
    let agent = host.connect(&site, &[]).await;
    let status = site.host_when("ctl-1", |host| host.connected).await;
    assert!(status.runs_controller);
    let request = |including_the_controller| v1::QuarantineRequest {
        host: "ctl-1".into(),
        reason: "it scans".into(),
        including_the_controller,
    };
    let mut operator = site.operator().await;
    let refused = operator.quarantine(request(false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for word in ["ctl-1 runs this controller", "--including-the-controller"] {
        assert!(refused.message().contains(word), "{}", refused.message());
    }
    assert!(!site.host("ctl-1").await.quarantined);

    // An agent that knows that the controller is there keeps the way to it open.
    let knows = HostReport {
        hosts_controller: true,
        ..report()
    };
    agent.say(Up::Report(knows.into())).await;
    site.host_when("ctl-1", |host| host.report.is_some()).await;
    let answer = operator
        .quarantine(request(false))
        .await
        .unwrap()
        .into_inner();
    assert!(answer.changed);
    assert_eq!(answer.hosts_connected, ["ctl-1"]);
    let release = v1::ReleaseRequest {
        host: "ctl-1".into(),
    };
    operator.release(release).await.unwrap();

    agent.say(Up::Report(report().into())).await;
    site.host_when("ctl-1", |host| {
        !host.report.as_ref().is_some_and(|it| it.hosts_controller)
    })
    .await;
    let meant = operator.quarantine(request(true)).await.unwrap();
    assert!(meant.into_inner().changed);
}

#[tokio::test]
async fn a_host_that_polices_nothing_or_less_than_it_is_to_is_not_in_sync() {
    let site = Site::new().await;
    site.apply(POLICY).await;
    let host = site.enrol("db-1", "db").await;
    let mut agent = host.connect(&site, &["10.2.0.1"]).await;
    agent.say(Up::Report(report().into())).await;
    agent.apply().await;
    let status = site.host_when("db-1", |host| host.in_sync).await;
    assert_eq!(status.standing(), Standing::Enforced);
    assert_eq!(status.applied_revision, 1);
    for (enforcement, standing, revision) in [
        (Enforcement::PolicesNothing, Standing::PolicesNothing, 0),
        (Enforcement::Degraded, Standing::Degraded, 1),
        (Enforcement::Detached, Standing::Detached, 0),
    ] {
        let less = HostReport {
            enforcement,
            problems: vec!["the interface ens3 is not there".into()],
            ..report()
        };
        agent.say(Up::Report(less.into())).await;
        let status = site
            .host_when("db-1", |host| host.standing() == standing)
            .await;
        assert!(!status.in_sync, "{status:?}");
        assert_eq!(status.applied_revision, revision, "{status:?}");
        let status = site.status().await;
        assert_eq!((status.hosts_in_sync, status.hosts_not_protected), (0, 1));
    }
    // An apply that means the same to it does not make it look newer.
    site.apply(&format!(
        "{POLICY}---\napiVersion: bulkhead/v1\nkind: Service\nname: x\nports: [tcp/1]\n"
    ))
    .await;
    assert_eq!(site.host("db-1").await.applied_revision, 0);
    agent.say(Up::Report(report().into())).await;
    let status = site.host_when("db-1", |host| host.in_sync).await;
    assert_eq!(status.applied_revision, 2);
}

#[tokio::test]
async fn an_agent_is_told_first_where_the_controller_is_and_again_when_that_changes() {
    let mut site = Site::stopped().await;
    let file = site.options.data_dir.join("addresses");
    std::fs::write(&file, "# one\n192.0.2.1:7443\n127.0.0.1:7443\n").unwrap();
    site.start().await;
    let host = site.enrol("db-1", "db").await;
    let mut agent = host.connect(&site, &[]).await;
    let Some(Down::Controllers(first)) = agent.next().await.unwrap() else {
        panic!("something else came first")
    };
    let expected = ["192.0.2.1:7443"].map(|it| it.parse().unwrap());
    assert_eq!(announced_controllers(first).unwrap().addresses, expected);

    std::fs::write(&file, "192.0.2.1:7443\n[fd00::2]:8443\n").unwrap();
    site.reload.notify_one();
    let again = loop {
        match agent.next().await.unwrap() {
            Some(Down::Controllers(again)) => break again,
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    };
    let expected = ["192.0.2.1:7443", "[fd00::2]:8443"].map(|it| it.parse().unwrap());
    assert_eq!(announced_controllers(again).unwrap().addresses, expected);
}
