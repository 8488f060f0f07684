//! Applying a policy, and waiting for the hosts.

use proto::v1::{ApplyPolicyResponse, Direction, HostStatus, LostAccess, Origin};
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
            hosts_selected: 3,
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
            hosts_selected: 2,
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
            "waiting": [], "away": [], "lost": [], "not_protected": [], "interrupted": false,
            "refused": [{ "host": "app-1", "reason": "too\u{1b}[2J large" }],
            "hosts_selected": 2, "hosts_not_selected": [], "lost_access": [], "refusals": []
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
        done.stdout.contains("no answer in time from app-1\n"),
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
fn a_set_without_a_policy_is_the_controllers_to_refuse() {
    let files = Files::new(&[("segments.yaml", SEGMENTS)]);
    let controller = Controller::start(Script {
        apply: ApplyPolicyResponse {
            revision: 3,
            refusals: vec!["they open every host; add --allow-empty".into()],
            ..Default::default()
        },
        ..Script::default()
    });
    let apply = ["policy", "apply", files.root()];
    let done = controller.run(&apply);
    assert_eq!(done.code, 77, "{done:?}");
    assert_eq!(
        done.stdout,
        "refused: they open every host; add --allow-empty\n\
         nothing was changed: revision 3 stays in force\n"
    );
    let json = controller.run(&[&apply[..], &["-o", "json"]].concat());
    assert_eq!(json.code, 77, "{json:?}");
    assert_eq!(json.json()[0]["refusals"].as_array().unwrap().len(), 1);
    controller.run(&[&apply[..], &["--allow-empty", "--allow-lockout"]].concat());
    controller.script(|script| {
        let [first, _, last] = script.apply_requests.as_slice() else {
            panic!("{} requests", script.apply_requests.len())
        };
        assert_eq!((first.allow_empty, first.allow_lockout), (false, false));
        assert_eq!((last.allow_empty, last.allow_lockout), (true, true));
        assert!(!last.including_the_controller);
    });
}

#[test]
fn an_apply_says_who_is_open_and_who_closes_to_the_operator() {
    let files = three_tiers();
    let lost = |host: &str, failsafe_unknown| LostAccess {
        host: host.into(),
        operator_address: vec![192, 0, 2, 7],
        port: 22,
        origin: Some(Origin {
            rule: "db/ingress".into(),
            file: "db.yaml".into(),
            line: 7,
        }),
        direction: Direction::Ingress.into(),
        failsafe_unknown,
    };
    let apply = |apply: ApplyPolicyResponse, more: &[&str]| {
        let controller = Controller::start(Script {
            hosts: [vec![host("db-1", true)]].into(),
            apply,
            ..Script::default()
        });
        let root = files.name("policies");
        let done = controller.run(&[&["policy", "apply", root.as_str()][..], more].concat());
        (done.code, done.stdout)
    };
    let some = ApplyPolicyResponse {
        revision: 4,
        hosts_changed: 1,
        hosts_selected: 1,
        hosts_not_selected: (0..40).map(|number| format!("web-{number}")).collect(),
        lost_access: vec![lost("db-1", false), lost("db-2", true)],
        ..Default::default()
    };
    let (code, said) = apply(some.clone(), &[]);
    assert_eq!(code, 0, "{said}");
    for line in [
        "db-1 closes tcp/22 to you at 192.0.2.7: db/ingress (db.yaml:7) denies it\n",
        "db-2 may close tcp/22 to you at 192.0.2.7: db/ingress (db.yaml:7) denies it; its agent is too old",
        "open, as no policy that is enforced selects them (40 of 41 hosts): web-0, ",
        "web-15 and 24 more\n",
    ] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    let (_, said) = apply(some.clone(), &["--dry-run"]);
    assert!(
        said.contains("would change\ndb-1 closes") && said.contains("(40 of 41 hosts)"),
        "{said}"
    );
    let none = ApplyPolicyResponse {
        hosts_selected: 0,
        lost_access: Vec::new(),
        ..some
    };
    let (_, said) = apply(none, &[]);
    assert!(
        said.contains("WARNING: no policy selects any host, so nothing is denied anywhere"),
        "{said}"
    );
    let (_, said) = apply(ApplyPolicyResponse::default(), &["--dry-run"]);
    assert!(said.contains("WARNING: no host is enrolled yet"), "{said}");
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
