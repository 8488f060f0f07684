//! What all manifests have in common, and what the readers of policies share.

use std::sync::Arc;

use crate::{
    host_policy::Origin,
    inventory::Labels,
    parse::{
        collector::{Collector, quote},
        fields::{Field, Fields, Word, kind_of, list, word},
        kubernetes::selector::{Segments, label},
        suggest::one_of,
        values::{MAX_PREFIX, is_name},
        yaml::{Node, Place, ScalarKind, Value},
    },
};

/// A field that is there and not null: the API takes null for absent.
pub(super) fn given<'n>(fields: &Fields<'n>, name: &str) -> Option<Field<'n>> {
    fields
        .get(name)
        .filter(|field| !matches!(field.node.value, Value::Null))
}

/// The items of a list field; absent and null are empty.
pub(super) fn items<'n>(
    fields: &Fields<'n>,
    name: &str,
    problems: &mut Collector<'_>,
) -> &'n [Node] {
    given(fields, name)
        .and_then(|field| list(field.node, &quote(name), problems))
        .unwrap_or_default()
}

/// Who owns an object: its kind and name.
pub(super) type Owner = (String, String);

/// What the metadata of an object says that matters here.
pub(super) struct Meta {
    pub name: Word,
    pub namespace: String,
    pub labels: Labels,
    pub owners: Vec<Owner>,
}

impl Meta {
    /// Reads the metadata of a manifest. A job that is made anew each time has only the beginning
    /// of a name.
    pub fn read(fields: &Fields<'_>, what: &str, problems: &mut Collector<'_>) -> Option<Self> {
        let Some(field) = given(fields, "metadata") else {
            let message = format!("{what} needs a field `metadata`");
            problems.report_help(
                fields.place,
                message,
                "write `metadata: { name: .. }`".to_owned(),
            );
            return None;
        };
        let known = [
            "name",
            "generateName",
            "namespace",
            "labels",
            "ownerReferences",
        ];
        let fields = Fields::read_part(field.node, "`metadata`", &known, problems)?;
        let Some(field) = given(&fields, "name").or_else(|| given(&fields, "generateName")) else {
            problems.report(field.key, format!("{what} needs a `name` in its metadata"));
            return None;
        };
        let name = object_name(field.node, "a name", problems)?;
        let namespace = match given(&fields, "namespace") {
            Some(field) => object_name(field.node, "a namespace", problems)?.text,
            None => "default".to_owned(),
        };
        let owners = items(&fields, "ownerReferences", problems)
            .iter()
            .filter_map(|item| {
                let known = ["kind", "name"];
                let fields = Fields::read_part(item, "an owner", &known, problems)?;
                let kind = word(given(&fields, "kind")?.node, "a kind", problems)?;
                let name = word(given(&fields, "name")?.node, "a name", problems)?;
                Some((kind.text, name.text))
            })
            .collect();
        Some(Self {
            name,
            namespace,
            labels: labels(&fields, problems),
            owners,
        })
    }
}

fn object_name(node: &Node, what: &str, problems: &mut Collector<'_>) -> Option<Word> {
    let mut name = word(node, what, problems)?;
    name.text.truncate(name.text.trim_end_matches('-').len());
    if !is_name(&name.text, MAX_PREFIX) {
        problems.report(name.place, format!("{} is not {what}", quote(&name.text)));
        return None;
    }
    Some(name)
}

/// The labels of an object or a pod template.
pub(super) fn labels(metadata: &Fields<'_>, problems: &mut Collector<'_>) -> Labels {
    let mut labels = Labels::new();
    let Some(field) = given(metadata, "labels") else {
        return labels;
    };
    let Value::Map(entries) = &field.node.value else {
        let message = format!("`labels` is a mapping, not {}", kind_of(field.node));
        problems.report(field.node.place, message);
        return labels;
    };
    for (key, value) in entries {
        let Some((key, value)) = label(key, value, problems) else {
            continue;
        };
        if labels.insert(key.text.clone(), value).is_some() {
            let message = format!("label {} stands here twice", quote(&key.text));
            problems.report(key.place, message);
        }
    }
    labels
}

/// Reads the parts of one policy.
pub(super) struct Reader<'a, 'f> {
    /// Its name in reports.
    pub name: &'a str,
    file: &'f str,
    pub segments: &'a mut Segments,
    pub problems: &'a mut Collector<'f>,
}

impl<'a, 'f> Reader<'a, 'f> {
    pub fn new(
        name: &'a str,
        place: Place,
        segments: &'a mut Segments,
        problems: &'a mut Collector<'f>,
    ) -> Self {
        Self {
            name,
            file: &problems.file(place).path,
            segments,
            problems,
        }
    }

    pub fn origin(&self, rule: String, place: Place) -> Arc<Origin> {
        Arc::new(Origin {
            rule,
            file: self.file.to_owned(),
            line: place.line,
        })
    }

    /// A field that must be there; null is not.
    pub fn require<'n>(
        &mut self,
        fields: &Fields<'n>,
        name: &str,
        what: &str,
    ) -> Option<Field<'n>> {
        let field = given(fields, name);
        if field.is_none() {
            let message = format!("{what} needs a field {}", quote(name));
            self.problems.report(fields.place, message);
        }
        field
    }

    /// The one field of some that is given.
    pub fn exactly_one<'n>(
        &mut self,
        fields: &Fields<'n>,
        names: &[&'static str],
        what: &str,
    ) -> Option<(&'static str, Field<'n>)> {
        let mut there = names
            .iter()
            .filter_map(|name| Some((*name, given(fields, name)?)));
        match (there.next(), there.next()) {
            (Some(one), None) => Some(one),
            (Some((first, _)), Some((second, field))) => {
                let message = format!("{what} cannot have both `{first}` and `{second}`");
                let help = if what.starts_with('`') {
                    "keep one of them"
                } else {
                    "make two items of them: either matches"
                };
                self.problems
                    .report_help(field.key, message, help.to_owned());
                None
            }
            (None, _) => {
                let message = format!("{what} needs one of {}", one_of(names));
                self.problems.report(fields.place, message);
                None
            }
        }
    }

    /// One of some words, and what it stands for.
    pub fn choice<T: Copy>(&mut self, node: &Node, what: &str, choices: &[(&str, T)]) -> Option<T> {
        let word = word(node, what, self.problems)?;
        let chosen = choices.iter().find(|(name, _)| *name == word.text);
        if chosen.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let message = format!("{} is not {what}", quote(&word.text));
            let help = format!("{what} is one of {}", one_of(&names));
            self.problems.report_help(word.place, message, help);
        }
        chosen.map(|(_, chosen)| *chosen)
    }

    /// A whole number of a range; text that looks like one is not one.
    pub fn number(&mut self, node: &Node, what: &str, first: u32, last: u32) -> Option<u32> {
        let number = match &node.value {
            Value::Scalar {
                text,
                kind: ScalarKind::Number,
            } => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (first..=last).contains(number));
        if number.is_none() {
            let message = format!("{what} is a number from {first} to {last}");
            self.problems.report(node.place, message);
        }
        number
    }
}
