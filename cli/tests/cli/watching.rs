//! Denials: listed, followed, interrupted.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use proto::v1::{Denial, Direction, HostDenial, Origin, Tier};
use serde_json::json;

use crate::{
    controller::{Controller, Script},
    run::command,
};

fn denial() -> HostDenial {
    HostDenial {
        host: "db-1".into(),
        peer: "web-1".into(),
        peer_identity: 256,
        host_identity: 258,
        missed: 0,
        denial: Some(Denial {
            time_ns: 1_700_000_000_123_456_789,
            direction: Direction::Ingress.into(),
            reason: "policy".into(),
            tier: Tier::Policy.into(),
            origin: Some(Origin {
                rule: "db-ingress/ingress".into(),
                file: "policies/db.yaml".into(),
                line: 5,
            }),
            revision: 4,
            generation: 2,
            protocol: 6,
            local_address: vec![10, 1, 30, 10],
            peer_address: vec![10, 1, 10, 10],
            local_port: 5432,
            peer_port: 40_000,
            packets: 3,
            staged: false,
            staged_allows: false,
            lost_before: 0,
            frame: None,
        }),
    }
}

/// The same, on its way out to an address that no host holds, and only staged.
fn staged_outbound() -> HostDenial {
    let mut denial = denial();
    denial.peer = String::new();
    let inner = denial.denial.as_mut().unwrap();
    inner.direction = Direction::Egress.into();
    inner.staged = true;
    inner.protocol = 58;
    inner.peer_address = vec![0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    inner.tier = Tier::Default.into();
    inner.origin = Some(Origin {
        rule: "default".into(),
        ..Origin::default()
    });
    denial
}

fn by_a_guardrail() -> HostDenial {
    let mut denial = denial();
    let inner = denial.denial.as_mut().unwrap();
    inner.tier = Tier::Guardrail.into();
    inner.origin.as_mut().unwrap().rule = "tenants/ingress[0]".into();
    denial
}

fn follow(controller: &Controller, more: &[&str]) -> Child {
    command(&["denials", "--follow"])
        .args(more)
        .env("BULKHEAD_OPERATOR", controller.file())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn every_denial_is_listed_with_its_peer_and_its_rule() {
    let controller = Controller::start(Script {
        denials: vec![denial(), staged_outbound(), by_a_guardrail()],
        ..Script::default()
    });
    let done = controller.run(&[
        "denials",
        "--host",
        "db-1",
        "--limit",
        "5",
        "--since",
        "2023-01-01T00:00:00Z",
    ]);
    assert_eq!(done.code, 0, "{done:?}");
    let expected = "\
TIME                  HOST  DIR  PEER    PORT      PACKETS  REASON           TIER       RULE                PLACE
2023-11-14T22:13:20Z  db-1  <-   web-1   tcp/5432  3        policy           policy     db-ingress/ingress  policies/db.yaml:5
2023-11-14T22:13:20Z  db-1  ->   fd00::9  icmpv6   3        policy (staged)  default    default             -
2023-11-14T22:13:20Z  db-1  <-   web-1   tcp/5432  3        policy           guardrail  tenants/ingress[0]  policies/db.yaml:5
";
    let columns = |text: &str| {
        text.lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect::<Vec<Vec<_>>>()
    };
    assert_eq!(columns(&done.stdout), columns(expected));
    let request = controller.script(|script| script.watch_requests[0].clone());
    assert_eq!(
        (request.host.as_str(), request.limit, request.follow),
        ("db-1", 5, false)
    );
    assert_eq!(request.since_ns, 1_672_531_200_000_000_000);
}

#[test]
fn a_denial_as_json_has_every_fact() {
    let controller = Controller::start(Script {
        denials: vec![denial()],
        ..Script::default()
    });
    assert_eq!(
        controller.run(&["denials", "-o", "json"]).json(),
        [json!({
            "time": "2023-11-14T22:13:20.123456789Z", "host": "db-1", "host_identity": 258,
            "direction": "ingress", "peer": "web-1", "peer_identity": 256,
            "peer_address": "10.1.10.10", "peer_port": 40000, "local_address": "10.1.30.10",
            "local_port": 5432, "protocol": "tcp", "packets": 3, "reason": "policy",
            "staged": false, "staged_allows": false, "tier": "policy",
            "rule": "db-ingress/ingress",
            "file": "policies/db.yaml", "line": 5, "revision": 4, "generation": 2, "missed": 0
        })]
    );
}

#[test]
fn following_shows_each_denial_at_once_and_ends_quietly_on_ctrl_c() {
    let controller = Controller::start(Script {
        denials: vec![
            denial(),
            HostDenial {
                missed: 7,
                ..denial()
            },
        ],
        stay_open: true,
        ..Script::default()
    });
    let mut child = follow(&controller, &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("TIME"));
    for _ in 0..2 {
        assert!(
            lines
                .next()
                .unwrap()
                .unwrap()
                .ends_with("policies/db.yaml:5")
        );
    }
    // The shell's own `kill`: a minimal system has no other.
    let interrupt = format!("kill -INT {}", child.id());
    let interrupted = Command::new("sh").args(["-c", &interrupt]).status();
    assert!(interrupted.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(
        said,
        "(7 denials left out here, faster than they can be shown; `bulkhead denials --since \
         2023-11-14T22:13:20.123456789Z` lists them)\n"
    );
}

#[test]
fn a_lost_controller_ends_following_with_where_to_go_on() {
    let controller = Controller::start(Script {
        denials: vec![denial()],
        ..Script::default()
    });
    let output = follow(&controller, &["-o", "json"])
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("run the command again with --since 2023-11-14T22:13:20.123456789Z"),
        "{said}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let controller = Controller::start(Script {
        denials: vec![denial(); 2_000],
        stay_open: true,
        ..Script::default()
    });
    let mut child = follow(&controller, &["-o", "json"]);
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}
