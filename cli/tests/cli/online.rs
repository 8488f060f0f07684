//! What the tool asks a controller, and what it makes of the answers.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    thread,
    time::Duration,
};

use proto::v1::{Enforcement, HostReport, HostStatus, Standing};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tonic::Status;

use crate::{
    controller::{Controller, Script},
    credentials::{Authority, operator_file},
    run::{Files, bulkhead, command},
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
    assert_eq!(expired.code, 77, "{expired:?}");
    assert!(
        expired
            .stderr
            .contains("it has expired; ask an administrator"),
        "{expired:?}"
    );
    controller.give(&Authority::new().operator());
    let foreign = controller.run(&["hosts"]);
    assert_eq!(foreign.code, 77, "{foreign:?}");
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
    assert_eq!(denied.code, 77, "{denied:?}");
    assert!(
        denied.stderr.contains("permission denied") && denied.stderr.contains("ann may only look")
    );
    let unknown = Controller::start(refuse(Status::not_found("there is no host web-9")))
        .run(&["release", "web-9"]);
    assert_eq!(
        (unknown.code, unknown.stderr.as_str()),
        (77, "bulkhead: there is no host web-9\n")
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
        standing: Standing::Enforced.into(),
        ..host("web-1", true)
    };
    let controller = Controller::start(Script {
        hosts: [vec![web]].into(),
        ..Script::default()
    });
    let done = controller.run(&["hosts"]);
    assert_eq!(
        done.stdout,
        "NAME   STATE     POLICY  LABELS             ADDRESSES   DENIED  AGENT  KERNEL\n\
         web-1  enforced  4       env=prod tier=web  10.1.10.10  12      0.1.0  6.12.1\n"
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
fn a_protected_host_an_open_one_and_a_detached_one_are_three_words() {
    let stands = |name: &str, standing: Standing| HostStatus {
        standing: standing.into(),
        applied_revision: 4,
        ..host(name, standing == Standing::Enforced)
    };
    let report = HostReport {
        enforcement: Enforcement::PolicesNothing.into(),
        problems: vec!["the interface ens3 of the configuration does not exist".into()],
        ..HostReport::default()
    };
    let nothing = HostStatus {
        report: Some(report),
        applied_revision: 0,
        ..stands("d", Standing::PolicesNothing)
    };
    let controller = Controller::start(Script {
        hosts: [vec![
            stands("a", Standing::Enforced),
            stands("b", Standing::NotSelected),
            HostStatus {
                applied_revision: 0,
                ..stands("c", Standing::Detached)
            },
            nothing,
            stands("e", Standing::Observed),
        ]]
        .into(),
        ..Script::default()
    });
    let done = controller.run(&["hosts"]);
    for row in [
        "a     enforced                             4 ",
        "b     no policy selects it                 4 ",
        "c     NOT PROTECTED: detached              none ",
        "d     NOT PROTECTED: polices no interface  none ",
        "e     observed only                        4 ",
    ] {
        assert!(done.stdout.contains(row), "{row:?} in {}", done.stdout);
    }
    for note in [
        "d: it polices no interface: everything passes; the interface ens3",
        "open, as no policy that is enforced selects them: b, e\n",
    ] {
        assert!(done.stderr.contains(note), "{}", done.stderr);
    }
    let lines = controller.run(&["hosts", "-o", "json"]).json();
    let words: Vec<_> = lines.iter().map(|line| line["standing"].clone()).collect();
    let expected = [
        "enforced",
        "not-selected",
        "detached",
        "polices-nothing",
        "observed",
    ];
    assert_eq!(json!(words), json!(expected));
    assert_eq!(lines[0]["report"], json!(null));
    assert_eq!(lines[3]["report"]["problems"].as_array().unwrap().len(), 1);
}

#[test]
fn a_host_that_went_away_or_enforces_nothing_is_no_confirmation() {
    let gone = HostStatus {
        connected: false,
        ..host("app-1", false)
    };
    let script = |hosts: Vec<HostStatus>| Script {
        hosts: [hosts].into(),
        connected: vec!["app-1".into(), "web-1".into()],
        ..Script::default()
    };
    let quarantine = [
        "quarantine",
        "web-1",
        "--reason",
        "INC-42",
        "--timeout",
        "0s",
    ];
    let done = Controller::start(script(vec![gone, host("web-1", true)])).run(&quarantine);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.stdout.contains("went away before confirming: app-1\n"),
        "{done:?}"
    );
    let detached = HostStatus {
        standing: Standing::Detached.into(),
        ..host("web-1", false)
    };
    let done = Controller::start(script(vec![host("app-1", true), detached])).run(&quarantine);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.stdout
            .contains("web-1 itself does NOT enforce it: enforcement was ended there"),
        "{done:?}"
    );
}

#[test]
fn an_interrupt_ends_the_waiting_and_says_that_the_change_is_made() {
    let controller = Controller::start(Script {
        hosts: [vec![host("app-1", false), host("web-1", true)]].into(),
        ..Script::default()
    });
    let file = controller.file();
    let mut child = command(&["--operator", file.to_str().unwrap()])
        .args(["quarantine", "web-1", "--reason", "INC-42"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(first, "web-1 is in quarantine\n");
    // It waits from its first look on.
    while controller.script(|script| script.looks) == 0 {
        thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut stdout = String::new();
    out.read_to_string(&mut stdout).unwrap();
    let done = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(130), "{stdout}{stderr}");
    assert!(stdout.contains("no answer in time from app-1"), "{stdout}");
    assert!(
        stderr.contains("the change is made and goes on"),
        "{stderr}"
    );
}

#[test]
fn the_printed_configuration_is_filled_in() {
    let controller = Controller::start(Script {
        caller_address: vec![198, 51, 100, 7],
        ..Script::default()
    });
    let create = ["token", "create", "--label", "tier=web", "--host", "web-1"];
    let printed = controller.run(&create).stderr;
    assert!(
        printed.contains("subnets = [\"198.51.100.7/32\"]"),
        "{printed}"
    );
    assert!(printed.contains("host_name = \"web-1\""), "{printed}");
    let named =
        controller.run(&[&create[..], &["--failsafe", "10.9.0.0/24", "-o", "json"]].concat());
    let config = named.json()[0]["agent_toml"].as_str().unwrap().to_owned();
    assert!(config.contains("subnets = [\"10.9.0.0/24\"]"), "{config}");
    // At the controller itself nobody knows; then it says so.
    let controller = Controller::start(Script::default());
    let printed = controller.run(&create).stderr;
    assert!(
        printed.contains("the failsafe is empty") && printed.contains("--failsafe SUBNET"),
        "{printed}"
    );
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
