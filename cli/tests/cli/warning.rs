//! What `policy check` warns of.

use std::fs;

use crate::run::{Done, Files, bulkhead, three_tiers};

const NARROWER: &str = "\
apiVersion: bulkhead/v1
kind: Policy
name: db-too
appliesTo: db
ingress:
  - from: [app]
    allow: [tcp/5432]
";

fn check(files: &Files, more: &[&str]) -> Done {
    let policies = files.name("policies");
    bulkhead(&[&["policy", "check", &policies], more].concat())
}

#[test]
fn a_warning_shows_its_line_and_fails_only_a_strict_check() {
    let files = three_tiers();
    fs::write(files.path("policies/more.yaml"), NARROWER).unwrap();
    let done = check(&files, &[]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.stdout, "2 segments, 1 service, 2 policies: ok\n");
    let (db, more) = (
        files.name("policies/db.yaml"),
        files.name("policies/more.yaml"),
    );
    let expected = format!(
        "warning: {more}:6:3: `db-too/ingress[0]` changes nothing: `db-ingress/ingress[0]` ({db}:6) allows all that it allows
  |
6 |   - from: [app]
  |   ^^^^^^^^^^^^^
  = help: remove it, or make the other one narrower

1 warning
"
    );
    assert_eq!(done.stderr, expected);
    assert_eq!(check(&files, &["--strict"]).code, 1);

    let json = check(&files, &["-o", "json"]);
    assert_eq!((json.code, json.json().len()), (0, 1), "{json:?}");
    let warning = &json.json()[0];
    assert_eq!(warning["severity"], "warning");
    assert_eq!(warning["kind"], "covered");
    assert_eq!(warning["line"], 6);
}

#[test]
fn an_inventory_tells_who_is_missing() {
    let files = three_tiers();
    let inventory = files.path("inventory.yaml");
    let less = fs::read_to_string(&inventory)
        .unwrap()
        .replace("tier: app", "tier: ap");
    fs::write(&inventory, less).unwrap();
    assert_eq!(check(&files, &["--strict"]).code, 0);
    let inventory = files.name("inventory.yaml");
    let done = check(&files, &["--strict", "--inventory", &inventory]);
    assert_eq!(done.code, 1, "{done:?}");
    for said in [
        "segment `app` selects nobody: no host of the inventory has { tier: app }",
        "`db-ingress/ingress[0]` can never match: no host of the inventory is in segment app",
        "2 warnings\n",
    ] {
        assert!(done.stderr.contains(said), "{done:?}");
    }
}

#[test]
fn mistakes_come_without_warnings() {
    let files = three_tiers();
    fs::write(
        files.path("policies/more.yaml"),
        NARROWER.replace("[app]", "[ap]"),
    )
    .unwrap();
    let done = check(&files, &["-o", "json"]);
    assert_eq!((done.code, done.json().len()), (1, 1), "{done:?}");
    assert_eq!(done.json()[0]["severity"], "error");
}
