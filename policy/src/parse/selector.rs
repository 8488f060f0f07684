//! `match`: what the labels of a workload must be.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    inventory::{NAMESPACE_SCOPE, PORT_SCOPE},
    parse::{
        collector::{Collector, quote},
        fields::{Fields, Word, boolean, filled_list, kind_of, word},
        values,
        yaml::{Node, Place, Value},
    },
    selector::{Requirement, Selector, Test},
};

/// A selector, and where each of its keys and values stands.
#[derive(Default)]
pub(crate) struct SelectorDocument {
    pub selector: Selector,
    /// Every key, with the values that it is compared with.
    pub uses: Vec<(Word, Vec<Word>)>,
}

/// Reads `{ tier: db, env: [prod, test], region: { not: eu-1 }, legacy: { exists: false } }`.
pub(crate) fn read(node: &Node, problems: &mut Collector<'_>) -> Option<SelectorDocument> {
    let Value::Map(entries) = &node.value else {
        problems.report_help(
            node.place,
            format!("`match` is a mapping of labels, not {}", kind_of(node)),
            "write { tier: db, env: [prod, test] }".to_owned(),
        );
        return None;
    };
    if entries.is_empty() {
        problems.report_help(
            node.place,
            "an empty `match` would match every workload",
            "name at least one label, or leave the field out".to_owned(),
        );
    }
    let mut requirements = Vec::new();
    let mut uses = Vec::new();
    let mut seen: BTreeMap<String, Place> = BTreeMap::new();
    for (key, value) in entries {
        let Some(key) = word(key, "a label's key", problems) else {
            continue;
        };
        if ["matchLabels", "matchExpressions"].contains(&key.text.as_str())
            && !matches!(value.value, Value::Scalar { .. })
        {
            problems.report_help(
                key.place,
                format!("`match` has no field {}", quote(&key.text)),
                "labels stand in `match` itself: { tier: db, env: { not: dev } }".to_owned(),
            );
            continue;
        }
        label_key(&key, problems);
        if seen.insert(key.text.clone(), key.place).is_some() {
            problems.report_help(
                key.place,
                format!("label {} stands here twice", quote(&key.text)),
                "all requirements must hold: write one list, or one `not`".to_owned(),
            );
            continue;
        }
        if let Some((tests, values)) = tests(value, problems) {
            requirements.extend(tests.into_iter().map(|test| Requirement {
                key: key.text.clone(),
                test,
            }));
            uses.push((key, values));
        }
    }
    Some(SelectorDocument {
        selector: requirements.into_iter().collect(),
        uses,
    })
}

/// A key of a label: a name, with a prefix or none; a namespace's label has a scope before it.
pub(crate) fn label_key(key: &Word, problems: &mut Collector<'_>) {
    if key.text.starts_with(PORT_SCOPE) {
        problems.report_help(
            key.place,
            format!("{} is a named port, not a label", quote(&key.text)),
            "policy writes it as a port, tcp/http; an inventory numbers it in `ports`".to_owned(),
        );
        return;
    }
    let text = key.text.strip_prefix(NAMESPACE_SCOPE);
    values::check_label_key(text.unwrap_or(&key.text), key, problems);
}

fn tests(node: &Node, problems: &mut Collector<'_>) -> Option<(Vec<Test>, Vec<Word>)> {
    let Value::Map(entries) = &node.value else {
        let values = label_values(node, "write { exists: true } for any value", problems)?;
        return Some((vec![Test::In(texts(&values))], values));
    };
    let fields = Fields::read(node, "a label's test", &["not", "exists"], problems)?;
    let (not, exists) = (fields.get("not"), fields.get("exists"));
    if not.or(exists).is_none() {
        // A field that is not known has been reported.
        if !entries.is_empty() {
            return None;
        }
        problems.report_help(
            node.place,
            "a label's test needs `not` or `exists`",
            "write { not: eu-1 }, { not: [a, b] }, { exists: true } or { exists: false }"
                .to_owned(),
        );
        return None;
    }
    let values = not.and_then(|field| label_values(field.node, "leave the label out", problems));
    let there = exists.and_then(|field| boolean(field.node, "`exists`", problems));
    if let Some(field) = exists
        && not.is_some()
        && there == Some(false)
    {
        problems.report_help(
            field.key,
            "a label that is not there has no value to differ from",
            "write `exists: true`, or one of the two alone".to_owned(),
        );
    }
    let values = values.unwrap_or_default();
    let mut tests = Vec::new();
    if !values.is_empty() {
        tests.push(Test::NotIn(texts(&values)));
    }
    tests.extend(there.map(|there| {
        if there {
            Test::Exists
        } else {
            Test::DoesNotExist
        }
    }));
    Some((tests, values))
}

fn texts(values: &[Word]) -> BTreeSet<String> {
    values.iter().map(|value| value.text.clone()).collect()
}

/// One value or a list of some; `absent` says what to write instead of an empty one.
fn label_values(node: &Node, absent: &str, problems: &mut Collector<'_>) -> Option<Vec<Word>> {
    let items = match &node.value {
        Value::List(_) => filled_list(node, "a label's list of values", absent, problems)?,
        _ => std::slice::from_ref(node),
    };
    let values: Vec<Word> = items
        .iter()
        .filter_map(|item| word(item, "a label's value", problems))
        .collect();
    for value in &values {
        values::check_label_value(value, problems);
    }
    (!values.is_empty()).then_some(values)
}
