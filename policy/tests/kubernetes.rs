//! Kubernetes manifests mean what a cluster makes of them.
//!
//! Each `kubernetes/NAME.yaml` stands beside `NAME.queries`: a line is `SRC DST PROTOCOL/PORT
//! VERDICT`, and then, if it matters, the rule that denies, or the two that allow, egress first. Every
//! line is asked of the reference, and of the compiled tables by way of `reach`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use bulkhead_policy::{
    Effect, Inventory, Parsed, PortKey, ProtocolSlot, SourceFile,
    evaluate::query::{Answer, Query, answer},
    import::kubernetes,
    inventory::Clash,
    parse, parse_mixed, reach, render,
};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kubernetes")
        .join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    paths.sort();
    paths
}

fn source(path: &Path) -> SourceFile {
    SourceFile {
        path: path.file_name().unwrap().to_string_lossy().into_owned(),
        content: fs::read_to_string(path).unwrap(),
    }
}

fn parsed(path: &str, content: &str) -> Parsed {
    let file = SourceFile {
        path: path.to_owned(),
        content: content.to_owned(),
    };
    parse_mixed(&[file]).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A line of a table of queries.
struct Line<'a> {
    query: Query,
    verdict: Effect,
    rules: Option<&'a str>,
}

fn line(text: &str) -> Line<'_> {
    let mut rest = text;
    let mut next = || {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after.trim_start();
        word.to_owned()
    };
    let (src, dst, service, verdict) = (next(), next(), next(), next());
    let (protocol, port) = match service.split_once('/') {
        Some((protocol, port)) => (protocol.to_owned(), Some(port.parse().unwrap())),
        None => (service, None),
    };
    let verdict = match verdict.as_str() {
        "allow" => Effect::Allow,
        "deny" => Effect::Deny,
        _ => panic!("no verdict: {text}"),
    };
    Line {
        query: Query {
            src,
            dst,
            protocol,
            port,
        },
        verdict,
        rules: (!rest.is_empty()).then_some(rest),
    }
}

/// The rules that decided: both that allow, or those that deny.
fn rules(answer: &Answer) -> String {
    let sides = [&answer.egress.enforced, &answer.ingress.enforced];
    let rules: Vec<&str> = sides
        .iter()
        .filter(|side| side.verdict == answer.verdict)
        .map(|side| side.origin.rule.as_str())
        .collect();
    rules.join(" | ")
}

/// What the compiled tables say, where both ends are workloads.
fn compiled(parsed: &Parsed, query: &Query) -> Option<Effect> {
    let slot = match query.protocol.as_str() {
        "tcp" => ProtocolSlot::Tcp,
        "udp" => ProtocolSlot::Udp,
        "sctp" => ProtocolSlot::Sctp,
        _ => return None,
    };
    let key = query.port?;
    let pairs = reach(&parsed.set, &parsed.inventory).unwrap();
    let pair = pairs
        .iter()
        .find(|pair| pair.src.0 == query.src && pair.dst.0 == query.dst)?;
    let passes = pair
        .allowed
        .iter()
        .any(|allowed| allowed.ports.contains(PortKey { slot, key }));
    Some(if passes { Effect::Allow } else { Effect::Deny })
}

#[test]
fn every_manifest_means_what_a_cluster_makes_of_it() {
    let inputs = files(&folder(""));
    assert!(inputs.len() >= 11, "the manifests are missing");
    for path in inputs {
        let file = source(&path);
        let parsed = parse_mixed(std::slice::from_ref(&file))
            .unwrap_or_else(|problems| panic!("{problems}"));
        let queries = fs::read_to_string(path.with_extension("queries")).unwrap();
        let mut asked = 0;
        for text in queries.lines() {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            asked += 1;
            let Line {
                query,
                verdict,
                rules: expected,
            } = line(text);
            let found = answer(&parsed.set, &parsed.inventory, &query)
                .unwrap_or_else(|error| panic!("{}: {text}: {error}", file.path));
            let decided = rules(&found);
            assert_eq!(found.verdict, verdict, "{}: {text}: {decided}", file.path);
            if let Some(expected) = expected {
                assert_eq!(decided, expected, "{}: {text}", file.path);
            }
            if let Some(compiled) = compiled(&parsed, &query) {
                assert_eq!(compiled, verdict, "{}: {text}, compiled", file.path);
            }
        }
        assert!(asked > 0, "{} has no queries", file.path);
    }
}

#[test]
fn what_is_imported_means_what_the_manifest_means() {
    let inputs = files(&folder(""));
    assert!(inputs.len() >= 11, "the manifests are missing");
    for path in inputs {
        let file = source(&path);
        let before = parse_mixed(std::slice::from_ref(&file)).unwrap();
        let set = kubernetes::import(&[file]).unwrap().set;
        let written = SourceFile {
            path: "imported.yaml".to_owned(),
            content: render::policies(&set),
        };
        let after = parse(&[written]).unwrap_or_else(|problems| panic!("{problems}"));
        // Of the workloads those that have addresses to ask for.
        let hosts = SourceFile {
            path: "inventory.yaml".to_owned(),
            content: render::inventory(&before.inventory),
        };
        let inventory = Inventory::parse(&hosts).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(inventory, before.inventory);
        let queries = fs::read_to_string(path.with_extension("queries")).unwrap();
        for text in queries.lines() {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let Line { query, verdict, .. } = line(text);
            let found = answer(&after, &inventory, &query).unwrap();
            assert_eq!(found.verdict, verdict, "{}: {text}", path.display());
        }
    }
}

#[test]
fn every_mistake_in_a_manifest_is_shown_at_once_with_its_place() {
    let inputs = files(&folder("problems"));
    assert!(inputs.len() >= 6, "the mistakes are missing");
    for path in inputs {
        let problems = parse_mixed(&[source(&path)]).map(drop).unwrap_err();
        assert!(problems.0.is_sorted());
        let (found, golden) = (format!("{problems}\n"), path.with_extension("txt"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(
            found,
            expected,
            "{} differs; BLESS=1 writes it anew",
            golden.display()
        );
    }
}

#[test]
fn the_order_of_the_files_changes_nothing() {
    let mut sources: Vec<SourceFile> = ["order.yaml", "workloads.yaml"]
        .iter()
        .map(|name| source(&folder(name)))
        .collect();
    let first = parse_mixed(&sources).unwrap();
    sources.reverse();
    assert_eq!(parse_mixed(&sources).unwrap(), first);
}

#[test]
fn equal_selectors_share_a_segment_that_is_named_for_them() {
    let parsed = parsed(
        "shared.yaml",
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: shop }
spec:
  podSelector: { matchLabels: { app: web } }
  ingress:
  - from:
    - podSelector: { matchExpressions: [{ key: app, operator: In, values: [web] }] }
    - podSelector: { matchLabels: { app: db }, matchExpressions: [{ key: old, operator: DoesNotExist }] }
    - namespaceSelector: { matchLabels: { team: a } }
    - namespaceSelector: {}
    - namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: shop } }
      podSelector: { matchLabels: { app: web } }
",
    );
    let names: Vec<&str> = parsed
        .set
        .segments
        .iter()
        .map(|segment| segment.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "(team: a)/*",
            "*/*",
            "shop/(app: db, old: { exists: false })",
            "shop/(app: web)"
        ]
    );
}

#[test]
fn workloads_have_the_labels_and_addresses_that_policy_sees() {
    let parsed = parse_mixed(&[source(&folder("workloads.yaml"))]).unwrap();
    let mut found = String::new();
    for host in &parsed.inventory.hosts {
        found.push_str(&format!("{} {:?}\n", host.name, host.addresses));
        for (key, value) in &host.labels {
            found.push_str(&format!("  {key}={value}\n"));
        }
    }
    let golden = folder("workloads.inventory");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&golden, &found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(&golden).unwrap_or_default());
}

#[test]
fn inventories_are_joined_unless_a_name_or_an_address_is_in_both() {
    let pods = parsed(
        "pods.yaml",
        "
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop }
status: { podIP: 10.0.0.1 }
",
    )
    .inventory;
    let hosts = |content: &str| {
        let file = SourceFile {
            path: "hosts.yaml".to_owned(),
            content: content.to_owned(),
        };
        Inventory::parse(&file).unwrap()
    };
    let both = pods
        .clone()
        .join(hosts("hosts: [{ name: db-1, addresses: [10.0.0.2] }]"))
        .unwrap();
    assert_eq!(both.hosts.len(), 2);
    let same_name = pods.clone().join(hosts("hosts: [{ name: shop/web }]"));
    assert!(matches!(same_name, Err(Clash::Name(_))));
    let same_address = pods.join(hosts("hosts: [{ name: db-1, addresses: [10.0.0.1] }]"));
    assert!(matches!(same_address, Err(Clash::Address(..))));
}
