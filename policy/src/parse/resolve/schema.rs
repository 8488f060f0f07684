//! Selectors against the label schema.

use crate::{
    inventory::is_reserved_label,
    parse::{
        collector::{Collector, quote},
        document::SegmentDocument,
        suggest::did_you_mean,
    },
    set::LabelSchema,
};

/// Reports keys and values that no workload's identity can have.
pub(super) fn check<'a>(
    schema: &LabelSchema,
    segments: impl Iterator<Item = &'a SegmentDocument>,
    problems: &mut Collector<'_>,
) {
    for (key, values) in segments.flat_map(|segment| &segment.selector.uses) {
        if problems.is_full() {
            return;
        }
        let Some(allowed) = schema.keys.get(&key.text) else {
            if !is_reserved_label(&key.text) {
                let help = did_you_mean(&key.text, schema.keys.keys().map(String::as_str))
                    .unwrap_or_else(|| "add it to the LabelSchema".to_owned());
                let message = format!("the LabelSchema has no key {}", quote(&key.text));
                problems.report_help(key.place, message, help);
            }
            continue;
        };
        let Some(allowed) = allowed else { continue };
        for value in values.iter().filter(|value| !allowed.contains(&value.text)) {
            let help = did_you_mean(&value.text, allowed.iter().map(String::as_str))
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
