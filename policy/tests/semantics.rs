//! What policies mean, by example: parsed, compiled, classified and evaluated.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_policy::{
    Action, Direction, Effect, Identity, IdentityTable, Inventory, Mode, PolicySet, Population,
    Revision, SourceFile, Subject, compile,
    evaluate::query::{Answer, Query, QueryError, answer},
    parse, reach,
    set::Ports,
};

fn file(content: &str) -> SourceFile {
    SourceFile {
        path: "test.yaml".to_owned(),
        content: content.to_owned(),
    }
}

const SEGMENTS: &str = "
apiVersion: bulkhead/v1
kind: Segment
name: web
match: { tier: web }
---
apiVersion: bulkhead/v1
kind: Segment
name: db
match: { tier: db }
---
apiVersion: bulkhead/v1
kind: Segment
name: lab
subnets: [10.5.0.0/16]
---
";

const HOSTS: &str = "
hosts:
  - { name: web-1, addresses: [10.0.0.1, 'fd00::1'], labels: { tier: web } }
  - { name: db-1, addresses: [10.0.0.2, 'fd00::2'], labels: { tier: db } }
  - { name: lab-1, addresses: [10.5.0.1], labels: { tier: web } }
  - { name: v6-only, addresses: ['fd00::9'] }
  - { name: nowhere }
";

fn set(policies: &str) -> PolicySet {
    parse(&[file(&format!("{SEGMENTS}{policies}"))]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn hosts() -> Inventory {
    Inventory::parse(&file(HOSTS)).unwrap()
}

fn ask(set: &PolicySet, src: &str, dst: &str, protocol: &str, port: Option<u16>) -> Answer {
    try_ask(set, src, dst, protocol, port).unwrap()
}

fn try_ask(
    set: &PolicySet,
    src: &str,
    dst: &str,
    protocol: &str,
    port: Option<u16>,
) -> Result<Answer, QueryError> {
    let (src, dst, protocol) = (src.to_owned(), dst.to_owned(), protocol.to_owned());
    answer(
        set,
        &hosts(),
        &Query {
            src,
            dst,
            protocol,
            port,
        },
    )
}

fn tcp(set: &PolicySet, src: &str, dst: &str, port: u16) -> Effect {
    ask(set, src, dst, "tcp", Some(port)).verdict
}

const DB: &str = "
apiVersion: bulkhead/v1
kind: Policy
name: db-ingress
appliesTo: db
ingress:
  - from: [web]
    allow: [tcp/5432, tcp/8000-8010]
  - from: [{ subnet: 10.9.0.0/24, except: [10.9.0.7/32] }]
    allow: [tcp/22]
";

#[test]
fn selected_means_denied_unless_allowed() {
    let set = set(DB);
    assert_eq!(tcp(&set, "web-1", "db-1", 5432), Effect::Allow);
    assert_eq!(tcp(&set, "web-1", "db-1", 5433), Effect::Deny);
    assert_eq!(tcp(&set, "web-1", "db-1", 8010), Effect::Allow);
    assert_eq!(tcp(&set, "v6-only", "db-1", 5432), Effect::Deny);
    assert_eq!(tcp(&set, "10.9.0.1", "db-1", 22), Effect::Allow);
    assert_eq!(tcp(&set, "10.9.0.7", "db-1", 22), Effect::Deny);
    // Nothing selects db in egress, and nothing selects web at all.
    assert_eq!(tcp(&set, "db-1", "web-1", 1), Effect::Allow);
}

#[test]
fn a_verdict_names_its_rule_and_line() {
    let set = set(DB);
    let allowed = ask(&set, "web-1", "db-1", "tcp", Some(5432));
    assert_eq!(
        serde_json::to_string(&allowed).unwrap(),
        concat!(
            r#"{"src":"web-1","dst":"db-1","protocol":"tcp","port":5432,"verdict":"allow","#,
            r#""egress":{"verdict":"allow","tier":"default","rule":"default","file":"","line":0},"#,
            r#""ingress":{"verdict":"allow","tier":"policy","rule":"db-ingress/ingress[0]","#,
            r#""file":"test.yaml","line":23}}"#,
        )
    );
    let denied = ask(&set, "8.8.8.8", "db-1", "udp", Some(53));
    assert_eq!(denied.egress.enforced.origin.rule, "unmanaged");
    assert_eq!(denied.ingress.enforced.origin.rule, "db-ingress/ingress");
    assert_eq!(denied.ingress.enforced.origin.line, 22);
}

#[test]
fn rules_keep_their_index_and_line_in_any_style() {
    let styles = "apiVersion: bulkhead/v1
kind: Policy
name: styles
appliesTo: [db]
egress: [{ to: [web] }, { to: [web],
  allow: [udp] }]
ingress:
- {}
-
  log: true
  allow: [any]
";
    let content = format!("{SEGMENTS}{styles}").replace('\n', "\r\n");
    let set = parse(&[file(&format!("\u{feff}{content}"))]).unwrap();
    let policy = &set.policies[0];
    let lines = |direction| {
        let side = policy.side(direction).unwrap();
        let rules = side
            .rules
            .iter()
            .map(|rule| (rule.origin.rule.clone(), rule.origin.line));
        (side.origin.line, rules.collect::<Vec<_>>())
    };
    let first = 1 + SEGMENTS.lines().count() as u32;
    let rule = |direction, index| format!("styles/{direction}[{index}]");
    assert_eq!(
        lines(Direction::Egress),
        (
            first + 4,
            vec![
                (rule("egress", 0), first + 4),
                (rule("egress", 1), first + 4)
            ]
        )
    );
    assert_eq!(
        lines(Direction::Ingress),
        (
            first + 6,
            vec![
                (rule("ingress", 0), first + 7),
                (rule("ingress", 1), first + 9)
            ]
        )
    );
    assert!(
        policy
            .ingress
            .as_ref()
            .unwrap()
            .rules
            .iter()
            .all(|rule| rule.ports == Ports::Any)
    );
}

#[test]
fn an_empty_list_selects_and_allows_nothing() {
    let set = set("{apiVersion: bulkhead/v1, kind: Policy, name: p, appliesTo: db, egress: []}");
    assert_eq!(tcp(&set, "db-1", "web-1", 80), Effect::Deny);
    assert_eq!(tcp(&set, "web-1", "db-1", 80), Effect::Allow);
}

#[test]
fn subnets_select_hosts_and_match_managed_peers_by_address() {
    let set = set("
apiVersion: bulkhead/v1
kind: Policy
name: p
appliesTo: lab
ingress:
  - from: [{ subnet: 10.0.0.0/24 }]
    allow: [tcp/80]
---
apiVersion: bulkhead/v1
kind: Policy
name: q
appliesTo: db
ingress:
  - from: [lab]
");
    assert_eq!(tcp(&set, "web-1", "lab-1", 80), Effect::Allow);
    assert_eq!(tcp(&set, "web-1", "lab-1", 81), Effect::Deny);
    assert_eq!(tcp(&set, "10.5.9.9", "db-1", 1), Effect::Allow);
    assert_eq!(tcp(&set, "lab-1", "db-1", 1), Effect::Allow);
    assert_eq!(tcp(&set, "web-1", "db-1", 1), Effect::Deny);
}

#[test]
fn observing_never_weakens_or_hides_what_is_enforced() {
    let observed = DB.replace("name: db-ingress", "name: a-first\nmode: observe")
        + "---"
        + &DB.replace("5432", "5433");
    let set = set(&observed);
    let both = |port| {
        let side = ask(&set, "web-1", "db-1", "tcp", Some(port)).ingress;
        let staged = side
            .staged
            .map(|staged| (staged.verdict, staged.origin.rule.clone()));
        (
            side.enforced.verdict,
            side.enforced.origin.rule.clone(),
            staged,
        )
    };
    let deny = "db-ingress/ingress".to_owned();
    let staged = (Effect::Allow, "a-first/ingress[0]".to_owned());
    assert_eq!(both(5432), (Effect::Deny, deny.clone(), Some(staged)));
    assert_eq!(
        both(5433),
        (Effect::Allow, "db-ingress/ingress[0]".to_owned(), None)
    );
    assert_eq!(both(1), (Effect::Deny, deny, None));
}

#[test]
fn only_observed_means_denied_in_the_staged_verdict_alone() {
    let set = set(&DB.replace("appliesTo", "mode: observe\nappliesTo"));
    let answer = ask(&set, "web-1", "db-1", "tcp", Some(1));
    assert_eq!(answer.verdict, Effect::Allow);
    assert_eq!(answer.ingress.enforced.origin.rule, "default");
    let staged = answer.ingress.staged.unwrap();
    assert_eq!(
        (staged.verdict, staged.origin.rule.as_str()),
        (Effect::Deny, "db-ingress/ingress")
    );
}

#[test]
fn quarantine_outranks_everything_on_the_host_and_on_its_peers() {
    let set = set("{apiVersion: bulkhead/v1, kind: Policy, name: p, appliesTo: db, ingress: [{}]}");
    let mut inventory = hosts();
    inventory.hosts[0].quarantined = true;
    let mut identities = IdentityTable::default();
    let population = Population::new(&set, &inventory, &mut identities);
    let subjects: Vec<Subject> = inventory
        .hosts
        .iter()
        .map(|host| set.subject(host, &mut identities))
        .collect();
    assert_eq!(
        subjects[0],
        Subject {
            identity: Identity::QUARANTINED,
            segments: Vec::new()
        }
    );
    let web_1 = compile(&set, Revision(7), &population, &subjects[0]);
    let db_1 = compile(&set, Revision(7), &population, &subjects[1]);
    for policy in [&web_1, &db_1] {
        for direction in Direction::ALL {
            let first = policy
                .rules
                .iter()
                .find(|rule| rule.direction == direction)
                .unwrap();
            assert_eq!((first.action, first.mode), (Action::Deny, Mode::Enforce));
            assert_eq!(first.origin.rule, "quarantine");
        }
    }
    // Its labels stand for it nowhere any more: its book entries say quarantined.
    let quarantined: Vec<_> = db_1
        .addresses
        .iter()
        .filter(|(_, id)| **id == Identity::QUARANTINED)
        .collect();
    assert_eq!(quarantined.len(), inventory.hosts[0].addresses.len());
    for (src, dst) in [("web-1", "db-1"), ("db-1", "web-1"), ("8.8.8.8", "web-1")] {
        let query = Query {
            src: src.to_owned(),
            dst: dst.to_owned(),
            protocol: "tcp".to_owned(),
            port: Some(1),
        };
        assert_eq!(
            answer(&set, &inventory, &query).unwrap().verdict,
            Effect::Deny,
            "{src} {dst}"
        );
    }
}

#[test]
fn a_rule_for_a_segment_without_workloads_is_kept() {
    let set = set(
        "{apiVersion: bulkhead/v1, kind: Policy, name: p, appliesTo: web, \
                   ingress: [{ from: [db] }]}",
    );
    let inventory = Inventory::parse(&file("hosts: [{ name: a, labels: { tier: web } }]")).unwrap();
    let mut identities = IdentityTable::default();
    let population = Population::new(&set, &inventory, &mut identities);
    let subject = set.subject(&inventory.hosts[0], &mut identities);
    let policy = compile(&set, Revision(1), &population, &subject);
    assert_eq!(policy.rules[0].origin.rule, "p/ingress[0]");
    assert!(policy.addresses.is_empty());
}

#[test]
fn an_identity_once_given_stays() {
    let mut identities = IdentityTable::default();
    let inventory = hosts();
    let population = Population::new(&PolicySet::default(), &inventory, &mut identities);
    assert_eq!(population.labels.len(), 3);
    let mut restored: IdentityTable = identities
        .iter()
        .map(|(identity, labels)| (identity, labels.clone()))
        .collect();
    assert_eq!(restored, identities);
    let before = restored.assign(&inventory.hosts[1].labels);
    let new = restored.assign(&[("tier".to_owned(), "new".to_owned())].into());
    assert_eq!(before, identities.assign(&inventory.hosts[1].labels));
    assert!(identities.iter().all(|(identity, _)| identity < new));
}

#[test]
fn names_stand_for_addresses_of_a_common_family() {
    let set = set(
        "{apiVersion: bulkhead/v1, kind: Policy, name: p, appliesTo: web, \
                   ingress: [{ allow: [icmp/8/0] }, { from: [{ subnet: 'fd00::9/128' }] }]}",
    );
    assert_eq!(
        ask(&set, "db-1", "web-1", "icmp", None).verdict,
        Effect::Allow
    );
    assert_eq!(
        ask(&set, "db-1", "web-1", "icmp/8", Some(0)).verdict,
        Effect::Allow
    );
    assert_eq!(
        ask(&set, "db-1", "web-1", "icmp/3/1", None).verdict,
        Effect::Deny
    );
    assert_eq!(
        ask(&set, "db-1", "web-1", "icmpv6", None).verdict,
        Effect::Deny
    );
    assert_eq!(
        ask(&set, "v6-only", "web-1", "protocol/47", None).verdict,
        Effect::Allow
    );
    assert_eq!(
        ask(&set, "web-1", "fd00::1", "tcp", Some(9))
            .egress
            .enforced
            .origin
            .rule,
        "loopback"
    );
    let message = |src, dst, protocol, port| {
        try_ask(&set, src, dst, protocol, port)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message("lab-1", "v6-only", "tcp", Some(1)),
        "`lab-1` and `v6-only` have no addresses of one family that tcp runs over"
    );
    assert!(message("lab-1", "web-1", "icmpv6", None).contains("no addresses of one family"));
    // A question is about one flow.
    for range in [
        "icmp/3-4",
        "protocol/40-50",
        "protocol/0-255",
        "tcp/1-65535",
    ] {
        assert!(message("db-1", "web-1", range, Some(1)).contains("is not a protocol"));
        assert!(message("db-1", "web-1", range, None).contains("is not a protocol"));
    }
    assert!(message("nowhere", "web-1", "tcp", Some(1)).contains("no addresses of one family"));
    assert!(message("nobody", "web-1", "tcp", Some(1)).contains("`nobody` is neither"));
    assert!(message("web-1", "db-1", "tcp", None).contains("needs a `port`"));
    assert!(message("web-1", "db-1", "icmp", Some(80)).contains("has no ports"));
    assert!(message("web-1", "db-1", "tcp/80", Some(80)).contains("not a protocol"));
    assert!(message("web-1", "db-1", "any", Some(80)).contains("not a protocol"));
}

#[test]
fn reach_shows_what_passes_both_sides() {
    let set = set(DB);
    let found = reach(&set, &hosts()).unwrap();
    let of = |src: &str, dst: &str| {
        let pair = found
            .iter()
            .filter(|reach| reach.src.0 == src && reach.dst.0 == dst);
        pair.map(|reach| (reach.addresses.len(), reach.summary()))
            .collect::<Vec<_>>()
    };
    let ports = "tcp/5432, tcp/8000-8010".to_owned();
    assert_eq!(of("web-1", "db-1"), [(1, ports.clone()), (1, ports)]);
    assert_eq!(
        of("db-1", "web-1"),
        [(1, "any".to_owned()), (1, "any".to_owned())]
    );
    assert_eq!(of("v6-only", "db-1"), [(1, "nothing".to_owned())]);
    assert_eq!(of("lab-1", "v6-only"), [(0, "nothing".to_owned())]);
    let pair = found
        .iter()
        .find(|reach| reach.src.0 == "web-1" && reach.dst.0 == "db-1")
        .unwrap();
    assert_eq!(
        serde_json::to_string(&pair.allowed[0]).unwrap(),
        concat!(
            r#"{"ports":"tcp/5432","egress":{"rule":"default","file":"","line":0},"#,
            r#""ingress":{"rule":"db-ingress/ingress[0]","file":"test.yaml","line":23}}"#,
        )
    );
}
