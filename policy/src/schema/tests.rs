#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{collections::BTreeSet, fs, path::Path};

use boon::{Compiler, SchemaIndex, Schemas};
use proptest::prelude::ProptestConfig;
use serde_json::Value;

use super::{INVENTORY, POLICY};
use crate::testing;

struct Schema {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Schema {
    fn new(text: &str) -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        let schema = serde_json::from_str(text).unwrap();
        compiler.add_resource("schema.json", schema).unwrap();
        let index = compiler.compile("schema.json", &mut schemas).unwrap();
        Self { schemas, index }
    }

    /// What is wrong with the first document that is.
    fn check(&self, yaml: &str) -> Result<(), String> {
        for document in serde_saphyr::from_multiple::<Value>(yaml).unwrap() {
            self.schemas
                .validate(&document, self.index)
                .map_err(|error| format!("{error:#}\n{document}"))?;
        }
        Ok(())
    }
}

#[test]
fn every_example_validates() {
    let (policy, inventory) = (Schema::new(POLICY), Schema::new(INVENTORY));
    let mut seen = 0;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for folder in fs::read_dir(examples).unwrap() {
        let folder = folder.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        for file in fs::read_dir(folder).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let schema = if file.ends_with("inventory.yaml") {
                &inventory
            } else {
                &policy
            };
            schema
                .check(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            seen += 1;
        }
    }
    assert!(seen >= 8, "only {seen} files of examples");
}

proptest::proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_the_parser_takes_validates(yaml in testing::policies()) {
        thread_local! {
            static SCHEMA: Schema = Schema::new(POLICY);
        }
        SCHEMA.with(|schema| schema.check(&yaml)).unwrap();
    }
}

#[test]
fn what_the_parser_refuses_does_not_validate() {
    let schema = Schema::new(POLICY);
    let right = "kind: Segment, name: a, match: { tier: db }";
    let document = |fields: &str| format!("{{ apiVersion: bulkhead/v1, {fields} }}");
    schema.check(&document(right)).unwrap();
    // What the wrong documents name, so that the parser finds nothing else to refuse.
    let segments = ["b", "c", "db"].map(|name| {
        let fields = format!("kind: Segment, name: {name}, match: {{ tier: {name} }}");
        format!("---\n{}\n", document(&fields))
    });
    let file = |content: String| crate::SourceFile {
        path: "wrong.yaml".to_owned(),
        content,
    };
    crate::parse(&[file(segments.concat())]).unwrap();
    for wrong in [
        "kind: Segment, match: { tier: db }",
        "kind: Segment, name: a",
        "kind: Segment, name: a, match: {}",
        "kind: Segment, name: a, match: { tier: [] }",
        "kind: Segment, name: a, match: { tier: { not: db, exists: false } }",
        "kind: Segment, name: a, match: { tier: { is: db } }",
        "kind: Segment, name: a, match: { 'port:tcp/http': '80' }",
        "kind: Segment, name: a, subnets: [10.0.0.1]",
        "kind: Segmnet, name: a, match: { tier: db }",
        "kind: Service, name: a, ports: [postgres]",
        "kind: Service, name: gre, ports: [gre]",
        "kind: Service, name: a, ports: []",
        "kind: Policy, name: a, appliesTo: db",
        "kind: Policy, name: a, ingress: []",
        "kind: Policy, name: a, appliesTo: db, ingress: [{ to: [b] }]",
        "kind: Policy, name: a, appliesTo: db, ingress: [{ action: deny }]",
        "kind: Guardrail, name: a, appliesTo: db, ingress: [{ action: deny }]",
        "kind: Guardrail, name: a, priority: 65536, appliesTo: db, ingress: []",
        "kind: Guardrail, name: a, priority: 1, appliesTo: db, ingress: [{ from: [b] }]",
        "kind: Baseline, name: a, priority: 1, appliesTo: db, ingress: [{ action: drop }]",
        "kind: Isolation, name: a, priority: 1, segments: [b]",
        "kind: Exception, name: a, owner: o, reason: r, from: b, to: c",
        "kind: Exception, name: a, owner: o, reason: r, expires: '2026-12-01', from: b, to: c",
        "kind: Assertion, name: a",
        "kind: Assertion, name: a, never: { from: b, to: c }, always: { from: b, to: c }",
        "kind: LabelSchema, name: a, keys: {}",
        "kind: LabelSchema, name: a, keys: { tier: web }",
    ] {
        let wrong = document(wrong);
        assert!(schema.check(&wrong).is_err(), "validates: {wrong}");
        let file = file(format!("{}---\n{wrong}", segments.concat()));
        assert!(crate::parse(&[file]).is_err(), "parses: {wrong}");
    }
    assert!(
        schema
            .check("{ kind: Segment, name: a, match: { b: c } }")
            .is_err()
    );
    let inventory = Schema::new(INVENTORY);
    for wrong in [
        "{}",
        "hosts: [{ addresses: [10.0.0.1] }]",
        "hosts: [{ name: a, ports: { http: 80 } }]",
        "hosts: [{ name: a, quarantined: maybe }]",
        "hosts: [{ name: a, label: {} }]",
    ] {
        assert!(inventory.check(wrong).is_err(), "validates: {wrong}");
    }
}

/// The names of fields of every object of a schema that takes no others.
fn closed_objects(schema: &Value, found: &mut BTreeSet<BTreeSet<String>>) {
    match schema {
        Value::Object(entries) => {
            if entries.get("additionalProperties") == Some(&Value::Bool(false)) {
                let properties = entries["properties"].as_object().unwrap();
                found.insert(properties.keys().cloned().collect());
            }
            entries.values().for_each(|it| closed_objects(it, found));
        }
        Value::Array(items) => items.iter().for_each(|it| closed_objects(it, found)),
        _ => {}
    }
}

/// The fields that the parser knows where the field `zzz` stands.
fn fields_beside_zzz(content: &str) -> BTreeSet<String> {
    let file = crate::SourceFile {
        path: "fields.yaml".to_owned(),
        content: content.to_owned(),
    };
    let problems = if content.starts_with("{ hosts") {
        crate::Inventory::parse(&file).unwrap_err()
    } else {
        crate::parse(&[file]).unwrap_err()
    };
    let problem = problems.0.iter().find(|it| it.message.ends_with("`zzz`"));
    let help = problem.and_then(|it| it.help.as_deref()).unwrap();
    let names = help.strip_prefix("its fields are ").unwrap();
    names
        .split(", ")
        .map(|name| name.trim_matches('`').to_owned())
        .collect()
}

#[test]
fn the_schemas_have_the_fields_that_the_parser_has() {
    let mut schema = BTreeSet::new();
    for text in [POLICY, INVENTORY] {
        closed_objects(&serde_json::from_str(text).unwrap(), &mut schema);
    }
    let kinds = crate::parse::KINDS.map(|kind| format!("kind: {kind}, name: a, zzz: 1"));
    let within = [
        "kind: Segment, name: a, match: { b: { zzz: 1 } }",
        "kind: Policy, name: a, appliesTo: b, ingress: [{ zzz: 1 }]",
        "kind: Policy, name: a, appliesTo: b, egress: [{ zzz: 1 }]",
        "kind: Policy, name: a, appliesTo: b, egress: [{ to: [{ zzz: 1 }] }]",
        "kind: Guardrail, name: a, appliesTo: b, priority: 1, ingress: [{ zzz: 1 }]",
        "kind: Guardrail, name: a, appliesTo: b, priority: 1, egress: [{ zzz: 1 }]",
        "kind: Isolation, name: a, segments: [b, c], priority: 1, except: [{ zzz: 1 }]",
        "kind: Assertion, name: a, never: { zzz: 1 }",
    ];
    let documents = kinds.iter().map(String::as_str).chain(within);
    let mut parser: BTreeSet<_> = documents
        .map(|fields| fields_beside_zzz(&format!("{{ apiVersion: bulkhead/v1, {fields} }}")))
        .collect();
    parser.insert(fields_beside_zzz("{ hosts: [], zzz: 1 }"));
    parser.insert(fields_beside_zzz("{ hosts: [{ zzz: 1 }] }"));
    assert_eq!(schema, parser);
}
