use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    evaluate::{SideVerdict, evaluate},
    parse::parse,
    selector::Requirement,
    service::{PortSpan, ProtocolSlot},
    set::NamedPort,
    source::SourceFile,
    testing,
    words::Action,
};

fn reparsed(set: &PolicySet) -> PolicySet {
    let text = policies(set);
    let file = SourceFile {
        path: "rendered.yaml".to_owned(),
        content: text.clone(),
    };
    parse(&[file]).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// The effects and tiers of a side; its origins are other files.
fn effects(side: &SideVerdict) -> impl PartialEq + std::fmt::Debug + use<> {
    [&side.enforced, &side.staged].map(|evidence| (evidence.effect, evidence.tier))
}

proptest! {
    #[test]
    fn what_is_rendered_parses_back_to_the_same_meaning(scenario in testing::scenario()) {
        let set = reparsed(&scenario.set);
        for flow in &scenario.flows {
            let before = evaluate(&scenario.set, &scenario.inventory, flow);
            let after = evaluate(&set, &scenario.inventory, flow);
            prop_assert_eq!(effects(&before.egress), effects(&after.egress));
            prop_assert_eq!(effects(&before.ingress), effects(&after.ingress));
        }
        // What is tidy is written as it is, up to the place of each line.
        let text = |set: &PolicySet| {
            let lines = policies(set);
            let lines = lines.lines().map(|line| line.split('#').next().unwrap_or_default().trim_end().to_owned());
            lines.filter(|line| !line.is_empty() && line != "---").collect::<Vec<_>>()
        };
        prop_assert_eq!(text(&scenario.set), text(&set));
    }

    #[test]
    fn an_inventory_that_is_rendered_parses_back(inventory in testing::inventory()) {
        let content = super::inventory(&inventory);
        let file = SourceFile { path: "hosts.yaml".to_owned(), content };
        let parsed = Inventory::parse(&file).unwrap_or_else(|problems| panic!("{problems}\n{}", file.content));
        prop_assert_eq!(inventory, parsed);
    }
}

fn segment(name: &str, tests: &[(&str, Test)]) -> Segment {
    let requirement = |(key, test): &(&str, Test)| Requirement {
        key: (*key).to_owned(),
        test: test.clone(),
    };
    Segment {
        name: name.to_owned(),
        selector: tests.iter().map(requirement).collect(),
        subnets: Vec::new(),
        origin: Arc::new(Origin {
            rule: name.to_owned(),
            file: "cluster\n.yaml".to_owned(),
            line: 7,
        }),
    }
}

fn values(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn guardrail(applies_to: u32, peer: u32, action: Action) -> OrderedPolicy {
    OrderedPolicy {
        name: "tenants".to_owned(),
        priority: 20,
        applies_to: vec![SegmentId(applies_to)],
        ingress: vec![OrderedRule {
            action,
            peers: Peers::Of(vec![Peer::Segment(SegmentId(peer))]),
            ports: Ports::Of {
                spans: vec![PortSpan {
                    slot: ProtocolSlot::Tcp,
                    first: 443,
                    last: 443,
                }],
                named: vec![NamedPort {
                    slot: ProtocolSlot::Tcp,
                    name: "http".to_owned(),
                }],
            },
            log: false,
            origin: Arc::new(Origin::unwritten("tenants")),
        }],
        egress: Vec::new(),
        mode: Mode::Observe,
    }
}

#[test]
fn names_priorities_and_kinds_are_written_as_files_need_them() {
    let web = "payments/(app: web)";
    let segments = vec![
        segment(
            "world",
            &[
                ("namespace:team", Test::NotIn(values(&["a", "true"]))),
                ("namespace:team", Test::Exists),
            ],
        ),
        segment(
            web,
            &[
                ("app", Test::In(values(&["web", "x"]))),
                ("app", Test::NotIn(values(&["x"]))),
            ],
        ),
        segment(
            "nobody",
            &[("app", Test::Exists), ("app", Test::DoesNotExist)],
        ),
        segment(web, &[("app", Test::DoesNotExist)]),
    ];
    let ids = |ids: &[u32]| ids.iter().map(|&id| SegmentId(id)).collect::<Vec<_>>();
    let set = PolicySet {
        segments,
        guardrails: vec![
            guardrail(0, 1, Action::Pass),
            guardrail(1, 2, Action::Deny),
            guardrail(2, 1, Action::Deny),
            guardrail(1, 0, Action::Deny),
        ],
        exceptions: vec![Exception {
            name: "vendor".to_owned(),
            owner: "jane@example.com".to_owned(),
            reason: "CHG-1: debugging".to_owned(),
            expires: Timestamp(1_796_083_200),
            from: ids(&[1, 2]),
            to: ids(&[0]),
            ports: Ports::Any,
            origin: Arc::new(Origin::unwritten("vendor")),
        }],
        assertions: vec![Assertion {
            name: "never".to_owned(),
            claim: Claim::Never,
            from: ids(&[0]),
            to: ids(&[1, 3]),
            ports: Ports::Any,
            origin: Arc::new(Origin::unwritten("never")),
        }],
        schema: Some(LabelSchema {
            keys: [
                ("app".to_owned(), None),
                ("no".to_owned(), Some(values(&["1", "b"]))),
            ]
            .into(),
        }),
        ..PolicySet::default()
    };
    let expected = "\
# Segment nobody is left out: it matches nobody
# Guardrail tenants is left out: it has no rule that can match
# Guardrail tenants is left out: it selects nobody
---
apiVersion: bulkhead/v1
kind: LabelSchema
name: labels
keys: { app: any, \"no\": [\"1\", b] }
---
# From cluster\u{fffd}.yaml:7
apiVersion: bulkhead/v1
kind: Segment
name: payments-app-web
match: { app: web }
---
# From cluster\u{fffd}.yaml:7
apiVersion: bulkhead/v1
kind: Segment
name: payments-app-web-2
match: { app: { exists: false } }
---
# From cluster\u{fffd}.yaml:7
apiVersion: bulkhead/v1
kind: Segment
name: world-2
match: { \"namespace:team\": { not: [a, \"true\"], exists: true } }
---
apiVersion: bulkhead/v1
kind: Guardrail
name: tenants
priority: 20
appliesTo: [world-2]
ingress:
  - action: pass
    from: [payments-app-web]
    ports: [tcp/443, tcp/http]
mode: observe
---
apiVersion: bulkhead/v1
kind: Guardrail
name: tenants-2
priority: 21
appliesTo: [payments-app-web]
ingress:
  - action: deny
    from: [world-2]
    ports: [tcp/443, tcp/http]
mode: observe
---
apiVersion: bulkhead/v1
kind: Exception
name: vendor
owner: jane@example.com
reason: \"CHG-1: debugging\"
expires: 2026-12-01T00:00:00Z
from: [payments-app-web]
to: [world-2]
---
apiVersion: bulkhead/v1
kind: Assertion
name: never
never: { from: world-2, to: [payments-app-web, payments-app-web-2] }
";
    assert_eq!(policies(&set), expected);
    assert_eq!(
        policies(&tidy(set.clone()).set),
        expected
            .split_once("---\n")
            .map(|(_, rest)| rest)
            .unwrap_or_default()
    );
}
