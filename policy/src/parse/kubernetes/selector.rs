//! Label selectors, and the segments that they become.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    inventory::NAMESPACE_SCOPE,
    parse::{
        collector::{Collector, quote},
        fields::{Fields, Word, kind_of, word},
        kubernetes::object::{Reader, given, items},
        values::{MAX_NAME, MAX_PREFIX, is_name},
        yaml::{Node, Place, Value},
    },
    selector::{Requirement, Selector, Test},
    set::{Segment, SegmentId},
};

/// The label that every namespace has, by its name; so every pod has it here, and no host.
pub(super) const NAMESPACE_NAME: &str = "namespace:kubernetes.io/metadata.name";

/// The segments that selectors became so far, one for equal selectors.
#[derive(Default)]
pub(super) struct Segments {
    ids: BTreeMap<Selector, SegmentId>,
    segments: Vec<Segment>,
}

impl Segments {
    /// In the order of their ids.
    pub fn into_vec(self) -> Vec<Segment> {
        self.segments
    }
}

/// The operators of a match expression.
#[derive(Clone, Copy)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Reader<'_, '_> {
    /// The segment of the pods of one namespace that a selector means.
    pub fn pods_of(&mut self, namespace: &str, pods: Vec<Requirement>, place: Place) -> SegmentId {
        let name = Requirement {
            key: NAMESPACE_NAME.to_owned(),
            test: Test::In(BTreeSet::from([namespace.to_owned()])),
        };
        self.segment(pods.into_iter().chain([name]).collect(), place)
    }

    /// The segment of the pods that a selector of namespaces and one of pods mean together.
    pub fn pods_in(
        &mut self,
        namespaces: Vec<Requirement>,
        pods: Vec<Requirement>,
        place: Place,
    ) -> SegmentId {
        // What only forbids labels would mean Bulkhead's hosts too.
        let in_some = Requirement {
            key: NAMESPACE_NAME.to_owned(),
            test: Test::Exists,
        };
        let says_which = namespaces.iter().any(|requirement| {
            requirement.key == NAMESPACE_NAME && matches!(requirement.test, Test::In(_))
        });
        let in_some = (!says_which).then_some(in_some);
        let requirements = namespaces.into_iter().chain(pods).chain(in_some);
        self.segment(requirements.collect(), place)
    }

    fn segment(&mut self, selector: Selector, place: Place) -> SegmentId {
        if let Some(id) = self.segments.ids.get(&selector) {
            return *id;
        }
        let id = SegmentId(self.segments.segments.len() as u32);
        let name = segment_name(&selector);
        self.segments.segments.push(Segment {
            origin: self.origin(name.clone(), place),
            name,
            selector: selector.clone(),
            subnets: Vec::new(),
        });
        self.segments.ids.insert(selector, id);
        id
    }

    /// What a label selector requires of labels in a scope; an empty selector requires nothing.
    pub fn requirements(&mut self, node: &Node, what: &str, scope: &str) -> Vec<Requirement> {
        let known = ["matchLabels", "matchExpressions"];
        let Some(fields) = Fields::read(node, what, &known, self.problems) else {
            return Vec::new();
        };
        let mut requirements = Vec::new();
        if let Some(field) = given(&fields, "matchLabels") {
            self.match_labels(field.node, scope, &mut requirements);
        }
        for item in items(&fields, "matchExpressions", self.problems) {
            requirements.extend(self.match_expression(item, scope));
        }
        requirements
    }

    fn match_labels(&mut self, node: &Node, scope: &str, requirements: &mut Vec<Requirement>) {
        let Value::Map(entries) = &node.value else {
            let message = format!("`matchLabels` is a mapping, not {}", kind_of(node));
            self.problems.report(node.place, message);
            return;
        };
        let mut keys = BTreeSet::new();
        for (key, value) in entries {
            let Some((key, value)) = label(key, value, self.problems) else {
                continue;
            };
            if !keys.insert(key.text.clone()) {
                let message = format!("label {} stands here twice", quote(&key.text));
                self.problems.report(key.place, message);
            }
            requirements.push(Requirement {
                key: format!("{scope}{}", key.text),
                test: Test::In(BTreeSet::from([value])),
            });
        }
    }

    fn match_expression(&mut self, node: &Node, scope: &str) -> Option<Requirement> {
        let what = "an item of `matchExpressions`";
        let known = ["key", "operator", "values"];
        let fields = Fields::read(node, what, &known, self.problems)?;
        let key = self
            .require(&fields, "key", what)
            .and_then(|field| label_key(field.node, self.problems));
        let operators = [
            ("In", Operator::In),
            ("NotIn", Operator::NotIn),
            ("Exists", Operator::Exists),
            ("DoesNotExist", Operator::DoesNotExist),
        ];
        let operator = self
            .require(&fields, "operator", what)
            .and_then(|field| self.choice(field.node, "an operator", &operators))?;
        let values: BTreeSet<String> = items(&fields, "values", self.problems)
            .iter()
            .filter_map(|item| label_value(item, self.problems))
            .collect();
        let place = given(&fields, "values").map(|field| field.node.place);
        let test = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                let message = "`In` and `NotIn` need at least one of `values`";
                self.problems.report(place.unwrap_or(fields.place), message);
                return None;
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let message = "`Exists` and `DoesNotExist` have no `values`";
                self.problems.report(place.unwrap_or(fields.place), message);
                return None;
            }
            Operator::In => Test::In(values),
            Operator::NotIn => Test::NotIn(values),
            Operator::Exists => Test::Exists,
            Operator::DoesNotExist => Test::DoesNotExist,
        };
        Some(Requirement {
            key: format!("{scope}{}", key?.text),
            test,
        })
    }
}

/// The name of a selector's segment: `payments/(app: web)`, `(team: a)/*`, `*/*`. Different
/// selectors have different names, and none is a name that an author could give.
fn segment_name(selector: &Selector) -> String {
    let (namespaces, pods): (Vec<&Requirement>, Vec<&Requirement>) = selector
        .requirements
        .iter()
        .partition(|requirement| requirement.key.starts_with(NAMESPACE_SCOPE));
    let words = |requirements: &[&Requirement]| {
        let is_implied = |requirement: &&&Requirement| {
            requirement.key == NAMESPACE_NAME && requirement.test == Test::Exists
        };
        let texts: Vec<String> = requirements
            .iter()
            .filter(|requirement| !is_implied(requirement))
            .map(ToString::to_string)
            .map(|text| match text.strip_prefix(NAMESPACE_SCOPE) {
                Some(text) => text.to_owned(),
                None => text,
            })
            .collect();
        match texts.is_empty() {
            true => "*".to_owned(),
            false => format!("({})", texts.join(", ")),
        }
    };
    let namespace = match namespaces.as_slice() {
        [
            Requirement {
                key,
                test: Test::In(values),
            },
        ] if key == NAMESPACE_NAME && values.len() == 1 => values.iter().cloned().collect(),
        some => words(some),
    };
    format!("{namespace}/{}", words(&pods))
}

/// A label's key and value, as Kubernetes would take them.
pub(super) fn label(
    key: &Node,
    value: &Node,
    problems: &mut Collector<'_>,
) -> Option<(Word, String)> {
    let key = label_key(key, problems);
    let value = label_value(value, problems);
    Some((key?, value?))
}

fn label_key(node: &Node, problems: &mut Collector<'_>) -> Option<Word> {
    let key = word(node, "a label's key", problems)?;
    let (prefix, name) = match key.text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key.text.as_str()),
    };
    if !is_name(name, MAX_NAME) || prefix.is_some_and(|prefix| !is_name(prefix, MAX_PREFIX)) {
        let message = format!("{} is not a label's key", quote(&key.text));
        problems.report(key.place, message);
        return None;
    }
    Some(key)
}

fn label_value(node: &Node, problems: &mut Collector<'_>) -> Option<String> {
    let value = word(node, "a label's value", problems)?;
    if !value.text.is_empty() && !is_name(&value.text, MAX_NAME) {
        let message = format!("{} is not a label's value", quote(&value.text));
        problems.report(value.place, message);
        return None;
    }
    Some(value.text)
}
