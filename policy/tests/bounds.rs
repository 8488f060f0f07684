//! Input that is too much is refused by name, quickly.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use bulkhead_policy::{
    Inventory, Problems, SourceFile, TooLarge, check_fit, classify,
    host_policy::{HostPolicy, Malformed, Origin, PeerMatch, Rule, SubnetMatch},
    limits,
    parse::{MAX_FILE_BYTES, parse},
    words::{Action, Direction, Identity, Mode, Revision, Tier},
    {PortSpan, ProtocolSlot},
};

fn problems(content: &str) -> Problems {
    let file = SourceFile {
        path: "big.yaml".to_owned(),
        content: content.to_owned(),
    };
    parse(&[file]).unwrap_err()
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let problems = problems(&"#".repeat(MAX_FILE_BYTES + 1));
    assert_eq!(problems.0.len(), 1);
    assert!(
        problems.0[0].message.contains("more than 16777216 bytes"),
        "{problems}"
    );
}

#[test]
fn many_mistakes_are_counted_and_shown_in_part() {
    let problems = problems(&"---\nkind: Nothing\n".repeat(5_000));
    assert_eq!(problems.0.len(), 1_001);
    assert!(
        problems
            .0
            .last()
            .unwrap()
            .message
            .starts_with("and 9000 more mistakes"),
        "{problems}"
    );
}

#[test]
fn a_mistake_in_an_endless_line_shows_its_surroundings() {
    let mut line = "a: [".to_owned();
    for _ in 0..50_000 {
        line += "tcp/80, ";
    }
    let problems = problems(&format!("kind: Service\n{line} {{ b: \u{1b}[31m }}]\n"));
    assert!(
        problems
            .0
            .iter()
            .all(|problem| problem.source_line.chars().count() < 200)
    );
    assert!(!problems.to_string().contains('\u{1b}'));
}

#[test]
fn mistakes_in_several_files_are_sorted() {
    let file = |path: &str| SourceFile {
        path: path.to_owned(),
        content: "kind: 1\n---\n7".to_owned(),
    };
    let problems = parse(&[file("b.yaml"), file("a.yaml")]).unwrap_err().0;
    let places: Vec<_> = problems
        .iter()
        .map(|problem| (problem.file.as_str(), problem.line))
        .collect();
    let of = |file| [(file, 1), (file, 1), (file, 3)];
    assert_eq!(places, [of("a.yaml"), of("b.yaml")].concat());
}

/// Generous: a debug build on a busy machine is meant to pass, a quadratic parser to fail.
const PATIENCE: Duration = Duration::from_secs(60);

/// The problems of a file, found in bounded time.
fn soon(content: &str) -> Problems {
    let started = Instant::now();
    let problems = problems(content);
    let taken = started.elapsed();
    assert!(taken < PATIENCE, "took {taken:?}");
    assert!(problems.0.len() <= 1_001, "{} problems", problems.0.len());
    problems
}

#[test]
fn fifty_megabytes_are_refused_at_once() {
    let document = "---\napiVersion: bulkhead/v1\nkind: Segment\nname: a\nmatch: { a: b }\n";
    let problems = soon(&document.repeat((50 << 20) / document.len() + 1));
    assert_eq!(problems.0.len(), 1, "{problems}");
    assert!(problems.0[0].message.ends_with("more than 16777216 bytes"));
    let inventory = SourceFile {
        path: "hosts.yaml".to_owned(),
        content: "- a\n".repeat(50 << 18),
    };
    assert_eq!(Inventory::parse(&inventory).unwrap_err().0.len(), 1);
}

#[test]
fn depth_is_bounded_however_it_is_written() {
    let deep = 100_000;
    for content in [
        "[".repeat(deep),
        format!("{}{}", "[".repeat(deep), "]".repeat(deep)),
        "{ a: ".repeat(deep),
        "- ".repeat(deep),
        "? ".repeat(deep),
        (0..2_000)
            .map(|n| format!("{}a:\n", " ".repeat(n)))
            .collect(),
    ] {
        let problems = soon(&content);
        assert!(!problems.0.is_empty());
        let head: String = content.chars().take(20).collect();
        let text = problems.to_string();
        assert!(text.contains("nested more than 32 deep"), "{head}: {text}");
    }
}

#[test]
fn aliases_neither_multiply_nor_go_in_circles() {
    let mut doubling = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..30 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        writeln!(doubling, "a{n}: &a{n} [{aliases}]").unwrap();
    }
    let problems = soon(&doubling);
    assert!(
        problems.to_string().contains("aliases that multiply"),
        "{problems}"
    );
    // To itself, and to each other.
    for content in ["a: &a [*a]\n", "&a { b: *a }\n", "a: &a [*b]\nb: &b [*a]\n"] {
        let problems = soon(content);
        assert_eq!(problems.0.len(), 1, "{content}: {problems}");
    }
}

#[test]
fn ten_thousand_mistakes_of_each_kind_take_no_time() {
    let segments: String = (0..2_000)
        .map(|n| {
            format!(
                "---\napiVersion: bulkhead/v1\nkind: Segment\nname: segment-{n}\nmatch: {{ a: b{n} }}\n"
            )
        })
        .collect();
    // Each is close to every name that there is.
    let unknown: Vec<String> = (0..10_000).map(|n| format!("segmnet-{n}")).collect();
    let policy = format!(
        "---\napiVersion: bulkhead/v1\nkind: Policy\nname: p\nappliesTo: [{}]\negress: []\n",
        unknown.join(", ")
    );
    let problems = soon(&(segments + &policy));
    assert!(problems.to_string().contains("and 9000 more mistakes"));

    let guardrail = "---\napiVersion: bulkhead/v1\nkind: Guardrail\n";
    let tied: String = (0..10_001)
        .map(|n| format!("{guardrail}name: g{n}\npriority: 1\nappliesTo: a\ningress: []\n"))
        .collect();
    let a = "---\napiVersion: bulkhead/v1\nkind: Segment\nname: a\nmatch: { a: b }\n";
    assert_eq!(soon(&(a.to_owned() + &tied)).0.len(), 1_001);
    // All in one line.
    let ports = vec!["tcp/0"; 10_000].join(", ");
    let service = format!("apiVersion: bulkhead/v1\nkind: Service\nname: s\nports: [{ports}]\n");
    assert_eq!(soon(&service).0.len(), 1_001);
    assert_eq!(soon(&"a: {\n---\n".repeat(10_000)).0.len(), 1_001);
}

#[test]
fn no_set_stands_for_more_than_memory_holds() {
    let head = "---\napiVersion: bulkhead/v1\n";
    // A service of 30,000 ports that do not touch, named 100,000 times.
    let ports: Vec<String> = (1..=30_000).map(|n| format!("tcp/{}", 2 * n)).collect();
    let service = format!(
        "{head}kind: Service\nname: s\nports: [{}]\n",
        ports.join(", ")
    );
    let segment =
        |name: &str| format!("{head}kind: Segment\nname: {name}\nmatch: {{ a: {name} }}\n");
    let policy = format!(
        "{head}kind: Policy\nname: p\nappliesTo: a\ningress:\n{}",
        "- allow: [s]\n".repeat(100_000)
    );
    let problems = soon(&(segment("a") + &service + &policy));
    assert_eq!(problems.0.len(), 1, "{problems}");
    assert!(
        problems.0[0]
            .message
            .contains("more than 4000000 ports and peers")
    );

    let names: Vec<String> = (0..3_000).map(|n| format!("n{n}")).collect();
    let segments: String = names.iter().map(|name| segment(name)).collect();
    let isolation = format!(
        "{head}kind: Isolation\nname: i\npriority: 1\nsegments: [{}]\n",
        names.join(", ")
    );
    let problems = soon(&(segments + &isolation));
    assert_eq!(problems.0.len(), 1, "{problems}");
    assert!(
        problems.0[0]
            .message
            .contains("more than 4000000 ports and peers")
    );
}

#[test]
fn what_a_wrong_word_was_meant_to_be_is_not_sought_for_ever() {
    let allowed: Vec<String> = (0..50_000).map(|n| format!("value-number-{n}")).collect();
    let schema = format!(
        "---\napiVersion: bulkhead/v1\nkind: LabelSchema\nname: l\nkeys: {{ a: [{}] }}\n",
        allowed.join(", ")
    );
    let wrong: Vec<String> = (0..2_000).map(|n| format!("valeu-number-{n}x")).collect();
    let segment = format!(
        "---\napiVersion: bulkhead/v1\nkind: Segment\nname: s\nmatch: {{ a: [{}] }}\n",
        wrong.join(", ")
    );
    let problems = soon(&(schema + &segment));
    let help = problems.0[0].help.as_deref().unwrap();
    assert!(help.starts_with("did you mean"), "{help}");
}

#[test]
fn services_are_not_made_of_services() {
    let service = |name: &str, port: &str| {
        format!("---\napiVersion: bulkhead/v1\nkind: Service\nname: {name}\nports: [{port}]\n")
    };
    for content in [
        service("a", "a"),
        service("a", "b") + &service("b", "tcp/80"),
    ] {
        let problems = soon(&content);
        assert_eq!(problems.0.len(), 1, "{problems}");
        let help = problems.0[0].help.as_deref().unwrap();
        assert!(help.ends_with("a Service names no other"), "{help}");
    }
    assert_eq!(soon(&(service("a", "b") + &service("b", "a"))).0.len(), 2);
}

fn rule(direction: Direction, peers: PeerMatch, ports: Vec<PortSpan>) -> Rule {
    Rule {
        direction,
        tier: Tier::Default,
        action: Action::Allow,
        expires: None,
        mode: Mode::Enforce,
        peers,
        ports,
        log: false,
        origin: Origin::unwritten("test").into(),
    }
}

fn policy(mut rules: Vec<Rule>) -> HostPolicy {
    for direction in Direction::ALL {
        rules.push(rule(direction, PeerMatch::Any, Vec::new()));
    }
    HostPolicy {
        revision: Revision(1),
        identity: Identity::FIRST,
        rules,
        addresses: Default::default(),
    }
}

fn subnet(text: &str) -> PeerMatch {
    let subnets = vec![SubnetMatch::from(text.parse::<ipnet::IpNet>().unwrap())];
    PeerMatch::Of {
        identities: Vec::new(),
        subnets,
    }
}

fn tcp(port: u16) -> Vec<PortSpan> {
    vec![PortSpan {
        slot: ProtocolSlot::Tcp,
        first: port,
        last: port,
    }]
}

#[test]
fn too_many_rules_are_named() {
    let policy = policy(vec![
        rule(Direction::Ingress, PeerMatch::Any, tcp(1));
        limits::MAX_RULES
    ]);
    let (needed, limit) = (limits::MAX_RULES + 2, limits::MAX_RULES);
    let found = check_fit(&policy);
    assert!(
        matches!(found, Err(TooLarge { what: "rules", needed: n, limit: l, .. }) if (n, l) == (needed, limit)),
        "{found:?}"
    );
}

#[test]
fn too_many_cells_are_named() {
    let rules = (0..1_100u16).map(|n| {
        let peers = subnet(&format!("10.{}.{}.0/24", n / 256, n % 256));
        rule(Direction::Ingress, peers, tcp(n + 1))
    });
    let error = check_fit(&policy(rules.collect())).unwrap_err();
    assert_eq!(
        (error.what, error.limit),
        ("matrix cells", limits::MAX_CELLS)
    );
    assert!(error.needed > limits::MAX_CELLS);
    let text = error.to_string();
    assert_eq!(
        text,
        format!("matrix cells: {} needed, 1048576 is the most", error.needed)
    );
}

#[test]
fn what_fits_leaves_room_for_the_rules_that_each_host_adds() {
    // Rule n: subnet n may open port n; columns beside those are the other keys and egress.
    let square = |side: u16| {
        let rules = (0..side).map(|n| {
            let peers = subnet(&format!("10.{}.{}.0/24", n / 256, n % 256));
            rule(Direction::Ingress, peers, tcp(n + 1))
        });
        policy(rules.collect())
    };
    let size = check_fit(&square(600)).unwrap();
    assert_eq!((size.peer_classes, size.port_classes), (601, 602));

    // Its 716 x 717 cells could become 1496 x 733.
    let large = square(715);
    let classes = classify(&large).unwrap();
    assert!(classes.matrix.len() < limits::MAX_CELLS / limits::HOST_CELLS_FACTOR);
    let error = check_fit(&large).unwrap_err();
    assert_eq!(
        error.to_string(),
        "matrix cells with each host's own rules: 1096568 needed, 1048576 is the most"
    );
}

#[test]
fn too_many_peers_are_named() {
    let subnets: Vec<SubnetMatch> = (0..=limits::MAX_PEERS as u32)
        .map(|n| {
            let net = ipnet::Ipv4Net::new(n.into(), 32).unwrap();
            ipnet::IpNet::from(net).into()
        })
        .collect();
    let peers = PeerMatch::Of {
        identities: Vec::new(),
        subnets,
    };
    let error = check_fit(&policy(vec![rule(Direction::Egress, peers, tcp(1))])).unwrap_err();
    assert_eq!((error.what, error.needed), ("peers", limits::MAX_PEERS + 1));
}

#[test]
fn peers_that_no_rule_tells_apart_share_a_class() {
    let mut text = String::new();
    let rules = (0..500u16).map(|n| {
        text.clear();
        write!(text, "10.{}.{}.0/24", n / 256, n % 256).unwrap();
        rule(Direction::Ingress, subnet(&text), tcp(80))
    });
    // Each has a rule of its own, but then one before it that decides for all.
    let first = rule(Direction::Ingress, PeerMatch::Any, tcp(80));
    let policy = policy(std::iter::once(first).chain(rules).collect());
    let size = check_fit(&policy).unwrap();
    assert_eq!(
        (size.peers, size.peer_classes, size.port_classes),
        (500, 1, 3)
    );
}

#[test]
fn a_policy_that_leaves_flows_undecided_is_malformed() {
    let whole = policy(vec![rule(
        Direction::Ingress,
        subnet("10.0.0.0/8"),
        tcp(80),
    )]);
    assert_eq!(whole.check(), Ok(()));
    let mut open = whole.clone();
    open.rules.pop();
    assert_eq!(open.check(), Err(Malformed::Open(Direction::Egress)));
    let undecided = classify(&open).unwrap().decide(
        Direction::Egress,
        "10.0.0.1".parse().unwrap(),
        bulkhead_policy::PortKey {
            slot: ProtocolSlot::Tcp,
            key: 80,
        },
    );
    assert_eq!(undecided.enforced, bulkhead_policy::RuleId::NONE);
    let mut reversed = whole.clone();
    reversed.rules[0].ports[0].first = 81;
    assert_eq!(reversed.check(), Err(Malformed::Ports(0)));
    let mut unsorted = whole;
    let ids = vec![Identity(300), Identity(299)];
    unsorted.rules[0].peers = PeerMatch::Of {
        identities: ids,
        subnets: Vec::new(),
    };
    assert_eq!(unsorted.check(), Err(Malformed::Unsorted(0)));
}
