//! Whether a flow passes, asked offline.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use serde_json::json;

use crate::run::{Done, Files, bulkhead, bulkhead_with_input, command, three_tiers};

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
fn queries_that_cannot_be_read_say_what_to_do() {
    let files = three_tiers();
    let directory = fs::File::open(files.root()).unwrap();
    let output = command(&borrowed(&eval(&files)))
        .stdin(directory)
        .output()
        .unwrap();
    let done = Done::from(output);
    assert_eq!(done.code, 64, "{done:?}");
    assert!(
        done.stderr
            .contains("reading queries from the standard input: it is a directory; name"),
        "{done:?}"
    );
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
    let error = |line: usize| lines[line]["error"].as_str().unwrap();
    assert!(
        error(1).starts_with("the query is not a JSON object; write {"),
        "{}",
        lines[1]
    );
    assert!(error(2).contains("`nobody`"), "{}", lines[2]);
    assert_eq!(error(3), "the query is not UTF-8 text");
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

#[test]
fn an_exception_that_has_expired_allows_nothing() {
    let files = Files::new(&[
        (
            "policy.yaml",
            "apiVersion: bulkhead/v1\nkind: Segment\nname: db\nmatch: { tier: db }\n---\n\
             apiVersion: bulkhead/v1\nkind: Policy\nname: closed\nappliesTo: db\ningress: []\n---\n\
             apiVersion: bulkhead/v1\nkind: Exception\nname: over\nowner: jane@example.com\n\
             reason: CHG-1\nexpires: 2026-01-01T00:00:00Z\nfrom: [db]\nto: [db]\nports: [tcp/22]\n",
        ),
        (
            "hosts.yaml",
            "hosts:\n- { name: a, addresses: [10.0.0.1], labels: { tier: db } }\n\
             - { name: b, addresses: [10.0.0.2], labels: { tier: db } }\n",
        ),
    ]);
    let (policy, hosts) = (files.name("policy.yaml"), files.name("hosts.yaml"));
    let arguments = [
        "policy",
        "eval",
        "--inventory",
        &hosts,
        "--policies",
        &policy,
    ];
    let query = br#"{"src": "a", "dst": "b", "protocol": "TCP", "port": 22}"#;
    let done = bulkhead_with_input(&arguments, query);
    assert_eq!(done.json()[0]["verdict"], "deny", "{done:?}");
    assert_eq!(done.json()[0]["ingress"]["rule"], "closed/ingress");
}
