//! Selectors against the label schema.

use crate::{
    inventory::is_reserved_label,
    parse::{
        collector::{Collector, quote},
        document::SegmentDocument,
        suggest::did_you_mean,
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
    for (key, _) in &segment.selector.uses {
        let Some(Some(allowed)) = schema.keys.get(&key.text) else {
            continue;
        };
        // Sorted by key: what is required of this one stands together.
        let first = requirements.partition_point(|it| it.key < key.text);
        let (mut exists, mut none_left) = (false, false);
        for requirement in requirements[first..]
            .iter()
            .take_while(|it| it.key == key.text)
        {
            exists |= requirement.test == Test::Exists;
            none_left |=
                matches!(&requirement.test, Test::NotIn(values) if allowed.is_subset(values));
        }
        if exists && none_left {
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
        let suggests = problems.wants_suggestion();
        let Some(allowed) = schema.keys.get(&key.text) else {
            if !is_reserved_label(&key.text) {
                let help = suggests
                    .then(|| did_you_mean(&key.text, schema.keys.keys().map(String::as_str)))
                    .flatten()
                    .unwrap_or_else(|| "add it to the LabelSchema".to_owned());
                let message = format!("the LabelSchema has no key {}", quote(&key.text));
                problems.report_help(key.place, message, help);
            }
            continue;
        };
        let Some(allowed) = allowed else { continue };
        for value in values.iter().filter(|value| !allowed.contains(&value.text)) {
            let help = problems
                .wants_suggestion()
                .then(|| did_you_mean(&value.text, allowed.iter().map(String::as_str)))
                .flatten()
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
