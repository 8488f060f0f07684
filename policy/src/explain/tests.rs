#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::{
    PortKey, ProtocolSlot, SourceFile, evaluate,
    explain::service::{AskError, explain_service},
    parse::parse,
    set::{LabelSchema, OrderedPolicy, OrderedRule, Peers, Ports, SegmentId},
    testing::{Scenario, scenario},
};

const POLICIES: &str = "
{ apiVersion: bulkhead/v1, kind: Segment, name: app, match: { tier: app } }
---
{ apiVersion: bulkhead/v1, kind: Segment, name: db, match: { tier: db } }
---
{ apiVersion: bulkhead/v1, kind: Segment, name: lab, match: { tier: lab }, subnets: [10.5.0.0/16] }
---
{ apiVersion: bulkhead/v1, kind: Service, name: web, ports: [tcp/80-81, tcp/443] }
---
{ apiVersion: bulkhead/v1, kind: Service, name: ping, ports: [icmp/8, icmpv6/128] }
---
{ apiVersion: bulkhead/v1, kind: Service, name: wide, ports: [tcp/8000-8100] }
---
apiVersion: bulkhead/v1
kind: Policy
name: db
appliesTo: db
ingress:
  - { from: [app], allow: [tcp/5432] }
  - { from: [lab, { subnet: 10.9.0.0/24, except: [10.9.0.7/32] }], allow: [tcp/22, udp/53] }
---
apiVersion: bulkhead/v1
kind: Policy
name: later
appliesTo: db
mode: observe
ingress:
  - { from: [app], allow: [tcp/9000] }
";

const HOSTS: &str = "
hosts:
  - { name: app-1, addresses: [10.0.0.1], labels: { tier: app } }
  - { name: web-1, addresses: [10.0.0.3], labels: { tier: web, 'port:tcp/http': '8080,8081' } }
  - { name: db-1, addresses: [10.0.0.2], labels: { tier: db } }
  - { name: bad-1, addresses: [10.0.0.4], quarantined: true }
";

fn file(content: &str) -> SourceFile {
    SourceFile {
        path: "p.yaml".to_owned(),
        content: content.to_owned(),
    }
}

fn set() -> PolicySet {
    parse(&[file(POLICIES)]).unwrap_or_else(|problems| panic!("{problems}"))
}

/// `named` is not for the parser of inventories to write.
fn hosts() -> Inventory {
    let mut inventory =
        Inventory::parse(&file(&HOSTS.replace(", 'port:tcp/http': '8080,8081'", ""))).unwrap();
    let web = &mut inventory.hosts[1];
    web.labels
        .insert("port:tcp/http".to_owned(), "8080,8081".to_owned());
    inventory
}

fn ask(set: &PolicySet, src: &str, dst: &str, service: &str) -> Explanation {
    let mut all = explain_service(set, &hosts(), src, dst, service).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// What is said of each rule of the destination's side that selects it.
fn ingress(set: &PolicySet, src: &str, dst: &str, service: &str) -> Vec<String> {
    let side = ask(set, src, dst, service).ingress;
    let selecting = side.considered.iter().filter(|rule| rule.selects());
    selecting
        .map(|rule| {
            let why: Vec<String> = rule.mismatches.iter().map(ToString::to_string).collect();
            let name = &rule.origin.rule;
            format!(
                "{name} {:?} {:?} {}",
                rule.enforced,
                rule.staged,
                why.join(" + ")
            )
        })
        .collect()
}

#[test]
fn every_rule_says_what_came_of_it() {
    assert_eq!(
        ingress(&set(), "app-1", "db-1", "tcp/9000"),
        [
            "db/ingress[0] Misses Misses the port is tcp/9000, not tcp/5432",
            "db/ingress[1] Misses Misses app-1 is not in segment lab because tier is app, nor is it in 10.5.0.0/16; 10.0.0.1 is not in 10.9.0.0/24 + the port is tcp/9000, not one of tcp/22, udp/53",
            "later/ingress[0] Observed Decides ",
            "db/ingress Decides NotReached ",
            "default NotReached NotReached ",
        ]
    );
    assert_eq!(
        ingress(&set(), "10.9.0.7", "db-1", "tcp/22")[1],
        "db/ingress[1] Misses Misses 10.9.0.7 is not in segment lab because no host of the inventory has this address, nor is it in 10.5.0.0/16; 10.9.0.7 is in 10.9.0.0/24, but 10.9.0.7/32 of it is excepted"
    );
    assert_eq!(
        ingress(&set(), "10.5.0.1", "db-1", "tcp/22")[1],
        "db/ingress[1] Decides Decides "
    );
}

#[test]
fn a_denial_names_the_rule_that_was_nearest() {
    let nearest = |src, service| {
        let side = ask(&set(), src, "db-1", service).ingress;
        assert_eq!(side.verdict.enforced.effect, Effect::Deny);
        let nearest = side.nearest.unwrap();
        assert_eq!(nearest.denied_by, None);
        side.considered[nearest.rule].origin.rule.clone()
    };
    // The port only.
    assert_eq!(nearest("app-1", "tcp/1"), "db/ingress[0]");
    // The peer only, rather than peer and port.
    assert_eq!(nearest("web-1", "udp/53"), "db/ingress[1]");
    // All that is missing is that it acts.
    assert_eq!(nearest("app-1", "tcp/9000"), "later/ingress[0]");
    // An answer that allows needs none.
    assert_eq!(
        ask(&set(), "app-1", "db-1", "tcp/5432").ingress.nearest,
        None
    );
}

#[test]
fn a_rule_below_a_guardrail_that_denies_is_nearest_if_it_matches_already() {
    let mut set = set();
    let rule = |action, name: &str, port| OrderedRule {
        action,
        peers: Peers::Any,
        ports: Ports::spans(vec![port]),
        log: false,
        origin: Arc::new(Origin::unwritten(name)),
    };
    let port = |first| crate::PortSpan {
        slot: ProtocolSlot::Tcp,
        first,
        last: first,
    };
    let db = set.segments.iter().position(|it| it.name == "db").unwrap();
    set.guardrails = vec![OrderedPolicy {
        name: "g".to_owned(),
        priority: 1,
        applies_to: vec![SegmentId(db as u32)],
        ingress: vec![
            rule(Action::Pass, "g/ingress[0]", port(22)),
            rule(Action::Deny, "g/ingress[1]", port(5432)),
            rule(Action::Deny, "g/ingress[2]", port(22)),
        ],
        egress: Vec::new(),
        mode: Mode::Enforce,
    }];
    let denied = ask(&set, "app-1", "db-1", "tcp/5432");
    assert_eq!(denied.verdict, Effect::Deny);
    let nearest = |service| ask(&set, "app-1", "db-1", service).ingress.nearest;
    let (rule, denied_by) = (3, Some(1));
    assert_eq!(nearest("tcp/5432"), Some(Nearest { rule, denied_by }));
    // Of another port it says so too: on the port that it allows the guardrail denies.
    assert_eq!(nearest("tcp/5433"), Some(Nearest { rule, denied_by }));
    let roles = |service| {
        let side = ask(&set, "app-1", "db-1", service).ingress;
        side.considered
            .iter()
            .map(|rule| rule.enforced)
            .collect::<Vec<_>>()
    };
    use Role::{Decides, Misses, NotReached, Observed, Passes, Skipped};
    assert_eq!(
        roles("tcp/5432"),
        [
            Misses, Decides, NotReached, NotReached, NotReached, Observed, NotReached, NotReached
        ]
    );
    assert_eq!(
        roles("tcp/22"),
        [
            Passes, Skipped, Skipped, Misses, Misses, Observed, Decides, NotReached
        ]
    );
}

#[test]
fn rules_for_others_are_there_and_say_so() {
    let side = ask(&set(), "app-1", "web-1", "tcp/80").ingress;
    let others: Vec<_> = side.considered.iter().filter(|it| !it.selects()).collect();
    assert_eq!(others.len(), 3);
    assert_eq!(
        others[0].mismatches[0].to_string(),
        "web-1 is not in segment db because tier is web"
    );
    assert_eq!(side.verdict.enforced.origin.rule, "default");
}

#[test]
fn quarantine_and_addresses_without_a_host_are_told() {
    let cut = ask(&set(), "bad-1", "db-1", "tcp/5432");
    assert_eq!(cut.ingress.quarantined.unwrap().0, "bad-1");
    assert_eq!(cut.ingress.verdict.enforced.tier, Tier::Quarantine);
    assert_eq!(cut.ingress.nearest, None);
    let outside = ask(&set(), "app-1", "8.8.8.8", "udp/53");
    assert_eq!(outside.ingress.host, None);
    assert_eq!(outside.ingress.verdict.enforced.origin.rule, "unmanaged");
    let own = ask(&set(), "db-1", "db-1", "tcp/1");
    assert_eq!(own.verdict, Effect::Allow);
    assert_eq!(own.egress.verdict.enforced.origin.rule, "loopback");
}

#[test]
fn a_service_is_explained_port_by_port() {
    let flows = |dst: &str, service: &str| {
        explain_service(&set(), &hosts(), "app-1", dst, service).map(|all| {
            let keys = all.into_iter().map(|explanation| explanation.flow.port);
            keys.map(|PortKey { slot, key }| format!("{slot}/{key}"))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(
        flows("db-1", "web").unwrap(),
        ["tcp/80", "tcp/81", "tcp/443"]
    );
    // The ends have no address of IPv6.
    assert_eq!(flows("db-1", "ping").unwrap(), ["icmp/2048"]);
    assert_eq!(flows("db-1", "icmp").unwrap(), ["icmp/2048"]);
    assert_eq!(flows("db-1", "protocol/47").unwrap(), ["protocol/47"]);
    assert_eq!(
        flows("web-1", "tcp/http").unwrap(),
        ["tcp/8080", "tcp/8081"]
    );
    for (dst, service, refused) in [
        (
            "db-1",
            "tcp/http",
            "`db-1` has no port named tcp/http; ask for its number",
        ),
        (
            "db-1",
            "wide",
            "`wide` has more than 16 ports, and one flow has one; ask for tcp/8000",
        ),
        (
            "db-1",
            "tcp",
            "`tcp` has more than 16 ports, and one flow has one; ask for tcp/1",
        ),
        (
            "db-1",
            "any",
            "`any` has more than 16 ports, and one flow has one; ask for tcp/443",
        ),
        (
            "db-1",
            "postgres",
            "`postgres` is neither a Service of the policy files nor a port such as tcp/5432",
        ),
        (
            "db-2",
            "tcp/1",
            "`db-2` is neither an address nor a host of the inventory",
        ),
        (
            "db-1",
            "icmpv6",
            "`app-1` and `db-1` have no addresses of one family that icmpv6/128/0 runs over",
        ),
    ] {
        assert_eq!(flows(dst, service).unwrap_err().to_string(), refused);
    }
    assert!(matches!(flows("db-1", "tcp/0"), Err(AskError::Literal(_))));
}

/// Random scenarios, some with a schema that leaves labels out.
pub(crate) fn world() -> impl Strategy<Value = Scenario> {
    let schema = prop::option::weighted(0.2, Just("env"));
    (scenario(), schema).prop_map(|(mut scenario, schema)| {
        scenario.set.schema = schema.map(|key| LabelSchema {
            keys: [(key.to_owned(), None)].into(),
        });
        scenario
    })
}

fn query(flow: &Flow) -> Query {
    let PortKey { slot, key } = flow.port;
    let (protocol, port) = match slot {
        ProtocolSlot::Icmp | ProtocolSlot::Icmpv6 => {
            (format!("{slot}/{}/{}", key >> 8, key & 255), None)
        }
        ProtocolSlot::Other => (format!("protocol/{key}"), None),
        _ => (slot.to_string(), Some(key)),
    };
    Query {
        src: flow.source.to_string(),
        dst: flow.destination.to_string(),
        protocol,
        port,
    }
}

/// The set with one rule that names everybody on every port and is enforced, as far as it speaks
/// of the same hosts.
fn mended(set: &PolicySet, origin: &Origin) -> PolicySet {
    let mut set = set.clone();
    for policy in &mut set.guardrails.iter_mut().chain(&mut set.baselines) {
        for rule in policy.ingress.iter_mut().chain(&mut policy.egress) {
            if *rule.origin == *origin {
                (rule.peers, rule.ports) = (Peers::Any, Ports::Any);
                policy.mode = Mode::Enforce;
            }
        }
    }
    for policy in &mut set.policies {
        for side in [&mut policy.ingress, &mut policy.egress]
            .into_iter()
            .flatten()
        {
            for rule in &mut side.rules {
                if *rule.origin == *origin {
                    (rule.peers, rule.ports) = (Peers::Any, Ports::Any);
                    policy.mode = Mode::Enforce;
                }
            }
        }
    }
    for exception in &mut set.exceptions {
        if *exception.origin == *origin {
            exception.ports = Ports::Any;
        }
    }
    set
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn explanations_agree_with_evaluation(scenario in world()) {
        for flow in &scenario.flows {
            let explanation = explain(&scenario.set, &scenario.inventory, &query(flow)).unwrap();
            prop_assert_eq!(explanation.flow, *flow);
            let verdict = evaluate(&scenario.set, &scenario.inventory, flow);
            let passes = [&verdict.egress, &verdict.ingress]
                .iter()
                .all(|side| side.enforced.effect == Effect::Allow);
            prop_assert_eq!(explanation.verdict == Effect::Allow, passes);
            for (side, expected) in
                [(explanation.egress, verdict.egress), (explanation.ingress, verdict.ingress)]
            {
                prop_assert_eq!(&side.verdict, &expected, "{:?}", flow);
                prop_assert!(side.considered.is_sorted_by_key(|rule| rule.tier));
                for (staged, evidence) in [(false, &expected.enforced), (true, &expected.staged)] {
                    let role = |rule: &&Considered| {
                        (if staged { rule.staged } else { rule.enforced }) == Role::Decides
                    };
                    let deciding: Vec<_> = side.considered.iter().filter(role).collect();
                    prop_assert_eq!(deciding.len(), usize::from(side.host.is_some()));
                    for rule in deciding {
                        prop_assert_eq!(&rule.origin, &evidence.origin);
                        prop_assert_eq!(rule.tier, evidence.tier);
                    }
                }
            }
        }
    }

    #[test]
    fn the_nearest_rule_allows_once_it_matches(scenario in world()) {
        for flow in &scenario.flows {
            let explanation = explain(&scenario.set, &scenario.inventory, &query(flow)).unwrap();
            for side in [explanation.egress, explanation.ingress] {
                let Some(Nearest { rule, denied_by: None }) = side.nearest else {
                    continue;
                };
                let nearest = &side.considered[rule];
                let of_segments = nearest.tier == Tier::Exception
                    && nearest.mismatches.iter().any(|why| matches!(why, Mismatch::Peer(_)));
                if !nearest.selects() || of_segments {
                    continue;
                }
                let set = mended(&scenario.set, &nearest.origin);
                let verdict = evaluate(&set, &scenario.inventory, flow);
                let mended = match side.direction {
                    Direction::Egress => verdict.egress,
                    Direction::Ingress => verdict.ingress,
                };
                prop_assert_eq!(mended.enforced.effect, Effect::Allow, "{:?} {:?}", nearest, flow);
            }
        }
    }
}
