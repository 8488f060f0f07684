//! The example of every kind means what its comments say.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use bulkhead_policy::{
    Effect, Inventory, SourceFile, Tier,
    evaluate::query::{Query, answer},
    parse,
};

fn read(name: &str) -> SourceFile {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/every-kind");
    SourceFile {
        path: name.to_owned(),
        content: fs::read_to_string(folder.join(name)).unwrap(),
    }
}

#[test]
fn the_example_uses_every_kind() {
    let set = parse(&[read("policies.yaml")]).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(set.schema.is_some());
    // One guardrail, and what the isolation stands for.
    assert!(set.guardrails.len() > 1);
    let counts = [
        set.segments.len(),
        set.services.len(),
        set.policies.len(),
        set.exceptions.len(),
        set.baselines.len(),
        set.assertions.len(),
    ];
    assert_eq!(counts, [7, 1, 1, 1, 1, 2]);
}

#[test]
fn the_example_decides_as_its_comments_say() {
    let set = parse(&[read("policies.yaml")]).unwrap_or_else(|problems| panic!("{problems}"));
    let inventory = Inventory::parse(&read("inventory.yaml")).unwrap();
    for (src, dst, protocol, port, verdict, tier) in [
        (
            "dev-1",
            "db-1",
            "tcp",
            Some(5432),
            Effect::Deny,
            Tier::Guardrail,
        ),
        ("a-1", "b-1", "tcp", Some(22), Effect::Deny, Tier::Guardrail),
        (
            "b-1",
            "a-1",
            "tcp",
            Some(443),
            Effect::Deny,
            Tier::Guardrail,
        ),
        ("a-1", "b-1", "tcp", Some(443), Effect::Allow, Tier::Default),
        (
            "192.0.2.7",
            "db-1",
            "tcp",
            Some(22),
            Effect::Allow,
            Tier::Exception,
        ),
        (
            "192.0.2.7",
            "db-1",
            "tcp",
            Some(5432),
            Effect::Deny,
            Tier::Policy,
        ),
        (
            "web-1",
            "db-1",
            "tcp",
            Some(5432),
            Effect::Allow,
            Tier::Policy,
        ),
        (
            "web-1",
            "db-1",
            "tcp",
            Some(9187),
            Effect::Allow,
            Tier::Policy,
        ),
        (
            "web-1",
            "db-1",
            "tcp",
            Some(9188),
            Effect::Deny,
            Tier::Policy,
        ),
        (
            "web-1",
            "others-1",
            "tcp",
            Some(23),
            Effect::Deny,
            Tier::Baseline,
        ),
        (
            "web-1",
            "others-1",
            "protocol/47",
            None,
            Effect::Allow,
            Tier::Default,
        ),
    ] {
        let query = Query {
            src: src.to_owned(),
            dst: dst.to_owned(),
            protocol: protocol.to_owned(),
            port,
        };
        let answer = answer(&set, &inventory, &query).unwrap();
        let ingress = &answer.ingress.enforced;
        assert_eq!((answer.verdict, ingress.tier), (verdict, tier), "{query:?}");
    }
}
