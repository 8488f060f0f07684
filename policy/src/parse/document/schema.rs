//! Label schemas as authors write them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    parse::{
        collector::{Collector, quote},
        fields::{Fields, Word, filled_list, kind_of, word},
        selector, values,
        yaml::{Node, Value},
    },
    set::LabelSchema,
};

/// What stands for "any value".
const ANY: &str = "any";

pub(crate) struct SchemaDocument {
    pub name: Word,
    pub schema: LabelSchema,
}

pub(super) fn read(node: &Node, problems: &mut Collector<'_>) -> Option<SchemaDocument> {
    let what = "a LabelSchema";
    let fields = Fields::read(
        node,
        what,
        &["apiVersion", "kind", "name", "keys"],
        problems,
    )?;
    let name = values::name(&fields, what, problems);
    let field = fields.require("keys", what, problems)?;
    let Value::Map(entries) = &field.node.value else {
        problems.report_help(
            field.node.place,
            format!(
                "`keys` is a mapping of label keys, not {}",
                kind_of(field.node)
            ),
            "write { tier: [web, app, db], team: any }".to_owned(),
        );
        return None;
    };
    if entries.is_empty() {
        problems.report_help(
            field.node.place,
            "without any key all workloads would have one identity",
            "name at least one key, or leave the document out".to_owned(),
        );
    }
    let mut keys: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
    for (key, node) in entries {
        let Some(key) = word(key, "a label's key", problems) else {
            continue;
        };
        selector::label_key(&key, problems);
        let known = values_of(node, problems);
        if keys.insert(key.text.clone(), known).is_some() {
            problems.report(
                key.place,
                format!("label {} stands here twice", quote(&key.text)),
            );
        }
    }
    Some(SchemaDocument {
        name: name?,
        schema: LabelSchema { keys },
    })
}

/// A list of values, or the word `any`.
fn values_of(node: &Node, problems: &mut Collector<'_>) -> Option<BTreeSet<String>> {
    if matches!(&node.value, Value::Scalar { text, .. } if text == ANY) {
        return None;
    }
    let items = filled_list(
        node,
        "a key's values",
        "write `any` for any value",
        problems,
    )?;
    let words: Vec<Word> = items
        .iter()
        .filter_map(|item| word(item, "a label's value", problems))
        .collect();
    for word in &words {
        values::check_label_value(word, problems);
    }
    Some(words.into_iter().map(|word| word.text).collect())
}
