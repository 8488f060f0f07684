//! What people read, as files: the report of each kind of mistake, and a compiled policy.
//!
//! With `BLESS=1` in the environment the files are written instead of compared: read the diff.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bulkhead_policy::{
    Action, HostPolicy, IdentityTable, Inventory, Mode, Origin, PeerMatch, PolicySet, Population,
    PortSpan, ProtocolSlot, Revision, SourceFile, Timestamp, compile, parse, reach,
    set::{Exception, NamedPort, OrderedPolicy, OrderedRule, Peer, Peers, Ports, SegmentId},
};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(path: &Path) -> SourceFile {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    SourceFile {
        path: name,
        content: fs::read_to_string(path).unwrap(),
    }
}

fn compare(path: &Path, found: &str) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, found).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        found,
        expected,
        "{} differs; BLESS=1 writes it anew",
        path.display()
    );
}

#[test]
fn every_mistake_shows_its_place_and_what_to_do() {
    let mut inputs: Vec<PathBuf> = fs::read_dir(folder("tests/problems"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    assert!(inputs.len() >= 15, "the mistakes are missing");
    for path in inputs {
        let file = read(&path);
        let problems = if file.path.starts_with("inventory") {
            Inventory::parse(&file).map(drop).unwrap_err()
        } else {
            parse(&[file]).map(drop).unwrap_err()
        };
        assert!(problems.0.is_sorted());
        compare(&path.with_extension("txt"), &format!("{problems}\n"));
    }
}

/// All files of an example; its inventory is passed over as policy.
fn example(name: &str) -> (PolicySet, Inventory) {
    let folder = folder("../examples").join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let files: Vec<SourceFile> = paths.iter().map(|path| read(path)).collect();
    let inventory = read(&folder.join("inventory.yaml"));
    (
        parse(&files).unwrap(),
        Inventory::parse(&inventory).unwrap(),
    )
}

fn compile_for(set: &PolicySet, inventory: &Inventory, host: &str) -> HostPolicy {
    let mut identities = IdentityTable::default();
    let population = Population::new(set, inventory, &mut identities);
    let subject = set.subject(inventory.host(host).unwrap(), &mut identities);
    compile(set, Revision(1), &population, &subject)
}

/// One rule a line.
fn readable(policy: &HostPolicy) -> String {
    let mut text = format!(
        "revision {}, identity {}\n",
        policy.revision, policy.identity
    );
    for (index, rule) in policy.rules.iter().enumerate() {
        let peers = match &rule.peers {
            PeerMatch::Any => "any".to_owned(),
            PeerMatch::Of {
                identities,
                subnets,
            } => {
                let identities = identities.iter().map(ToString::to_string);
                let subnets = subnets.iter().map(|subnet| {
                    let holes: Vec<_> = subnet.except.iter().map(|net| format!("-{net}")).collect();
                    format!("{}{}", subnet.subnet, holes.concat())
                });
                identities.chain(subnets).collect::<Vec<_>>().join(" ")
            }
        };
        let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
        let ports = if ports.is_empty() {
            "any".to_owned()
        } else {
            ports.join(" ")
        };
        let origin = &rule.origin;
        write!(
            text,
            "{index:>2} {} {} {} {:?} peers [{peers}] ports [{ports}]",
            rule.direction, rule.tier, rule.action, rule.mode
        )
        .unwrap();
        if let Some(Timestamp(expires)) = rule.expires {
            write!(text, " until {expires}").unwrap();
        }
        let log = if rule.log { " log" } else { "" };
        writeln!(
            text,
            "{log} ({} {}:{})",
            origin.rule, origin.file, origin.line
        )
        .unwrap();
    }
    for (address, identity) in &policy.addresses {
        writeln!(text, "{address} = {identity}").unwrap();
    }
    text
}

#[test]
fn a_compiled_policy_is_flat_and_in_order() {
    let (set, inventory) = example("three-tier");
    compare(
        &folder("tests/compiled/three-tier-db-1.txt"),
        &readable(&compile_for(&set, &inventory, "db-1")),
    );
    let (set, mut inventory) = example("observe");
    compare(
        &folder("tests/compiled/observe-app-1.txt"),
        &readable(&compile_for(&set, &inventory, "app-1")),
    );
    inventory.hosts[0].quarantined = true;
    let quarantined = inventory.hosts[0].name.0.clone();
    let mut both = readable(&compile_for(&set, &inventory, "app-1"));
    both += &readable(&compile_for(&set, &inventory, &quarantined));
    compare(&folder("tests/compiled/observe-quarantined.txt"), &both);
}

fn place(rule: &str, line: u32) -> Arc<Origin> {
    Arc::new(Origin {
        rule: rule.to_owned(),
        file: "tiers.yaml".to_owned(),
        line,
    })
}

fn ordered(
    name: &str,
    applies_to: SegmentId,
    rules: &[(Action, SegmentId, Ports)],
) -> OrderedPolicy {
    let rule =
        |(place_of, (action, from, ports)): (u32, &(Action, SegmentId, Ports))| OrderedRule {
            action: *action,
            peers: Peers::Of(vec![Peer::Segment(*from)]),
            ports: ports.clone(),
            log: false,
            origin: place(&format!("{name}/ingress[{place_of}]"), 100 + place_of),
        };
    OrderedPolicy {
        name: name.to_owned(),
        priority: 10,
        applies_to: vec![applies_to],
        ingress: (0..).zip(rules).map(rule).collect(),
        egress: Vec::new(),
        mode: Mode::Enforce,
    }
}

#[test]
fn every_tier_stands_in_its_place() {
    let tcp = |port| {
        Ports::spans(vec![PortSpan {
            slot: ProtocolSlot::Tcp,
            first: port,
            last: port,
        }])
    };
    let http = Ports::Of {
        spans: Vec::new(),
        named: vec![NamedPort {
            slot: ProtocolSlot::Tcp,
            name: "http".to_owned(),
        }],
    };
    let text = "\
apiVersion: bulkhead/v1
kind: Segment
name: app
match: { tier: app }
---
apiVersion: bulkhead/v1
kind: Segment
name: db
match: { tier: db }
---
apiVersion: bulkhead/v1
kind: Segment
name: vendor
subnets: [198.51.100.0/24]
---
apiVersion: bulkhead/v1
kind: Policy
name: app
appliesTo: [app]
ingress:
  - from: [app]
    allow: [tcp/8080]
egress:
  - to: [app, vendor]
    allow: [tcp/443]
";
    let mut set = parse(&[SourceFile {
        path: "tiers.yaml".to_owned(),
        content: text.to_owned(),
    }])
    .unwrap();
    let [app, db, vendor] = [0, 1, 2].map(SegmentId);
    // Named ports: on each peer its own numbers.
    let side = set.policies[0].egress.as_mut().unwrap();
    side.rules[0].ports = http.clone();
    set.guardrails.push(ordered(
        "frame",
        app,
        &[
            (Action::Pass, db, tcp(9100)),
            (Action::Deny, db, Ports::Any),
        ],
    ));
    set.exceptions.push(Exception {
        name: "vendor-debug".to_owned(),
        owner: "jane@example.com".to_owned(),
        reason: "CHG-1234".to_owned(),
        expires: Timestamp(1_796_083_200),
        from: vec![vendor],
        to: vec![app],
        ports: tcp(22),
        origin: place("vendor-debug", 50),
    });
    let baseline = ordered("floor", app, &[(Action::Deny, vendor, http)]);
    set.baselines.push(baseline);

    let inventory = SourceFile {
        path: "inventory.yaml".to_owned(),
        content: "\
hosts:
  - { name: app-1, addresses: [10.0.0.1], labels: { tier: app } }
  - { name: app-2, addresses: [10.0.0.2], labels: { tier: app, zone: b } }
  - { name: vendor-1, addresses: [198.51.100.7], labels: { owner: vendor } }
  - { name: db-1, addresses: [10.0.1.1], labels: { tier: db } }
"
        .to_owned(),
    };
    let mut inventory = Inventory::parse(&inventory).unwrap();
    for (host, numbers) in [(0, "8080"), (1, "8081,8082"), (2, "8080")] {
        let labels = &mut inventory.hosts[host].labels;
        labels.insert("port:tcp/http".to_owned(), numbers.to_owned());
    }
    compare(
        &folder("tests/compiled/every-tier-app-1.txt"),
        &readable(&compile_for(&set, &inventory, "app-1")),
    );
}

#[test]
fn the_three_tiers_reach_only_the_next() {
    let (set, inventory) = example("three-tier");
    let mut text = String::new();
    for reach in reach(&set, &inventory).unwrap() {
        let (source, destination) = reach.addresses[0];
        let (src, dst) = (&reach.src, &reach.dst);
        writeln!(
            text,
            "{src} {source} -> {dst} {destination}: {}",
            reach.summary()
        )
        .unwrap();
    }
    compare(&folder("tests/compiled/three-tier-reach.txt"), &text);
}
