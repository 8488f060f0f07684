//! `policy reach` in all its forms, and the assertions of `policy check`.

use serde_json::json;

use crate::run::{Done, Files, POLICIES, SEGMENTS, bulkhead};

const INVENTORY: &str = "\
hosts:
  - { name: web-1, addresses: [10.1.10.10], labels: { tier: web } }
  - { name: app-1, addresses: [10.1.20.10], labels: { tier: app } }
  - { name: app-2, addresses: [10.1.20.11], labels: { tier: app } }
  - { name: db-1, addresses: [10.1.30.10], labels: { tier: db } }
";

/// One of the app servers, and the office, may reach the database in other ways.
const MORE: &str = "\
apiVersion: bulkhead/v1
kind: Policy
name: more
appliesTo: db
ingress:
  - from: [{ subnet: 10.1.20.11/32 }]
    allow: [tcp/22]
  - from: [{ subnet: 192.0.2.0/24 }]
    allow: [tcp/443]
";

const ASSERTIONS: &str = "\
apiVersion: bulkhead/v1
kind: Assertion
name: app-never-opens-shells
never: { from: app, to: db, service: tcp/22 }
---
apiVersion: bulkhead/v1
kind: Assertion
name: app-has-its-database
always: { from: app, to: db, service: postgres }
";

fn files() -> Files {
    let files = Files::new(&[("inventory.yaml", INVENTORY)]);
    for (directory, more) in [("before", ""), ("after", MORE)] {
        std::fs::create_dir(files.path(directory)).unwrap();
        for (name, content) in [
            ("db", POLICIES),
            ("segments", SEGMENTS),
            ("assertions", ASSERTIONS),
        ] {
            std::fs::write(files.path(&format!("{directory}/{name}.yaml")), content).unwrap();
        }
        if !more.is_empty() {
            std::fs::write(files.path(&format!("{directory}/more.yaml")), more).unwrap();
        }
    }
    files
}

fn reach(files: &Files, policies: &str, more: &[&str]) -> Done {
    let (inventory, policies) = (files.name("inventory.yaml"), files.name(policies));
    let reach = [
        "policy",
        "reach",
        "--inventory",
        &inventory,
        "--policies",
        &policies,
    ];
    bulkhead(&[&reach[..], more].concat())
}

#[test]
fn by_segment_an_answer_says_for_whom_it_holds() {
    let files = files();
    let done = reach(
        &files,
        "after",
        &["--by", "segment", "--to", "db", "-o", "json"],
    );
    assert_eq!(done.code, 0, "{done:?}");
    let rows = done.json();
    let sources: Vec<_> = rows.iter().map(|row| &row["src"]).collect();
    assert_eq!(sources, ["app", "(other)", "world"], "{done:?}");
    assert_eq!(rows[0]["all"], json!(["tcp/5432"]));
    assert_eq!(rows[0]["some"], json!(["tcp/22"]));
    assert_eq!(
        (&rows[1]["all"], &rows[1]["some"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(rows[2]["some"], json!(["tcp/443"]));

    let table = reach(&files, "after", &["--by", "segment", "--to", "db"]);
    assert_eq!(
        table.stdout,
        "FROM   TO  ALL       SOME\napp    db  tcp/5432  tcp/22\nworld  db  -         tcp/443\n"
    );
    assert_eq!(table.stderr, "1 pair not shown: nothing passes\n");
}

#[test]
fn an_end_may_be_an_address_or_a_subnet_that_no_host_holds() {
    let files = files();
    let from = |end: &str| {
        let done = reach(
            &files,
            "after",
            &["--from", end, "--to", "db-1", "-o", "json"],
        );
        assert_eq!(done.code, 0, "{done:?}");
        let rows = done.json();
        let text = |row: &serde_json::Value| {
            let allowed = row["allowed"].as_array().unwrap().iter();
            let ports: Vec<_> = allowed.map(|it| it["ports"].as_str().unwrap()).collect();
            format!("{}: {}", row["src"].as_str().unwrap(), ports.join(" "))
        };
        rows.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(from("192.0.2.77"), ["192.0.2.77: tcp/443"]);
    assert_eq!(
        from("192.0.2.0/23"),
        [
            "192.0.2.0/23 like 192.0.2.1: tcp/443",
            "192.0.2.0/23 like 192.0.3.1: "
        ]
    );
    assert_eq!(
        from("10.1.20.10/31"),
        ["app-1: tcp/5432", "app-2: tcp/22 tcp/5432"]
    );
}

#[test]
fn only_a_service_may_be_asked_about() {
    let files = files();
    let on = |service: &str| reach(&files, "after", &["--to", "db", "--service", service]);
    let shells = on("tcp/1-1023");
    assert_eq!(
        shells.stdout,
        "FROM   TO    ALLOWED  ADDRESSES\napp-2  db-1  tcp/22   10.1.20.11->10.1.30.10\n"
    );
    assert_eq!(on("postgres").stdout.lines().count(), 3);
    assert_eq!(on("nothing").code, 64);
    assert_eq!(on("tcp/70000").code, 64);
}

#[test]
fn a_difference_is_what_opens_and_what_closes() {
    let files = files();
    let after = files.name("after");
    let before = files.name("before");
    let opened = reach(&files, "before", &["--diff", &after]);
    assert_eq!(opened.code, 1, "{opened:?}");
    assert_eq!(
        opened.stdout,
        "   FROM   TO    FLOWS   WHERE\n+  app-2  db-1  tcp/22  10.1.20.11->10.1.30.10\n"
    );
    let closed = reach(
        &files,
        "after",
        &["--diff", &before, "--by", "segment", "-o", "json"],
    );
    assert_eq!(closed.code, 1, "{closed:?}");
    let rows = closed.json();
    assert_eq!(rows.len(), 2, "{closed:?}");
    assert_eq!(rows[0]["closes"], json!({ "all": [], "some": ["tcp/22"] }));
    assert_eq!(rows[0]["opens"], json!({ "all": [], "some": [] }));
    assert_eq!(rows[1]["src"], "world");

    let same = reach(&files, "after", &["--diff", &after]);
    assert_eq!(
        (same.code, same.stdout.as_str(), same.stderr.as_str()),
        (0, "", "no difference\n")
    );
}

#[test]
fn a_graph_has_an_arrow_for_what_passes() {
    let files = files();
    let done = reach(
        &files,
        "after",
        &["--by", "segment", "--to", "db", "--graph"],
    );
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.starts_with("digraph reach {\n"), "{done:?}");
    for line in [
        "  \"(other)\";\n",
        "  \"app\" -> \"db\" [label=\"tcp/5432\"];\n",
        "  \"app\" -> \"db\" [label=\"tcp/22\", style=dashed];\n",
    ] {
        assert!(done.stdout.contains(line), "no {line} in {done:?}");
    }
    assert_eq!(reach(&files, "after", &["--graph", "-o", "json"]).code, 64);
}

#[test]
fn assertions_are_decided_when_there_is_an_inventory() {
    let files = files();
    let inventory = files.name("inventory.yaml");
    let check = |policies: &str, more: &[&str]| {
        bulkhead(&[&["policy", "check", &files.name(policies)], more].concat())
    };
    let undecided = check("after", &[]);
    assert_eq!(undecided.code, 0, "{undecided:?}");
    assert_eq!(
        undecided.stderr,
        "note: 2 assertions not decided: name the hosts with --inventory\n"
    );
    let holds = check("before", &["--inventory", &inventory]);
    assert_eq!((holds.code, holds.stderr.as_str()), (0, ""), "{holds:?}");

    let fails = check("after", &["--inventory", &inventory]);
    assert_eq!(fails.code, 1, "{fails:?}");
    assert_eq!(
        fails.stdout,
        format!(
            "{}:4:1: assertion `app-never-opens-shells` fails: app-2 (10.1.20.11) may reach db-1 \
             (10.1.30.10) on tcp/22: egress allowed by default, ingress allowed by \
             more/ingress[0] ({}:6), which it says never happens\n  \
             |\n4 | never: {{ from: app, to: db, service: tcp/22 }}\n  | \
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n\n1 of 2 assertions failed\n",
            files.name("after/assertions.yaml"),
            files.name("after/more.yaml"),
        )
    );
    let json = check("after", &["--inventory", &inventory, "-o", "json"]);
    assert_eq!(json.code, 1, "{json:?}");
    assert_eq!(json.json()[0]["line"], 4);
    assert_eq!(json.json()[0]["assertion"], "app-never-opens-shells");

    let nobody = Files::new(&[("none.yaml", "hosts: []\n")]);
    let vacuous = check("after", &["--inventory", &nobody.name("none.yaml")]);
    assert_eq!(vacuous.code, 0, "{vacuous:?}");
    let notes: Vec<_> = (vacuous.stderr.lines())
        .filter(|line| line.starts_with("note: "))
        .collect();
    assert_eq!(notes.len(), 2, "{vacuous:?}");
    assert!(
        notes
            .iter()
            .all(|note| note.ends_with("holds: there is no flow that it speaks of")),
        "{vacuous:?}"
    );
}
