//! Reading the objects of other systems: more is passed over than in Bulkhead's own files.

use crate::parse::{
    collector::{Collector, quote},
    fields::{Field, Fields, kind_of, list, word},
    yaml::{Node, Place, Value},
};

/// A field of a mapping whose other fields do not matter; none if it is null.
pub(super) fn field<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    entries
        .iter()
        .find(|(key, value)| {
            matches!(&key.value, Value::Scalar { text, .. } if text == name)
                && !matches!(value.value, Value::Null)
        })
        .map(|(_, value)| value)
}

/// The text of a scalar field of a mapping whose other fields do not matter.
pub(super) fn text<'n>(node: &'n Node, name: &str) -> Option<&'n str> {
    match &field(node, name)?.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// A field that says something: programs write `null`, `""`, `[]`, `{}` and `false` for nothing.
pub(super) fn given<'n>(fields: &Fields<'n>, name: &str) -> Option<Field<'n>> {
    fields.get(name).filter(|field| match &field.node.value {
        Value::Null => false,
        Value::Scalar { text, .. } => !text.is_empty() && text != "false",
        Value::List(items) => !items.is_empty(),
        Value::Map(entries) => !entries.is_empty(),
    })
}

/// The items of a list; none if the field is absent or null.
pub(super) fn items<'n>(
    fields: &Fields<'n>,
    name: &str,
    problems: &mut Collector<'_>,
) -> &'n [Node] {
    given(fields, name)
        .and_then(|field| list(field.node, &format!("`{name}`"), problems))
        .unwrap_or_default()
}

/// Reports a field that Bulkhead has no words for.
pub(super) fn refuse(place: Place, name: &str, why: &str, problems: &mut Collector<'_>) {
    problems.report_help(
        place,
        format!("`{name}` cannot be expressed in Bulkhead policy"),
        why.to_owned(),
    );
}

/// A whole number of a range.
pub(super) fn integer(
    node: &Node,
    what: &str,
    first: i64,
    last: i64,
    problems: &mut Collector<'_>,
) -> Option<i64> {
    let word = word(node, what, problems)?;
    let number = word
        .text
        .parse()
        .ok()
        .filter(|number| (first..=last).contains(number));
    if number.is_none() {
        problems.report(
            word.place,
            format!(
                "{what} is a number from {first} to {last}, not {}",
                quote(&word.text)
            ),
        );
    }
    number
}

/// Whether a node is a mapping; reports one that is not.
pub(super) fn is_mapping(node: &Node, what: &str, problems: &mut Collector<'_>) -> bool {
    let is_mapping = matches!(node.value, Value::Map(_));
    if !is_mapping {
        problems.report(
            node.place,
            format!("{what} is a mapping, not {}", kind_of(node)),
        );
    }
    is_mapping
}

/// The start of a file: where what a file lacks is reported.
pub(super) const fn start(file: usize) -> Place {
    Place {
        file,
        line: 1,
        column: 1,
        width: 1,
    }
}
