//! What needs no controller: check, eval, reach, and bad usage.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use serde_json::json;

use crate::run::{Files, bulkhead, bulkhead_with_input, command, three_tiers};

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
        missing.stderr.contains("missing.yaml: No such file"),
        "{missing:?}"
    );
    let empty = bulkhead(&["policy", "check", files.root()]);
    assert_eq!(empty.code, 64, "{empty:?}");
    assert!(empty.stderr.contains("no policy files here"), "{empty:?}");
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

/// The arguments of `eval` on the three tiers.
fn eval(files: &Files) -> Vec<String> {
    [
        "policy",
        "eval",
        "--inventory",
        &files.name("inventory.yaml"),
        "--policies",
        &files.name("policies"),
    ]
    .map(str::to_owned)
    .to_vec()
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn eval_repeats_each_query_with_its_verdict_and_the_rule_of_each_side() {
    let files = three_tiers();
    let queries = r#"{"src": "app-1", "dst": "db-1", "protocol": "tcp", "port": 5432}
{"src": "web-1", "dst": "10.1.30.10", "protocol": "tcp", "port": 5432}
"#;
    let done = bulkhead_with_input(&borrowed(&eval(&files)), queries.as_bytes());
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    let policy = files.name("policies/db.yaml");
    let by_default =
        json!({"verdict": "allow", "tier": "default", "rule": "default", "file": "", "line": 0});
    assert_eq!(
        done.json(),
        [
            json!({
                "src": "app-1", "dst": "db-1", "protocol": "tcp", "port": 5432, "verdict": "allow",
                "egress": by_default,
                "ingress": {
                    "verdict": "allow", "tier": "policy", "rule": "db-ingress/ingress[0]",
                    "file": policy, "line": 6
                }
            }),
            json!({
                "src": "web-1", "dst": "10.1.30.10", "protocol": "tcp", "port": 5432, "verdict": "deny",
                "egress": by_default,
                "ingress": {
                    "verdict": "deny", "tier": "policy", "rule": "db-ingress/ingress",
                    "file": policy, "line": 5
                }
            }),
        ]
    );
}

#[test]
fn a_line_that_is_no_query_is_answered_in_its_place() {
    let files = three_tiers();
    let good = r#"{"src": "app-1", "dst": "db-1", "protocol": "tcp", "port": 5432}"#;
    let unknown = r#"{"src": "nobody", "dst": "db-1", "protocol": "tcp", "port": 5432}"#;
    let mut input = format!("{good}\n{{\n\n{unknown}\n").into_bytes();
    input.extend_from_slice(b"\xff\xfe\n");
    // The last line needs no line break.
    input.extend_from_slice(good.as_bytes());
    let done = bulkhead_with_input(&borrowed(&eval(&files)), &input);
    assert_eq!(done.code, 1, "{done:?}");
    let lines = done.json();
    assert_eq!(lines.len(), 5, "{done:?}");
    assert_eq!(
        (&lines[0]["verdict"], &lines[4]["verdict"]),
        (&json!("allow"), &json!("allow"))
    );
    for (answer, line) in lines[1..4].iter().zip([2, 4, 5]) {
        assert_eq!(answer["line"], line);
        assert!(answer["error"].is_string(), "{answer}");
    }
    assert!(
        lines[2]["error"].as_str().unwrap().contains("`nobody`"),
        "{}",
        lines[2]
    );
}

#[test]
fn a_program_that_waits_for_each_verdict_gets_it() {
    let files = three_tiers();
    let mut child = command(&borrowed(&eval(&files)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for port in [80, 5432] {
        writeln!(
            stdin,
            r#"{{"src": "app-1", "dst": "db-1", "protocol": "tcp", "port": {port}}}"#
        )
        .unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains(&format!("\"port\":{port}")), "{line}");
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn one_query_by_flags_exits_by_its_verdict() {
    let files = three_tiers();
    let mut arguments = eval(&files);
    arguments.extend(["--src", "web-1", "--dst", "db-1", "--protocol", "tcp"].map(str::to_owned));
    arguments.extend(["--port", "5432"].map(str::to_owned));
    let denied = bulkhead(&borrowed(&arguments));
    assert_eq!(denied.code, 1, "{denied:?}");
    assert!(denied.stdout.starts_with("deny\n"), "{denied:?}");
    assert!(denied.stdout.contains("db-ingress/ingress"), "{denied:?}");
    let app: Vec<_> = borrowed(&arguments)
        .iter()
        .map(|&word| if word == "web-1" { "app-1" } else { word })
        .collect();
    assert_eq!(bulkhead(&app).code, 0);
    let unknown: Vec<_> = app
        .iter()
        .map(|&word| if word == "app-1" { "nobody" } else { word })
        .collect();
    assert_eq!(bulkhead(&unknown).code, 64);
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
    assert!(checked > 0, "no examples in {examples}");
}

#[test]
fn what_is_observed_shows_in_the_staged_verdict() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/observe");
    let inventory = format!("{example}/inventory.yaml");
    let eval = [
        "policy",
        "eval",
        "--inventory",
        &inventory,
        "--policies",
        example,
    ];
    let query = [
        "--src",
        "web-1",
        "--dst",
        "app-1",
        "--protocol",
        "tcp",
        "--port",
        "9100",
    ];
    let done = bulkhead(&[&eval[..], &query[..], &["-o", "json"]].concat());
    assert_eq!(done.code, 1, "{done:?}");
    let ingress = &done.json()[0]["ingress"];
    assert_eq!(
        (&ingress["verdict"], &ingress["staged"]["verdict"]),
        (&json!("deny"), &json!("allow"))
    );
    let table = bulkhead(&[&eval[..], &query[..]].concat());
    assert!(
        table.stdout.contains("allow by app-metrics/ingress[0]"),
        "{table:?}"
    );
}
