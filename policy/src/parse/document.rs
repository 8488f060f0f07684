//! Documents as authors write them, checked one by one; names are not resolved yet.

mod policy;

use ipnet::IpNet;

use crate::{
    inventory::Labels,
    parse::{
        collector::{Collector, quote},
        fields::{Fields, Word, filled_list, kind_of},
        ports::{self, PortWord},
        suggest::{did_you_mean, one_of},
        values,
        yaml::{Node, Value},
    },
    selector::Selector,
};

pub(crate) use policy::{PeerWord, PolicyDocument, RuleDocument, SideDocument};

const API_VERSION: &str = "bulkhead/v1";
const KINDS: [&str; 3] = ["Segment", "Service", "Policy"];

/// One document. Parts with mistakes, already reported, are missing from it.
pub(crate) enum Document {
    Segment(SegmentDocument),
    Service(ServiceDocument),
    Policy(PolicyDocument),
    /// Cannot be read, but names something that others may refer to.
    Broken(String),
}

pub(crate) struct SegmentDocument {
    pub name: Word,
    pub selector: Selector,
    pub subnets: Vec<IpNet>,
}

pub(crate) struct ServiceDocument {
    pub name: Word,
    pub ports: Vec<PortWord>,
}

/// Whether a document is an inventory: those lie in one folder with policies, and are read on
/// their own.
fn is_inventory(node: &Node) -> bool {
    has(node, "hosts") && !has(node, "apiVersion") && !has(node, "kind")
}

/// Whether a document is meant as policy, right or wrong.
pub(crate) fn is_policy(node: &Node) -> bool {
    !has(node, "hosts") && has(node, "apiVersion") && has(node, "kind")
}

pub(crate) fn has(node: &Node, name: &str) -> bool {
    let Value::Map(entries) = &node.value else {
        return false;
    };
    entries
        .iter()
        .any(|(key, _)| matches!(&key.value, Value::Scalar { text, .. } if text == name))
}

/// Reads one document of a policy file; an inventory is passed over.
pub(crate) fn read(node: &Node, problems: &mut Collector<'_>) -> Option<Document> {
    let broken = || Some(Document::Broken(scalar_field(node, "name")?.text));
    let Value::Map(_) = node.value else {
        problems.report_help(
            node.place,
            format!("a document is a mapping, not {}", kind_of(node)),
            format!("start it with `apiVersion: {API_VERSION}` and `kind:`"),
        );
        return None;
    };
    if is_inventory(node) {
        return None;
    }
    let version = scalar_field(node, "apiVersion");
    match &version {
        None => problems.report_help(
            node.place,
            "a document needs a field `apiVersion`",
            format!("write `apiVersion: {API_VERSION}`"),
        ),
        Some(version) if version.text != API_VERSION => problems.report_help(
            version.place,
            format!("there is no apiVersion {}", quote(&version.text)),
            format!("write `apiVersion: {API_VERSION}`"),
        ),
        Some(_) => {}
    }
    let Some(kind) = scalar_field(node, "kind") else {
        let help = format!("the kinds are {}", one_of(&KINDS));
        problems.report_help(node.place, "a document needs a field `kind`", help);
        return broken();
    };
    match kind.text.as_str() {
        "Segment" => segment(node, problems).map(Document::Segment),
        "Service" => service(node, problems).map(Document::Service),
        "Policy" => policy::read(node, problems).map(Document::Policy),
        other => {
            let help = did_you_mean(other, KINDS)
                .unwrap_or_else(|| format!("the kinds are {}", one_of(&KINDS)));
            problems.report_help(
                kind.place,
                format!("there is no kind {}", quote(other)),
                help,
            );
            return broken();
        }
    }
    .or_else(broken)
}

/// A word of a mapping, before the mapping's kind is known.
pub(crate) fn scalar_field(node: &Node, name: &str) -> Option<Word> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    entries
        .iter()
        .find_map(|(key, value)| match (&key.value, &value.value) {
            (Value::Scalar { text: key, .. }, Value::Scalar { text, .. }) if key == name => {
                Some(Word {
                    text: text.clone(),
                    place: value.place,
                })
            }
            _ => None,
        })
}

/// Words that stand for peers that no label and no subnet names; no segment may take them.
const RESERVED_SEGMENTS: [&str; 5] = ["any", "world", "unmanaged", "controller", "quarantined"];

fn segment(node: &Node, problems: &mut Collector<'_>) -> Option<SegmentDocument> {
    let known = ["apiVersion", "kind", "name", "match", "subnets"];
    let fields = Fields::read(node, "a Segment", &known, problems)?;
    let name = values::name(&fields, "a Segment", problems);
    if let Some(name) = &name
        && RESERVED_SEGMENTS.contains(&name.text.as_str())
    {
        problems.report(
            name.place,
            format!("{} is a reserved word", quote(&name.text)),
        );
    }
    let labels = fields.get("match").map(|field| {
        let labels = values::labels(field.node, "`match`", problems);
        if labels.as_ref().is_some_and(Labels::is_empty) {
            problems.report_help(
                field.node.place,
                "an empty `match` would match every workload",
                "name at least one label, or leave the field out".to_owned(),
            );
        }
        labels.unwrap_or_default()
    });
    let subnets = fields
        .get("subnets")
        .map(|field| values::subnets(field.node, problems));
    if labels.is_none() && subnets.is_none() {
        problems.report_help(
            fields.place,
            "a Segment needs `match`, or `subnets`, or both",
            "write `match: { tier: db }` or `subnets: [10.1.30.0/24]`".to_owned(),
        );
    }
    Some(SegmentDocument {
        name: name?,
        selector: Selector::from(&labels.unwrap_or_default()),
        subnets: subnets.unwrap_or_default(),
    })
}

fn service(node: &Node, problems: &mut Collector<'_>) -> Option<ServiceDocument> {
    let known = ["apiVersion", "kind", "name", "ports"];
    let fields = Fields::read(node, "a Service", &known, problems)?;
    let name = values::name(&fields, "a Service", problems);
    if let Some(name) = &name {
        ports::check_service_name(name, problems);
    }
    let ports = fields
        .require("ports", "a Service", problems)
        .and_then(|field| {
            filled_list(
                field.node,
                "`ports`",
                "write [any] for every port",
                problems,
            )
        })
        .unwrap_or_default()
        .iter()
        .filter_map(|item| ports::literal(item, problems))
        .collect();
    Some(ServiceDocument { name: name?, ports })
}

/// The name in a document that is no YAML, found by its look: others may refer to it, and one
/// mistake should not be reported as many.
pub(crate) fn likely_name(text: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.trim_start_matches(['{', ' ']).strip_prefix("name:"))
        .map(|name| {
            name.split('#')
                .next()
                .unwrap_or(name)
                .trim()
                .trim_matches(['"', '\''])
        })
        .map(str::to_owned)
}
