//! Input that is too much is refused by name, quickly.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;

use bulkhead_policy::{
    Problems, SourceFile, TooLarge, check_fit, classify,
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
        problems.0[0].message.contains("16777216 is the most"),
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
