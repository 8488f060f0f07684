#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::{
    Action, Effect, Mode, Verdict, evaluate,
    explain::tests::world,
    parse::parse,
    set::{Exception, OrderedPolicy, OrderedRule, Peer, Peers, Ports, SegmentId},
};

const DAY: u64 = 86_400;
const NOW: Timestamp = Timestamp(1_000 * DAY);

const SEGMENTS: &str = "
{ apiVersion: bulkhead/v1, kind: Segment, name: app, match: { tier: app } }
---
{ apiVersion: bulkhead/v1, kind: Segment, name: db, match: { tier: db } }
---
{ apiVersion: bulkhead/v1, kind: Segment, name: db-prod, match: { tier: db, env: prod } }
---
{ apiVersion: bulkhead/v1, kind: Segment, name: lab, subnets: [10.5.0.0/16] }
";
const HOSTS: &str = "
hosts:
  - { name: app-1, addresses: [10.0.0.1], labels: { tier: app } }
  - { name: db-1, addresses: [10.0.0.2], labels: { tier: db, env: dev } }
";

fn file(content: &str) -> SourceFile {
    SourceFile {
        path: "p.yaml".to_owned(),
        content: content.to_owned(),
    }
}

/// The segments of the tests, and each policy: its `appliesTo`, `ingress` and `egress` on a line.
fn set(policies: &[(&str, &str)]) -> PolicySet {
    let mut text = SEGMENTS.to_owned();
    for (name, body) in policies {
        let head = "apiVersion: bulkhead/v1, kind: Policy";
        text += &format!("---\n{{ {head}, name: {name}, {body} }}\n");
    }
    parse(&[file(&text)]).unwrap_or_else(|problems| panic!("{problems}"))
}

/// What is said of these kinds, as `rule or segment: message`.
fn said(set: &PolicySet, kinds: &[Kind]) -> Vec<String> {
    let inventory = Inventory::parse(&file(HOSTS)).unwrap();
    let warnings = lint(set, Some(&inventory), NOW);
    let wanted = warnings.iter().filter(|it| kinds.contains(&it.kind));
    wanted.map(|warning| warning.message.clone()).collect()
}

fn segment(set: &PolicySet, name: &str) -> SegmentId {
    let at = set.segments.iter().position(|it| it.name == name).unwrap();
    SegmentId(at as u32)
}

/// A guardrail with one ingress rule.
fn guardrail(set: &PolicySet, to: &str, action: Action, from: &str, ports: Ports) -> OrderedPolicy {
    let name = format!("{action}-{from}");
    OrderedPolicy {
        name: name.clone(),
        priority: 0,
        applies_to: vec![segment(set, to)],
        ingress: vec![OrderedRule {
            action,
            peers: Peers::Of(vec![Peer::Segment(segment(set, from))]),
            ports,
            log: false,
            origin: Arc::new(Origin {
                rule: format!("{name}/ingress[0]"),
                file: "g.yaml".to_owned(),
                line: 7,
            }),
        }],
        egress: Vec::new(),
        mode: Mode::Enforce,
    }
}

fn exception(set: &PolicySet, from: &str, to: &str, expires: u64) -> Exception {
    Exception {
        name: "debug".to_owned(),
        owner: "jane".to_owned(),
        reason: "CHG-1".to_owned(),
        expires: Timestamp(expires),
        from: vec![segment(set, from)],
        to: vec![segment(set, to)],
        ports: Ports::Any,
        origin: Arc::new(Origin::unwritten("debug")),
    }
}

#[test]
fn a_rule_that_another_covers_is_named_with_the_other() {
    let set = set(&[
        (
            "a",
            "appliesTo: db, ingress: [{ from: [app], allow: [tcp/1-100] }, { from: [app], allow: [tcp/22] }, { from: [app], allow: [tcp/101] }]",
        ),
        (
            "b",
            "appliesTo: db-prod, ingress: [{ from: [app], allow: [tcp/80-100] }]",
        ),
        (
            "c",
            "appliesTo: db, ingress: [{ from: [{ subnet: 10.5.1.0/24 }], allow: [tcp/9] }]",
        ),
        (
            "d",
            "appliesTo: db, ingress: [{ from: [lab], allow: [tcp/8-9] }]",
        ),
        // The same again: one of the two is too many, not both.
        (
            "e",
            "appliesTo: db, ingress: [{ from: [lab], allow: [tcp/8-9] }]",
        ),
    ]);
    assert_eq!(
        said(&set, &[Kind::Covered]),
        [
            "`a/ingress[1]` changes nothing: `a/ingress[0]` (p.yaml:10) allows all that it allows",
            "`b/ingress[0]` changes nothing: `a/ingress[0]` (p.yaml:10) allows all that it allows",
            "`c/ingress[0]` changes nothing: `d/ingress[0]` (p.yaml:16) allows all that it allows",
            "`e/ingress[0]` changes nothing: `d/ingress[0]` (p.yaml:16) allows all that it allows",
        ]
    );
}

#[test]
fn what_is_only_observed_covers_nothing_that_is_enforced() {
    let wide = "appliesTo: db, ingress: [{ from: [app] }]";
    let narrow = "appliesTo: db, ingress: [{ from: [app], allow: [tcp/22] }]";
    let observed = format!("{wide}, mode: observe");
    assert_eq!(
        said(&set(&[("a", &observed), ("b", narrow)]), &[Kind::Covered]),
        [""; 0]
    );
    let observed = format!("{narrow}, mode: observe");
    assert_eq!(
        said(&set(&[("a", wide), ("b", &observed)]), &[Kind::Covered]).len(),
        1
    );
}

#[test]
fn rules_that_nobody_can_match_are_found_with_an_inventory() {
    let mut set = set(&[
        (
            "a",
            "appliesTo: app, ingress: [{ from: [db-prod], allow: [tcp/1] }, { from: [db-prod, lab], allow: [tcp/2] }]",
        ),
        ("b", "appliesTo: lab, egress: []"),
        (
            "c",
            "appliesTo: db, egress: [{ to: [{ subnet: 10.0.0.0/8, except: [10.0.0.0/9, 10.128.0.0/9] }], allow: [tcp/3] }]",
        ),
    ]);
    let never = [Kind::NeverMatches, Kind::EmptySegment, Kind::DeadPart];
    assert_eq!(
        said(&set, &never),
        [
            "segment `db-prod` selects nobody: no host of the inventory has { env: prod, tier: db }",
            "`a/ingress[0]` can never match: no host of the inventory is in segment db-prod",
            "policy `b` applies to nobody: no host of the inventory is in segment lab",
            "`c/egress[0]` can never match: all that it names is excepted or has no members",
        ]
    );
    let of_subnet = lint(&set, None, NOW);
    let of_subnet = of_subnet.iter().filter(|it| never.contains(&it.kind));
    assert_eq!(of_subnet.count(), 1);

    // Named ports that no workload has.
    let rule = &mut set.policies[0].ingress.as_mut().unwrap().rules[1];
    rule.ports = Ports::Of {
        spans: Vec::new(),
        named: vec![crate::set::NamedPort {
            slot: crate::ProtocolSlot::Tcp,
            name: "http".to_owned(),
        }],
    };
    assert!(said(&set, &never).contains(
        &"`a/ingress[1]` can never match: no workload of the inventory has a port of these names"
            .to_owned()
    ));
}

#[test]
fn a_segment_that_nothing_names_is_told() {
    let set = set(&[(
        "a",
        "appliesTo: db, ingress: [{ from: [app], allow: [tcp/1] }]",
    )]);
    assert_eq!(
        said(&set, &[Kind::UnusedSegment]),
        [
            "no rule names segment `db-prod`",
            "no rule names segment `lab`"
        ]
    );
}

#[test]
fn the_world_on_any_port_is_told_and_a_published_port_is_not() {
    let world = [
        "ingress: [{}]",
        "ingress: [{ allow: [tcp] }]",
        "ingress: [{ from: [{ subnet: 0.0.0.0/0 }] }]",
        "ingress: [{ from: [{ subnet: 0.0.0.0/1 }, { subnet: 128.0.0.0/1 }] }]",
        "egress: [{}]",
    ];
    for side in world {
        let set = set(&[("a", &format!("appliesTo: db, {side}"))]);
        assert_eq!(said(&set, &[Kind::AllowsTheWorld]).len(), 1, "{side}");
    }
    let meant = [
        "ingress: [{ allow: [tcp/443] }]",
        "ingress: [{ from: [lab] }]",
        "ingress: [{ from: [{ subnet: 0.0.0.0/0, except: [10.0.0.0/8] }] }]",
        "egress: [{ allow: [tcp] }]",
        "ingress: []",
    ];
    for side in meant {
        let set = set(&[("a", &format!("appliesTo: db, {side}"))]);
        assert_eq!(said(&set, &[Kind::AllowsTheWorld]).len(), 0, "{side}");
    }
}

#[test]
fn a_guardrail_that_decides_before_makes_a_rule_pointless() {
    let mut set = set(&[(
        "a",
        "appliesTo: db-prod, ingress: [{ from: [app], allow: [tcp/1] }]",
    )]);
    let deny = guardrail(&set, "db", Action::Deny, "app", Ports::Any);
    set.guardrails = vec![deny.clone()];
    let told = "`a/ingress[0]` is never asked: the guardrail `deny-app/ingress[0]` (g.yaml:7) denies all that it speaks of";
    assert_eq!(said(&set, &[Kind::Pointless]), [told]);

    // What may pass before it comes to the rule.
    let pass = guardrail(&set, "db-prod", Action::Pass, "lab", Ports::Any);
    set.guardrails = vec![pass.clone(), deny.clone()];
    assert_eq!(said(&set, &[Kind::Pointless]), [""; 0]);
    set.guardrails = vec![deny.clone(), pass];
    assert_eq!(said(&set, &[Kind::Pointless]), [told]);
    // Nobody is of both tiers.
    let elsewhere = guardrail(&set, "app", Action::Pass, "lab", Ports::Any);
    set.guardrails = vec![elsewhere, deny.clone()];
    assert_eq!(said(&set, &[Kind::Pointless]), [told]);

    let observed = OrderedPolicy {
        mode: Mode::Observe,
        ..deny
    };
    set.guardrails = vec![observed];
    assert_eq!(said(&set, &[Kind::Pointless]), [""; 0]);
}

#[test]
fn exceptions_are_told_of_before_and_after_their_end_and_where_a_guardrail_stops_them() {
    let mut set = set(&[]);
    let at = |offset: i64| NOW.0.saturating_add_signed(offset);
    let ending = [Kind::Expired, Kind::ExpiresSoon];
    for (expires, expected) in [
        (at(0), "exception `debug` expired 0 seconds ago"),
        (at(-3 * 86_400), "exception `debug` expired 3 days ago"),
        (at(3_600), "exception `debug` expires in 1 hour"),
        (at(7 * 86_400), "exception `debug` expires in 7 days"),
    ] {
        set.exceptions = vec![exception(&set, "app", "db", expires)];
        assert_eq!(said(&set, &ending), [expected]);
    }
    set.exceptions = vec![exception(&set, "app", "db", at(7 * 86_400 + 1))];
    assert_eq!(said(&set, &ending), [""; 0]);

    let stopped = |set: &PolicySet| said(set, &[Kind::Pointless]).len();
    assert_eq!(stopped(&set), 0);
    set.guardrails = vec![guardrail(&set, "db", Action::Deny, "app", Ports::Any)];
    assert_eq!(stopped(&set), 1);
    // An allow on one side leaves the other to the exception.
    set.guardrails = vec![guardrail(&set, "db", Action::Allow, "app", Ports::Any)];
    assert_eq!(stopped(&set), 0);
    // Nobody denies for an address of the lab that no host holds.
    set.guardrails = vec![guardrail(&set, "lab", Action::Deny, "app", Ports::Any)];
    set.exceptions = vec![exception(&set, "app", "lab", at(8 * 86_400))];
    assert_eq!(stopped(&set), 0);
}

#[test]
fn rules_of_one_line_are_told_of_only_together() {
    let mut set = set(&[]);
    let one = guardrail(&set, "db", Action::Deny, "app", Ports::Any);
    let narrower = guardrail(&set, "db-prod", Action::Deny, "app", Ports::Any);
    set.guardrails = vec![one, narrower.clone()];
    assert_eq!(said(&set, &[Kind::Covered]), [""; 0]);
    let mut own_line = narrower;
    own_line.ingress[0].origin = Arc::new(Origin::unwritten("own/ingress[0]"));
    set.guardrails[1] = own_line;
    assert_eq!(
        said(&set, &[Kind::Covered]),
        [
            "`own/ingress[0]` changes nothing: `deny-app/ingress[0]` (g.yaml:7) matches all that it matches, and is asked before it"
        ]
    );
}

#[test]
fn a_warning_shows_its_line() {
    let content = "one\n  two: 2\r\nthree\n";
    let warning = |line| Warning {
        origin: Arc::new(Origin {
            rule: "r".to_owned(),
            file: "p.yaml".to_owned(),
            line,
        }),
        kind: Kind::Covered,
        message: "so".to_owned(),
        help: "do".to_owned(),
    };
    let files = [file(content)];
    assert_eq!(
        warning(2).as_problem(&files).render(),
        "p.yaml:2:3: so\n  |\n2 |   two: 2\n  |   ^^^^^^\n  = help: do"
    );
    assert_eq!(warning(9).as_problem(&files).source_line, "");
}

#[test]
fn a_set_made_to_be_slow_is_linted_soon() {
    let mut set = set(&[]);
    let one = guardrail(&set, "db", Action::Deny, "app", Ports::Any);
    let policy = |index: u32| {
        let mut policy = one.clone();
        policy.ingress[0].peers = Peers::Of(vec![Peer::Subnet(crate::SubnetMatch {
            subnet: ipnet::IpNet::new(std::net::Ipv4Addr::from(index << 8).into(), 24).unwrap(),
            except: Vec::new(),
        })]);
        policy.ingress[0].origin = Arc::new(Origin::unwritten(&index.to_string()));
        policy
    };
    set.guardrails = (0..40_000).map(policy).collect();
    set.exceptions = (0..40_000)
        .map(|expires| exception(&set, "app", "db", NOW.0 + expires))
        .collect();
    let warnings = lint(&set, None, NOW);
    // Comparing every pair would take a thousand million steps; the segments are still looked at.
    assert!(warnings.iter().any(|it| it.kind == Kind::UnusedSegment));
}

/// The set without what was written at an origin; none if that is not a rule or a direction.
fn without(set: &PolicySet, origin: &Arc<Origin>) -> Option<PolicySet> {
    let mut less = set.clone();
    for policy in less.guardrails.iter_mut().chain(&mut less.baselines) {
        policy.ingress.retain(|rule| rule.origin != *origin);
        policy.egress.retain(|rule| rule.origin != *origin);
    }
    less.exceptions
        .retain(|exception| exception.origin != *origin);
    for policy in &mut less.policies {
        for side in [&mut policy.ingress, &mut policy.egress] {
            if let Some(it) = side {
                it.rules.retain(|rule| rule.origin != *origin);
            }
            if side.as_ref().is_some_and(|side| side.origin == *origin) {
                *side = None;
            }
        }
    }
    (less != *set).then_some(less)
}

/// The effects of both sides, enforced and staged; of exceptions only whether the flow passes.
fn effects(verdict: &Verdict, together: bool) -> [Effect; 4] {
    let Verdict { egress, ingress } = verdict;
    let sides = [
        &egress.enforced,
        &ingress.enforced,
        &egress.staged,
        &ingress.staged,
    ];
    let [egress, ingress, staged_egress, staged_ingress] = sides.map(|side| side.effect);
    if !together {
        return [egress, ingress, staged_egress, staged_ingress];
    }
    let both = |one: Effect, other| if one == Effect::Allow { other } else { one };
    let (enforced, staged) = (both(egress, ingress), both(staged_egress, staged_ingress));
    [enforced, enforced, staged, staged]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn what_is_called_needless_can_be_removed(scenario in world()) {
        let needless = [Kind::NeverMatches, Kind::Covered, Kind::Pointless];
        for inventory in [None, Some(&scenario.inventory)] {
            for warning in lint(&scenario.set, inventory, Timestamp(0)) {
                if !needless.contains(&warning.kind) {
                    continue;
                }
                let less = without(&scenario.set, &warning.origin);
                prop_assert!(less.is_some(), "{} names no rule", warning);
                let less = less.unwrap();
                let together = scenario.set.exceptions.iter().any(|it| it.origin == warning.origin);
                for flow in &scenario.flows {
                    let [with, without] = [&scenario.set, &less].map(|set| {
                        effects(&evaluate(set, &scenario.inventory, flow), together)
                    });
                    prop_assert_eq!(with, without, "{} {:?}", warning, flow);
                }
            }
        }
    }
}
