//! Strict reading of nodes: what is not expected is reported, and the rest is read on.

use std::collections::BTreeMap;

use crate::parse::{
    collector::{Collector, quote},
    suggest::{did_you_mean, one_of},
    yaml::{Node, Place, ScalarKind, Value},
};

/// A scalar and its place.
#[derive(Clone, Debug)]
pub(crate) struct Word {
    pub text: String,
    pub place: Place,
}

/// The fields of a mapping.
pub(crate) struct Fields<'n> {
    /// Of the mapping.
    pub place: Place,
    fields: BTreeMap<&'n str, Field<'n>>,
}

#[derive(Clone, Copy)]
pub(crate) struct Field<'n> {
    /// Of the key.
    pub key: Place,
    pub node: &'n Node,
}

impl<'n> Fields<'n> {
    /// Reads a mapping that may have the known fields and no others. None if it is no mapping.
    pub fn read(
        node: &'n Node,
        what: &str,
        known: &[&str],
        problems: &mut Collector<'_>,
    ) -> Option<Self> {
        Self::read_with_help(node, what, known, |_| None, problems)
    }

    /// As [`Fields::read`], with help for fields that are not known but expected here.
    pub fn read_with_help(
        node: &'n Node,
        what: &str,
        known: &[&str],
        help: impl Fn(&str) -> Option<String>,
        problems: &mut Collector<'_>,
    ) -> Option<Self> {
        let unknown = |text: &str, place: Place, problems: &mut Collector<'_>| {
            let help = help(text)
                .or_else(|| did_you_mean(text, known.iter().copied()))
                .unwrap_or_else(|| format!("its fields are {}", one_of(known)));
            problems.report_help(place, format!("{what} has no field {}", quote(text)), help);
        };
        Self::collect(node, what, known, unknown, problems)
    }

    /// Of a mapping that others define, the fields that matter here; what else it has passes.
    pub fn read_part(
        node: &'n Node,
        what: &str,
        known: &[&str],
        problems: &mut Collector<'_>,
    ) -> Option<Self> {
        Self::collect(node, what, known, |_, _, _| {}, problems)
    }

    fn collect(
        node: &'n Node,
        what: &str,
        known: &[&str],
        unknown: impl Fn(&str, Place, &mut Collector<'_>),
        problems: &mut Collector<'_>,
    ) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            problems.report_help(
                node.place,
                format!("{what} is a mapping, not {}", kind_of(node)),
                format!("its fields are {}", one_of(known)),
            );
            return None;
        };
        let mut fields: BTreeMap<&str, Field<'_>> = BTreeMap::new();
        for (key, value) in entries {
            let Value::Scalar { text, .. } = &key.value else {
                problems.report(
                    key.place,
                    format!("a field's name is a word, not {}", kind_of(key)),
                );
                continue;
            };
            if let Some(first) = fields.get(text.as_str()) {
                problems.report(
                    key.place,
                    format!(
                        "{} stands here twice; first on line {}",
                        quote(text),
                        first.key.line
                    ),
                );
            } else if known.contains(&text.as_str()) {
                fields.insert(
                    text,
                    Field {
                        key: key.place,
                        node: value,
                    },
                );
            } else {
                unknown(text, key.place, problems);
            }
        }
        Some(Self {
            place: node.place,
            fields,
        })
    }

    pub fn get(&self, name: &str) -> Option<Field<'n>> {
        self.fields.get(name).copied()
    }

    /// A field that must be there.
    pub fn require(
        &self,
        name: &str,
        what: &str,
        problems: &mut Collector<'_>,
    ) -> Option<Field<'n>> {
        let field = self.get(name);
        if field.is_none() {
            problems.report(self.place, format!("{what} needs a field `{name}`"));
        }
        field
    }
}

/// What a node is, for "not ...".
pub(crate) fn kind_of(node: &Node) -> &'static str {
    match &node.value {
        Value::Null => "empty",
        Value::Scalar {
            kind: ScalarKind::Text,
            ..
        } => "a word",
        Value::Scalar {
            kind: ScalarKind::Bool(_),
            ..
        } => "true or false",
        Value::Scalar {
            kind: ScalarKind::Number,
            ..
        } => "a number",
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
    }
}

/// Any scalar, as it was written.
pub(crate) fn word(node: &Node, what: &str, problems: &mut Collector<'_>) -> Option<Word> {
    match &node.value {
        Value::Scalar { text, .. } => Some(Word {
            text: text.clone(),
            place: node.place,
        }),
        _ => {
            problems.report(
                node.place,
                format!("{what} is a word, not {}", kind_of(node)),
            );
            None
        }
    }
}

/// `true` or `false`, and no other spelling.
pub(crate) fn boolean(node: &Node, what: &str, problems: &mut Collector<'_>) -> Option<bool> {
    match node.value {
        Value::Scalar {
            kind: ScalarKind::Bool(value),
            ..
        } => Some(value),
        _ => {
            problems.report(node.place, format!("{what} is `true` or `false`"));
            None
        }
    }
}

/// A list that may be empty.
pub(crate) fn list<'n>(
    node: &'n Node,
    what: &str,
    problems: &mut Collector<'_>,
) -> Option<&'n [Node]> {
    match &node.value {
        Value::List(items) => Some(items),
        Value::Scalar { text, .. } => {
            let help = format!("write [{text}]");
            problems.report_help(
                node.place,
                format!("{what} is a list, not a single item"),
                help,
            );
            None
        }
        _ => {
            problems.report(
                node.place,
                format!("{what} is a list, not {}", kind_of(node)),
            );
            None
        }
    }
}

/// A list with at least one item; `absent` says what leaving the field out means.
pub(crate) fn filled_list<'n>(
    node: &'n Node,
    what: &str,
    absent: &str,
    problems: &mut Collector<'_>,
) -> Option<&'n [Node]> {
    let items = list(node, what, problems)?;
    if items.is_empty() {
        problems.report_help(
            node.place,
            format!("{what} is an empty list"),
            absent.to_owned(),
        );
        return None;
    }
    Some(items)
}
