//! Applying a policy, and waiting for the hosts.

use proto::v1::{ApplyPolicyResponse, HostStatus};
use serde_json::json;

use crate::{
    controller::{Controller, Script},
    online::host,
    run::{Files, SEGMENTS, three_tiers},
};

#[test]
fn an_apply_waits_until_every_connected_host_has_the_policy() {
    let files = three_tiers();
    let away = HostStatus {
        connected: false,
        ..host("db-1", false)
    };
    let controller = Controller::start(Script {
        apply: ApplyPolicyResponse {
            revision: 4,
            hosts_changed: 2,
            ..Default::default()
        },
        hosts: [
            vec![host("app-1", false), host("web-1", true), away.clone()],
            vec![host("app-1", true), host("web-1", true), away],
        ]
        .into(),
        ..Script::default()
    });
    let done = controller.run(&["policy", "apply", &files.name("policies")]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(
        done.stdout,
        "revision 4: 2 segments, 1 service, 1 policy; the policy of 2 hosts changes\n\
         confirmed by 2 of 2 connected hosts: app-1, web-1\n\
         away, and told when they are back: db-1\n"
    );
    let paths: Vec<_> = controller.script(|script| {
        script.apply_requests[0]
            .files
            .iter()
            .map(|file| file.path.clone())
            .collect()
    });
    assert_eq!(
        paths,
        [
            files.name("policies/db.yaml"),
            files.name("policies/segments.yaml")
        ]
    );
}

#[test]
fn an_apply_that_a_host_refuses_exits_1_with_its_reason() {
    let files = three_tiers();
    let refusing = HostStatus {
        refusal: "too\u{1b}[2J large".into(),
        ..host("app-1", false)
    };
    let script = || Script {
        apply: ApplyPolicyResponse {
            revision: 4,
            hosts_changed: 1,
            ..Default::default()
        },
        hosts: [vec![refusing.clone(), host("web-1", true)]].into(),
        ..Script::default()
    };
    let done = Controller::start(script()).run(&["policy", "apply", &files.name("policies")]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.stdout
            .contains("refused by app-1: too\u{fffd}[2J large\n"),
        "{done:?}"
    );
    let done = Controller::start(script()).run(&[
        "policy",
        "apply",
        &files.name("policies"),
        "-o",
        "json",
    ]);
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(
        done.json(),
        [json!({
            "revision": 4, "hosts_changed": 1, "dry_run": false, "confirmed": ["web-1"],
            "waiting": [], "away": [],
            "refused": [{ "host": "app-1", "reason": "too\u{1b}[2J large" }]
        })]
    );
}

#[test]
fn a_host_that_does_not_answer_in_time_is_named() {
    let files = three_tiers();
    let controller = Controller::start(Script {
        hosts: [vec![host("app-1", false)]].into(),
        ..Script::default()
    });
    let done = controller.run(&[
        "policy",
        "apply",
        &files.name("policies"),
        "--timeout",
        "0s",
    ]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.stdout.contains("no answer yet from app-1\n"),
        "{done:?}"
    );
    let done = controller.run(&["policy", "apply", &files.name("policies"), "--no-wait"]);
    assert_eq!(done.code, 0, "{done:?}");
}

#[test]
fn nothing_is_sent_when_the_files_have_mistakes() {
    let files = Files::new(&[("bad.yaml", "kind: Policy\n")]);
    let controller = Controller::start(Script::default());
    let done = controller.run(&["policy", "apply", &files.name("bad.yaml")]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stdout.contains("bad.yaml:1:1"), "{done:?}");
    assert!(controller.script(|script| script.apply_requests.is_empty()));
}

#[test]
fn a_set_without_a_policy_opens_every_host_only_when_that_is_said() {
    let files = Files::new(&[("segments.yaml", SEGMENTS)]);
    let controller = Controller::start(Script::default());
    let apply = ["policy", "apply", "--no-wait", files.root()];
    for more in [&[][..], &["--dry-run"]] {
        let done = controller.run(&[&apply[..], more].concat());
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{done:?}");
        assert!(done.stderr.contains("it opens every host"), "{done:?}");
        assert!(done.stderr.contains("--allow-empty"), "{done:?}");
    }
    assert!(controller.script(|script| script.apply_requests.is_empty()));
    let done = controller.run(&[&apply[..], &["--allow-empty"]].concat());
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(controller.script(|script| script.apply_requests.len()), 1);
}

#[test]
fn what_the_controller_finds_wrong_is_shown_and_the_old_policy_stays() {
    let files = three_tiers();
    let controller = Controller::start(Script {
        apply: ApplyPolicyResponse {
            revision: 3,
            problems: vec!["db-1: matrix cells: 2000000 needed, 1048576 is the most".into()],
            ..Default::default()
        },
        ..Script::default()
    });
    let done = controller.run(&["policy", "apply", "--dry-run", &files.name("policies")]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.stdout.contains("matrix cells: 2000000 needed"),
        "{done:?}"
    );
    assert!(
        done.stdout
            .ends_with("refused: 1 problem; revision 3 stays in force\n"),
        "{done:?}"
    );
    assert!(controller.script(|script| script.apply_requests[0].dry_run));
}
