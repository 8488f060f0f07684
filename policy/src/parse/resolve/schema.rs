//! Selectors against the label schema.

use crate::{
    inventory::is_reserved_label,
    parse::{
        collector::{Collector, quote},
        document::SegmentDocument,
        fields::Word,
    },
    selector::Test,
    set::LabelSchema,
};

/// Reports keys and values that no workload's identity can have.
pub(super) fn check<'a>(
    schema: &LabelSchema,
    segments: impl Iterator<Item = &'a SegmentDocument>,
    problems: &mut Collector<'_>,
) {
    for segment in segments {
        uses(schema, segment, problems);
        impossible(schema, segment, problems);
    }
}

/// Requires a value, and forbids all that there are.
fn impossible(schema: &LabelSchema, segment: &SegmentDocument, problems: &mut Collector<'_>) {
    let requirements = &segment.selector.selector.requirements;
    for of_key in requirements.chunk_by(|one, other| one.key == other.key) {
        let name = &of_key[0].key;
        let Some(Some(allowed)) = schema.keys.get(name) else {
            continue;
        };
        let exists = of_key.iter().any(|it| it.test == Test::Exists);
        let none_left = of_key
            .iter()
            .any(|it| matches!(&it.test, Test::NotIn(values) if allowed.is_subset(values)));
        if !exists || !none_left || problems.is_full() {
            continue;
        }
        let mut keys = segment.selector.uses.iter().map(|(key, _)| key);
        if let Some(key) = keys.find(|key| key.text == *name) {
            let message = format!(
                "this matches nobody: it excludes every value that the LabelSchema has of {}",
                quote(&key.text)
            );
            let help = "leave a value in, or write { exists: false } for those without the label";
            problems.report_help(key.place, message, help.to_owned());
        }
    }
}

/// Keys and values that the schema does not have.
fn uses(schema: &LabelSchema, segment: &SegmentDocument, problems: &mut Collector<'_>) {
    for (key, values) in &segment.selector.uses {
        if problems.is_full() {
            return;
        }
        let Some(allowed) = schema.keys.get(&key.text) else {
            if !is_reserved_label(&key.text) {
                let help = problems
                    .did_you_mean(&key.text, schema.keys.keys().map(String::as_str))
                    .unwrap_or_else(|| "add it to the LabelSchema".to_owned());
                let message = format!("the LabelSchema has no key {}", quote(&key.text));
                problems.report_help(key.place, message, help);
            }
            continue;
        };
        let Some(allowed) = allowed else { continue };
        let unknown = |value: &&Word| !allowed.contains(&value.text);
        for value in values.iter().filter(unknown) {
            if problems.is_full() {
                return;
            }
            let help = problems
                .did_you_mean(&value.text, allowed.iter().map(String::as_str))
                .unwrap_or_else(|| "add it to the LabelSchema".to_owned());
            let message = format!(
                "the LabelSchema has no value {} of {}",
                quote(&value.text),
                quote(&key.text)
            );
            problems.report_help(value.place, message, help);
        }
    }
}
