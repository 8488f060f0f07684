//! What the tool asks a controller, and what it makes of the answers.

use std::{collections::HashMap, fs};

use proto::v1::HostStatus;
use serde_json::json;
use tonic::Status;

use crate::{
    controller::{Controller, Script},
    credentials::{Authority, operator_file},
    run::{Files, bulkhead},
};

/// A connected host.
pub fn host(name: &str, in_sync: bool) -> HostStatus {
    HostStatus {
        name: name.into(),
        connected: true,
        in_sync,
        ..HostStatus::default()
    }
}

#[test]
fn an_unreachable_controller_exits_69_and_names_the_addresses() {
    let files = Files::new(&[]);
    let ca = Authority::new();
    let file = files.path("operator.toml");
    operator_file(&file, "127.0.0.1:1", &ca, &ca.operator());
    let done = bulkhead(&["--operator", &files.name("operator.toml"), "hosts"]);
    assert_eq!((done.code, done.stdout.as_str()), (69, ""), "{done:?}");
    assert!(done.stderr.contains("127.0.0.1:1"), "{done:?}");
}

#[test]
fn a_controller_of_another_ca_is_not_told_anything() {
    let controller = Controller::start(Script::default());
    let other = Authority::new();
    operator_file(
        &controller.file(),
        &controller.address,
        &other,
        &other.operator(),
    );
    let done = controller.run(&["quarantine", "web-1", "--reason", "secret"]);
    assert_eq!(done.code, 69, "{done:?}");
    assert!(done.stderr.contains(&controller.address), "{done:?}");
    assert!(controller.script(|script| script.quarantine_requests.is_empty()));
}

#[test]
fn a_refused_certificate_is_named_with_what_to_do() {
    let controller = Controller::start(Script::default());
    controller.give(&controller.authority.expired_operator());
    let expired = controller.run(&["hosts"]);
    assert_eq!(expired.code, 1, "{expired:?}");
    assert!(
        expired
            .stderr
            .contains("it has expired; ask an administrator"),
        "{expired:?}"
    );
    controller.give(&Authority::new().operator());
    let foreign = controller.run(&["hosts"]);
    assert_eq!(foreign.code, 1, "{foreign:?}");
    assert!(
        foreign.stderr.contains("refuses the certificate in"),
        "{foreign:?}"
    );
}

#[test]
fn a_refusal_by_the_controller_keeps_its_words() {
    let refuse = |status| Script {
        refuse: Some(status),
        ..Script::default()
    };
    let denied = Controller::start(refuse(Status::permission_denied("ann may only look")))
        .run(&["release", "web-1"]);
    assert_eq!(denied.code, 1, "{denied:?}");
    assert!(
        denied.stderr.contains("permission denied") && denied.stderr.contains("ann may only look")
    );
    let unknown = Controller::start(refuse(Status::not_found("there is no host web-9")))
        .run(&["release", "web-9"]);
    assert_eq!(
        (unknown.code, unknown.stderr.as_str()),
        (1, "bulkhead: there is no host web-9\n")
    );
    let invalid = Controller::start(refuse(Status::invalid_argument("no such key")));
    assert_eq!(invalid.run(&["token", "create"]).code, 64);
    let bug = Controller::start(refuse(Status::internal("oops"))).run(&["hosts"]);
    assert_eq!(bug.code, 70, "{bug:?}");
}

#[test]
fn an_operator_file_that_is_missing_or_wrong_is_bad_usage_and_never_shows_its_key() {
    let files = Files::new(&[
        ("unknown.toml", "controllers = [\"c:7443\"]\ncolour = 1\n"),
        ("key.toml", "key_pem = BEGIN-SECRET\n"),
        (
            "none.toml",
            "controllers = []\nca_pem = ''\ncertificate_pem = ''\nkey_pem = ''\n",
        ),
    ]);
    for (name, said) in [
        ("missing.toml", "No such file"),
        ("unknown.toml", "colour"),
        ("key.toml", "line 1"),
        ("none.toml", "names no controller"),
    ] {
        let done = bulkhead(&["--operator", &files.name(name), "hosts"]);
        assert_eq!(done.code, 64, "{done:?}");
        assert!(
            done.stderr.contains(name) && done.stderr.contains(said),
            "{done:?}"
        );
        assert!(!done.stderr.contains("SECRET"), "{done:?}");
    }
    let none = bulkhead(&["hosts"]);
    assert_eq!(none.code, 64, "{none:?}");
    assert!(
        none.stderr.contains("--operator or BULKHEAD_OPERATOR"),
        "{none:?}"
    );
}

#[test]
fn a_quarantine_says_who_has_confirmed() {
    let controller = Controller::start(Script {
        hosts: [
            vec![host("app-1", true), host("web-1", false)],
            vec![host("app-1", true), host("web-1", true)],
        ]
        .into(),
        ..Script::default()
    });
    let done = controller.run(&["quarantine", "web-1", "--reason", "INC-42"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(
        done.stdout,
        "web-1 is in quarantine\n\
         web-1 itself has confirmed\n\
         confirmed by 1 of 1 connected peer: app-1\n"
    );
    let reason = controller.script(|script| script.quarantine_requests[0].reason.clone());
    assert_eq!(reason, "INC-42");
}

#[test]
fn a_quarantine_that_the_host_itself_has_not_confirmed_exits_1() {
    let away = HostStatus {
        connected: false,
        ..host("web-1", true)
    };
    let controller = Controller::start(Script {
        hosts: [vec![host("app-1", true), away]].into(),
        ..Script::default()
    });
    let done = controller.run(&["quarantine", "web-1", "--reason", "INC-42"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stdout.contains("web-1 itself is away"), "{done:?}");
    let done = controller.run(&["quarantine", "web-1", "--reason", "INC-42", "-o", "json"]);
    assert_eq!(done.code, 1, "{done:?}");
    let line = &done.json()[0];
    assert_eq!(
        (&line["confirmed"], &line["away"]),
        (&json!(["app-1"]), &json!(["web-1"]))
    );
}

#[test]
fn hosts_are_a_table_for_people_and_objects_for_programs() {
    let web = HostStatus {
        identity: 256,
        labels: HashMap::from([("tier".into(), "web".into()), ("env".into(), "prod".into())]),
        addresses: vec![vec![10, 1, 10, 10]],
        refused_addresses: vec![vec![10, 1, 30, 10]],
        applied_revision: 4,
        agent_version: "0.1.0".into(),
        kernel_release: "6.12.1".into(),
        packets_denied: 12,
        ..host("web-1", true)
    };
    let controller = Controller::start(Script {
        hosts: [vec![web]].into(),
        ..Script::default()
    });
    let done = controller.run(&["hosts"]);
    assert_eq!(
        done.stdout,
        "NAME   STATE      POLICY  LABELS             ADDRESSES   DENIED  AGENT  KERNEL\n\
         web-1  connected  4       env=prod tier=web  10.1.10.10  12      0.1.0  6.12.1\n"
    );
    assert!(
        done.stderr
            .contains("web-1 claims 10.1.30.10, which is not believed"),
        "{done:?}"
    );
    let line = &controller.run(&["hosts", "-o", "json"]).json()[0];
    assert_eq!(line["labels"], json!({ "tier": "web", "env": "prod" }));
    assert_eq!(line["addresses"], json!(["10.1.10.10"]));
    assert_eq!(line["last_seen"], json!(null));
}

#[test]
fn a_token_is_alone_on_stdout_and_the_next_steps_are_beside_it() {
    let controller = Controller::start(Script::default());
    let done = controller.run(&[
        "token",
        "create",
        "--label",
        "tier=web",
        "--allow-addresses",
        "fd00::/64",
        "--host",
        "web-1",
        "--valid",
        "10m",
    ]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "bulkhead1.secret.hash\n"),
        "{done:?}"
    );
    assert!(
        done.stderr
            .contains("until 2033-05-18T03:33:20Z. On web-1, as root:"),
        "{done:?}"
    );
    assert!(
        done.stderr.contains("bulkhead-agent enroll --config"),
        "{done:?}"
    );
    assert!(
        done.stderr
            .contains(&format!("controllers = [\"{}\"]", controller.address))
    );
    assert!(!done.stderr.contains("bulkhead1.secret"), "{done:?}");
    let request = controller.script(|script| script.token_requests[0].clone());
    assert_eq!(
        request.labels,
        HashMap::from([("tier".into(), "web".into())])
    );
    assert_eq!(
        (request.host_name.as_str(), request.valid_seconds),
        ("web-1", 600)
    );
    assert_eq!(request.address_subnets[0].prefix_length, 64);
    let twice = controller.run(&["token", "create", "--label", "a=1", "--label", "a=2"]);
    assert_eq!(twice.code, 64, "{twice:?}");
}

#[test]
fn status_is_short() {
    let controller = Controller::start(Script::default());
    let done = controller.run(&["status"]);
    assert!(
        done.stdout.contains("hosts            3: 2 connected"),
        "{done:?}"
    );
    assert!(
        done.stdout.contains(
            "policy           revision 7: 3 segments, 1 policy, 1 guardrail, 2 exceptions (1 ended)\n"
        ),
        "{done:?}"
    );
    assert_eq!(
        controller.run(&["status", "-o", "json"]).json()[0]["revision"],
        7
    );
}

#[test]
fn a_key_that_others_can_read_is_warned_about() {
    let controller = Controller::start(Script::default());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(controller.file(), open).unwrap();
    let done = controller.run(&["status"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("chmod 600"), "{done:?}");
}
