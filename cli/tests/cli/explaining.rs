//! Why a flow passes or not, asked offline.

use crate::run::{Done, Files, bulkhead, three_tiers};

fn explain(files: &Files, question: [&str; 3], more: &[&str]) -> Done {
    let (inventory, policies) = (files.name("inventory.yaml"), files.name("policies"));
    let options = ["--inventory", &inventory, "--policies", &policies];
    bulkhead(&[&["policy", "explain"], &question[..], &options, more].concat())
}

#[test]
fn a_denial_is_explained_rule_by_rule_with_what_was_nearest() {
    let files = three_tiers();
    let done = explain(&files, ["web-1", "db-1", "postgres"], &[]);
    assert_eq!((done.code, done.stderr.as_str()), (1, ""), "{done:?}");
    let db = files.name("policies/db.yaml");
    let columns = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = done.stdout.lines().map(columns).collect();
    let why = "web-1 is not in segment app because tier is web";
    assert_eq!(
        lines,
        [
            "web-1 (10.1.10.10) -> db-1 (10.1.30.10), tcp/5432: deny",
            "",
            "egress of web-1: allow, by default",
            "TIER RULE PLACE ACTION RESULT",
            "default default - allow decides",
            "",
            &format!("ingress of db-1: deny, by policy `db-ingress/ingress` ({db}:5)"),
            "TIER RULE PLACE ACTION RESULT",
            &format!("policy db-ingress/ingress[0] {db}:6 allow no match: {why}"),
            &format!("policy db-ingress/ingress {db}:5 deny decides"),
            "default default - allow not asked: decided before",
            &format!("nearest: policy `db-ingress/ingress[0]` ({db}:6) would allow it, but {why}"),
        ]
    );
}

#[test]
fn what_passes_exits_0_and_rules_for_others_are_counted() {
    let files = three_tiers();
    let done = explain(&files, ["app-1", "web-1", "tcp/80"], &[]);
    assert_eq!(done.code, 0, "{done:?}");
    let counted = "1 rule for other hosts than web-1: --all lists them\n";
    assert!(done.stdout.ends_with(counted), "{done:?}");
    let done = explain(&files, ["app-1", "web-1", "tcp/80"], &["--all"]);
    let because = "web-1 is not in segment db because tier is web";
    assert!(done.stdout.contains(because), "{done:?}");
    let done = explain(&files, ["8.8.8.8", "web-1", "icmp"], &[]);
    let outside = "egress of 8.8.8.8: allow, as no host of the inventory has this address\n";
    assert!(done.stdout.contains(outside), "{done:?}");
}

#[test]
fn json_answers_as_eval_does_with_the_rules_behind_it() {
    let files = three_tiers();
    let done = explain(&files, ["app-1", "db-1", "tcp/22"], &["-o", "json"]);
    assert_eq!(done.code, 1, "{done:?}");
    let [answer] = &done.json()[..] else {
        panic!("{done:?}")
    };
    assert_eq!(answer["port"], 22);
    assert_eq!(answer["verdict"], "deny");
    let ingress = &answer["ingress"];
    assert_eq!(ingress["rule"], "db-ingress/ingress");
    assert_eq!(ingress["considered"][0]["enforced"], "misses");
    assert_eq!(ingress["nearest"]["line"], 6);
    let but = "the port is tcp/22, not tcp/5432";
    assert_eq!(ingress["nearest"]["but"], serde_json::json!([but]));
}

#[test]
fn questions_without_a_meaning_are_bad_usage() {
    let files = three_tiers();
    for (question, said) in [
        (
            ["nobody", "db-1", "tcp/1"],
            "`nobody` is neither an address nor a host",
        ),
        (
            ["app-1", "db-1", "mysql"],
            "`mysql` is neither a Service of the policy files nor",
        ),
        (["app-1", "db-1", "tcp/99999"], "`99999` is not a port"),
    ] {
        let done = explain(&files, question, &[]);
        assert_eq!((done.code, done.stdout.as_str()), (64, ""), "{done:?}");
        assert!(done.stderr.contains(said), "{done:?}");
    }
}
