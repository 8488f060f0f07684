//! What needs no controller: check, reach, and bad usage.

use std::fs;

use serde_json::json;

use crate::run::{Files, bulkhead, three_tiers};

#[test]
fn right_files_are_counted_and_ok() {
    let files = three_tiers();
    let done = bulkhead(&["policy", "check", &files.name("policies")]);
    assert_eq!(done.stdout, "2 segments, 1 service, 1 policy: ok\n");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let done = bulkhead(&["policy", "check", &files.name("policies"), "-o", "json"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, ""));
}

#[test]
fn the_schemas_are_json() {
    for (arguments, title) in [
        (&["policy", "schema"][..], "Bulkhead policy"),
        (
            &["policy", "schema", "--inventory"][..],
            "Bulkhead inventory",
        ),
    ] {
        let done = bulkhead(arguments);
        assert_eq!((done.code, done.stderr.as_str()), (0, ""));
        let schema: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!(schema["title"], title);
    }
}

#[test]
fn every_mistake_is_shown_at_once_with_its_line() {
    let files = Files::new(&[
        (
            "a.yaml",
            "apiVersion: bulkhead/v1\nkind: Segment\nname: app\nmatch: { tier: app }\ncolour: red\n",
        ),
        (
            "b.yaml",
            "apiVersion: bulkhead/v1\nkind: Policy\nname: p\nappliesTo: nowhere\ningress:\n  - from: [app]\n    allow: [tcp/70000]\n",
        ),
    ]);
    let done = bulkhead(&["policy", "check", files.root()]);
    assert_eq!(done.code, 1, "{done:?}");
    for place in ["a.yaml:5:", "b.yaml:4:", "b.yaml:7:"] {
        assert!(
            done.stdout.contains(&files.name(place)),
            "no {place} in {}",
            done.stdout
        );
    }
    assert!(
        done.stdout.contains("appliesTo: nowhere") && done.stdout.contains('^'),
        "{done:?}"
    );
    assert!(done.stdout.ends_with("3 problems\n"), "{done:?}");
    assert!(
        !done.stdout.contains('\u{1b}'),
        "colour on a pipe: {done:?}"
    );

    let done = bulkhead(&["-o", "json", "policy", "check", files.root()]);
    assert_eq!(done.code, 1);
    let lines: Vec<_> = done
        .json()
        .iter()
        .map(|problem| problem["line"].clone())
        .collect();
    assert_eq!(lines, [5, 4, 7]);
    assert!(
        done.json()
            .iter()
            .all(|problem| problem["message"].is_string())
    );
}

#[test]
fn paths_that_cannot_be_used_are_bad_usage() {
    let files = Files::new(&[("readme.txt", "hello")]);
    let missing = bulkhead(&["policy", "check", &files.name("missing.yaml")]);
    assert_eq!(missing.code, 64, "{missing:?}");
    assert!(
        missing.stderr.contains(&format!(
            "reading policies from {}: there is no such file or directory; check the path",
            files.name("missing.yaml")
        )),
        "{missing:?}"
    );
    let empty = bulkhead(&["policy", "check", files.root()]);
    assert_eq!(empty.code, 64, "{empty:?}");
    assert!(empty.stderr.contains("no policy files here"), "{empty:?}");
}

#[test]
fn a_set_without_a_policy_is_right_and_warned_of() {
    let files = Files::new(&[("segments.yaml", crate::run::SEGMENTS)]);
    for more in [&[][..], &["-o", "json"]] {
        let done = bulkhead(&[&["policy", "check", files.root()], more].concat());
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(
            done.stderr, "warning: no policies: applied, it opens every host\n",
            "{done:?}"
        );
    }
}

#[test]
fn an_inventory_that_cannot_be_one_is_said_so_once() {
    let files = three_tiers();
    let policies = files.name("policies");
    let reach = |inventory: &str| {
        let inventory = files.name(inventory);
        bulkhead(&[
            "policy",
            "reach",
            "--policies",
            &policies,
            "--inventory",
            &inventory,
        ])
    };
    let swapped = reach("policies/db.yaml");
    assert_eq!(swapped.code, 1, "{swapped:?}");
    assert!(
        swapped.stderr.starts_with("bulkhead: 1 problem\n"),
        "{swapped:?}"
    );
    assert!(
        swapped
            .stderr
            .contains("db.yaml:1:1: this is a policy file, not an inventory"),
        "{swapped:?}"
    );
    let directory = reach("policies");
    assert_eq!(directory.code, 64, "{directory:?}");
    assert!(
        directory.stderr.contains("it is a directory; name a file"),
        "{directory:?}"
    );
}

#[test]
fn bad_usage_exits_64_and_help_exits_0() {
    for arguments in [
        &["policy"][..],
        &["policy", "check"],
        &["polcy", "check", "x"],
        &["denials", "--since", "yesterday"],
        &["denials", "--limit", "0"],
        &["token", "create", "--label", "tier"],
        &["token", "create", "--allow-addresses", "10.0.0.1/8"],
        &["quarantine", "web-1"],
        &["quarantine", "web-1", "--reason", ""],
        &["hosts", "-o", "xml"],
    ] {
        assert_eq!(bulkhead(arguments).code, 64, "{arguments:?}");
    }
    let help = bulkhead(&["policy", "eval", "--help"]);
    assert_eq!(help.code, 0);
    assert!(help.stdout.contains("Examples:"), "{help:?}");
    assert_eq!(bulkhead(&["--version"]).code, 0);
}

#[test]
fn eval_and_reach_refuse_files_with_mistakes() {
    let files = Files::new(&[
        (
            "bad.yaml",
            "apiVersion: bulkhead/v1\nkind: Segmnt\nname: a\n",
        ),
        ("inventory.yaml", crate::run::INVENTORY),
        ("hosts.yaml", "hosts: [{ name: a, adresses: [] }]\n"),
        ("good.yaml", crate::run::SEGMENTS),
    ]);
    let ask = |command, inventory, policies| {
        let (inventory, policies) = (files.name(inventory), files.name(policies));
        bulkhead(&[
            "policy",
            command,
            "--inventory",
            &inventory,
            "--policies",
            &policies,
        ])
    };
    for command in ["eval", "reach"] {
        let done = ask(command, "inventory.yaml", "bad.yaml");
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{done:?}");
        assert!(done.stderr.contains("bad.yaml:2:7"), "{done:?}");
        let done = ask(command, "hosts.yaml", "good.yaml");
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{done:?}");
        assert!(done.stderr.contains("hosts.yaml:1:"), "{done:?}");
    }
}

#[test]
fn reach_lists_every_pair_exactly() {
    let files = three_tiers();
    let (inventory, policies) = (files.name("inventory.yaml"), files.name("policies"));
    let reach = [
        "policy",
        "reach",
        "--inventory",
        &inventory,
        "--policies",
        &policies,
    ];
    let all = bulkhead(&[&reach[..], &["-o", "json"]].concat());
    assert_eq!(all.code, 0, "{all:?}");
    assert_eq!(all.json().len(), 6, "{all:?}");

    let to_db = bulkhead(&[&reach[..], &["-o", "json", "--to", "db"]].concat()).json();
    let pairs: Vec<_> = to_db
        .iter()
        .map(|pair| (&pair["src"], &pair["dst"]))
        .collect();
    assert_eq!(
        pairs,
        [
            (&json!("web-1"), &json!("db-1")),
            (&json!("app-1"), &json!("db-1"))
        ]
    );
    assert_eq!(to_db[0]["allowed"], json!([]));
    let allowed = &to_db[1]["allowed"][0];
    assert_eq!(allowed["ports"], "tcp/5432");
    assert_eq!(allowed["ingress"]["rule"], "db-ingress/ingress[0]");

    let table = bulkhead(&[&reach[..], &["--to", "db-1"]].concat());
    assert_eq!(
        table.stdout,
        "FROM   TO    ALLOWED   ADDRESSES\napp-1  db-1  tcp/5432  10.1.20.10->10.1.30.10\n"
    );
    assert_eq!(table.stderr, "1 pair not shown: nothing passes\n");
    assert_eq!(
        bulkhead(&[&reach[..], &["--from", "nobody"]].concat()).code,
        64
    );
}

#[test]
fn the_examples_are_right() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut checked = 0;
    for example in fs::read_dir(examples).unwrap() {
        let example = example.unwrap().path();
        let inventory = example.join("inventory.yaml");
        if !inventory.exists() {
            // A change to another example: the handbook shows it, see `tests/tests/handbook.rs`.
            continue;
        }
        let (directory, inventory) = (example.to_str().unwrap(), inventory.to_str().unwrap());
        let done = bulkhead(&["policy", "check", directory]);
        assert_eq!(done.code, 0, "{done:?}");
        let reach = bulkhead(&[
            "policy",
            "reach",
            "--inventory",
            inventory,
            "--policies",
            directory,
        ]);
        assert_eq!(reach.code, 0, "{reach:?}");
        assert!(reach.stdout.lines().count() > 1, "{reach:?}");
        checked += 1;
    }
    assert!(checked >= 3, "only {checked} examples in {examples}");
}
