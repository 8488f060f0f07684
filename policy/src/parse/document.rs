//! Documents as authors write them, checked one by one; names are not resolved yet.

mod assertion;
mod exception;
mod isolation;
mod ordered;
mod policy;
mod schema;

use ipnet::IpNet;

use crate::parse::{
    collector::{Collector, quote},
    fields::{Fields, Word, filled_list, kind_of},
    ports::{self, PortWord},
    selector::{self, SelectorDocument},
    suggest::{did_you_mean, one_of},
    values,
    yaml::{Node, Value},
};

pub(crate) use assertion::AssertionDocument;
pub(crate) use exception::ExceptionDocument;
pub(crate) use isolation::{ExceptDocument, IsolationDocument};
pub(crate) use ordered::{OrderedDocument, OrderedRuleDocument, Priority};
pub(crate) use policy::{PeerWord, PolicyDocument, RuleDocument, SideDocument};
pub(crate) use schema::SchemaDocument;

const API_VERSION: &str = "bulkhead/v1";
/// What may stand behind `kind:`.
pub(crate) const KINDS: [&str; 9] = [
    "Segment",
    "Service",
    "Policy",
    "Guardrail",
    "Baseline",
    "Isolation",
    "Exception",
    "Assertion",
    "LabelSchema",
];

/// One document. Parts with mistakes, already reported, are missing from it.
pub(crate) enum Document {
    Segment(SegmentDocument),
    Service(ServiceDocument),
    Policy(PolicyDocument),
    Guardrail(OrderedDocument),
    Baseline(OrderedDocument),
    Isolation(IsolationDocument),
    Exception(ExceptionDocument),
    Assertion(AssertionDocument),
    LabelSchema(SchemaDocument),
    /// Cannot be read, but names something that others may refer to.
    Broken(String),
}

pub(crate) struct SegmentDocument {
    pub name: Word,
    pub selector: SelectorDocument,
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

/// Whether an `apiVersion` is one of Kubernetes or of what extends it: `v1`, `apps/v1`, ...
fn is_kubernetes(version: &str) -> bool {
    version == "v1"
        || ["apps/", "batch/"]
            .iter()
            .any(|group| version.starts_with(group))
        || [".k8s.io/", "projectcalico.org/"]
            .iter()
            .any(|group| version.contains(group))
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
        Some(version) if is_kubernetes(&version.text) => {
            // Once, and nothing of what each of its fields is not.
            problems.report_help(
                version.place,
                "this is a Kubernetes manifest, not Bulkhead policy",
                "`bulkhead policy import --from kubernetes` writes it as Bulkhead policy"
                    .to_owned(),
            );
            return None;
        }
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
        "Guardrail" => ordered::read(node, "a Guardrail", problems).map(Document::Guardrail),
        "Baseline" => ordered::read(node, "a Baseline", problems).map(Document::Baseline),
        "Isolation" => isolation::read(node, problems).map(Document::Isolation),
        "Exception" => exception::read(node, problems).map(Document::Exception),
        "Assertion" => assertion::read(node, problems).map(Document::Assertion),
        "LabelSchema" => schema::read(node, problems).map(Document::LabelSchema),
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
    let selector = fields
        .get("match")
        .map(|field| selector::read(field.node, problems).unwrap_or_default());
    let subnets = fields
        .get("subnets")
        .map(|field| values::subnets(field.node, problems));
    if selector.is_none() && subnets.is_none() {
        problems.report_help(
            fields.place,
            "a Segment needs `match`, or `subnets`, or both",
            "write `match: { tier: db }` or `subnets: [10.1.30.0/24]`".to_owned(),
        );
    }
    Some(SegmentDocument {
        name: name?,
        selector: selector.unwrap_or_default(),
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
