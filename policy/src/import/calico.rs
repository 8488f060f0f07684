//! Policy of Calico: GlobalNetworkPolicy and HostEndpoint, as `projectcalico.org/v3` or
//! `crd.projectcalico.org/v1`.
//!
//! Calico asks the policies that select an endpoint by order, and each policy's rules in turn; the
//! first that matches decides. If none does, an endpoint that some policy selects is denied; one
//! that none selects, or whose rule passes, is what its profiles say. So each policy becomes a
//! guardrail of the same order, and a guardrail after all of them denies what the endpoints that
//! were selected have left, one for each direction. A host endpoint without a profile is denied the
//! rest by a baseline, through the label `projectcalico.org/profile: none` that its host gets.
//!
//! `all()` is every workload without the label `projectcalico.org/excluded`, which nobody has.

mod endpoint;
mod policy;
mod rule;
mod selector;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    host_policy::Origin,
    import::{
        Imported,
        object::{field, items, start, text},
        segments::Segments,
    },
    inventory::{Inventory, Labels},
    parse::{
        collector::{Collector, quote},
        fields::Fields,
        read_file,
        yaml::{Node, Place},
    },
    problem::Problems,
    render::tidy,
    selector::Selector,
    set::{OrderedPolicy, OrderedRule, Peers, PolicySet, Ports, SegmentId},
    source::SourceFile,
    words::{Action, Direction, Mode},
};

use endpoint::{NO_PROFILE, PROFILE};
use policy::GlobalPolicy;

const VERSIONS: [&str; 2] = ["projectcalico.org/v3", "crd.projectcalico.org/v1"];
/// The last priority.
const LAST: u32 = 65_535;
/// Between two priorities, where the orders themselves cannot be priorities.
const STEP: u32 = 10;

/// Imports Calico resources, many documents a file, lists of them too. With `all_interfaces` a
/// HostEndpoint of one interface stands for its whole node; without, it is an error.
///
/// # Errors
/// Every mistake and every field that Bulkhead cannot express, at once.
pub fn import(files: &[SourceFile], all_interfaces: bool) -> Result<Imported, Problems> {
    let mut problems = Collector::new(files);
    let nodes: Vec<Node> = (0..files.len())
        .flat_map(|file| read_file(file, &mut problems).0)
        .collect();
    let mut reader = Reader {
        problems,
        segments: Segments::default(),
        policies: Vec::new(),
        endpoints: endpoint::Endpoints::default(),
        all_interfaces,
        places: BTreeMap::new(),
    };
    for node in &nodes {
        reader.document(node);
    }
    if reader.places.is_empty() && reader.problems.is_empty() {
        reader.problems.report_help(
            start(0),
            "no Calico policy here",
            "give GlobalNetworkPolicy and HostEndpoint, as `calicoctl get ... -o yaml` prints them"
                .to_owned(),
        );
    }
    let (set, inventory) = reader.set();
    reader.problems.finish(Imported {
        set: tidy(set).set,
        inventory,
    })
}

struct Reader<'f> {
    problems: Collector<'f>,
    segments: Segments,
    policies: Vec<GlobalPolicy>,
    endpoints: endpoint::Endpoints,
    all_interfaces: bool,
    /// Where each resource is named, by kind and name.
    places: BTreeMap<(String, String), Place>,
}

impl Reader<'_> {
    fn document(&mut self, node: &Node) {
        let known = ["apiVersion", "kind", "metadata", "spec", "status", "items"];
        let Some(fields) = Fields::read(node, "a Calico resource", &known, &mut self.problems)
        else {
            return;
        };
        let kind = text(node, "kind").unwrap_or_default();
        if kind == "List" || fields.get("items").is_some() {
            for item in items(&fields, "items", &mut self.problems) {
                self.document(item);
            }
            return;
        }
        let version = text(node, "apiVersion").unwrap_or_default();
        if !VERSIONS.contains(&version) {
            let place = field(node, "apiVersion").map_or(node.place, |version| version.place);
            self.problems.report_help(
                place,
                format!("there is no Calico apiVersion {}", quote(version)),
                format!("it is `{}` or `{}`", VERSIONS[0], VERSIONS[1]),
            );
            return;
        }
        if !["GlobalNetworkPolicy", "HostEndpoint"].contains(&kind) {
            let place = field(node, "kind").map_or(node.place, |kind| kind.place);
            self.problems.report_help(
                place,
                format!("the kind {} cannot be imported from Calico", quote(kind)),
                "GlobalNetworkPolicy and HostEndpoint can; take the others out of the files"
                    .to_owned(),
            );
            return;
        }
        let name = field(node, "metadata").and_then(|metadata| field(metadata, "name"));
        let Some((name, place)) = name.and_then(|name| Some((scalar(name)?, name.place))) else {
            self.problems.report(
                node.place,
                format!("a {kind} needs `metadata` with a `name`"),
            );
            return;
        };
        if let Some(first) = self
            .places
            .insert((kind.to_owned(), name.to_owned()), place)
        {
            let message = format!(
                "there is another {kind} named {}, in {}",
                quote(name),
                self.problems.line_of(first)
            );
            self.problems.report(place, message);
        }
        let Some(spec) = fields.require("spec", &format!("a {kind}"), &mut self.problems) else {
            return;
        };
        if kind == "HostEndpoint" {
            self.endpoint(name, place, node, spec.node);
        } else {
            self.policy(name, place, spec.node);
        }
    }

    fn origin(&self, rule: String, place: Place) -> Arc<Origin> {
        Arc::new(Origin {
            rule,
            file: self.problems.file(place).path.clone(),
            line: place.line,
        })
    }

    /// Everything that was read, as a set and an inventory.
    fn set(&mut self) -> (PolicySet, Inventory) {
        let mut policies = std::mem::take(&mut self.policies);
        policies.sort_by(|a, b| {
            a.order
                .total_cmp(&b.order)
                .then_with(|| a.name.cmp(&b.name))
        });
        let priorities = self.priorities(&policies);
        let mut selected = [BTreeSet::new(), BTreeSet::new()];
        for policy in &policies {
            for direction in Direction::ALL {
                if policy.rules[direction as usize].is_some() {
                    selected[direction as usize].extend(policy.applies_to.iter().copied());
                }
            }
        }
        let mut guardrails: Vec<OrderedPolicy> = policies
            .into_iter()
            .zip(priorities)
            .map(|(policy, priority)| {
                let [ingress, egress] = policy.rules.map(Option::unwrap_or_default);
                OrderedPolicy {
                    name: policy.name,
                    priority,
                    applies_to: policy.applies_to,
                    ingress,
                    egress,
                    mode: Mode::Enforce,
                }
            })
            .collect();
        let [ingress, egress] = selected.map(|ids| ids.into_iter().collect::<Vec<_>>());
        if ingress == egress {
            guardrails.push(deny("calico-end", LAST, ingress, &Direction::ALL));
        } else {
            guardrails.push(deny(
                "calico-end-ingress",
                LAST - 1,
                ingress,
                &[Direction::Ingress],
            ));
            guardrails.push(deny(
                "calico-end-egress",
                LAST,
                egress,
                &[Direction::Egress],
            ));
        }
        guardrails.retain(|policy| !policy.applies_to.is_empty());
        let inventory = std::mem::take(&mut self.endpoints).inventory();
        let mut baselines = Vec::new();
        if inventory
            .hosts
            .iter()
            .any(|host| host.labels.contains_key(PROFILE))
        {
            let label = Labels::from([(PROFILE.to_owned(), NO_PROFILE.to_owned())]);
            let origin = Arc::new(Origin::unwritten("calico-no-profile"));
            let id = self
                .segments
                .id(&Selector::from(&label), "calico-no-profile", &origin);
            baselines.push(deny("calico-no-profile", LAST, vec![id], &Direction::ALL));
        }
        let set = PolicySet {
            segments: std::mem::take(&mut self.segments).into_vec(),
            guardrails,
            baselines,
            ..PolicySet::default()
        };
        (set, inventory)
    }

    /// The orders, if they are priorities as they stand, and steps after them for policies without
    /// one; otherwise steps for all.
    fn priorities(&mut self, policies: &[GlobalPolicy]) -> Vec<u32> {
        let last = LAST - 2;
        if let Some(policy) = policies.get(last as usize) {
            let message = format!("there are more policies than {last} priorities");
            self.problems.report(policy.place, message);
        }
        let mut before = 0;
        let kept: Vec<u32> = policies
            .iter()
            .map_while(|policy| {
                let order = policy.order;
                let priority = if order.is_infinite() {
                    before + STEP
                } else if order.fract() == 0.0 && (1.0..=f64::from(last)).contains(&order) {
                    order as u32
                } else {
                    return None;
                };
                let fits = (before + 1..=last).contains(&priority);
                before = priority;
                fits.then_some(priority)
            })
            .collect();
        if kept.len() == policies.len() {
            return kept;
        }
        let step = if policies.len() < (last / STEP) as usize {
            STEP
        } else {
            1
        };
        (1..)
            .map(|index: u32| index.saturating_mul(step))
            .take(policies.len())
            .collect()
    }
}

/// Denies everything in these directions.
fn deny(
    name: &str,
    priority: u32,
    applies_to: Vec<SegmentId>,
    directions: &[Direction],
) -> OrderedPolicy {
    let rules = |direction: Direction| {
        let rule = OrderedRule {
            action: Action::Deny,
            peers: Peers::Any,
            ports: Ports::Any,
            log: false,
            origin: Arc::new(Origin::unwritten(&format!("{name}/{direction}[0]"))),
        };
        directions
            .contains(&direction)
            .then_some(rule)
            .into_iter()
            .collect()
    };
    OrderedPolicy {
        name: name.to_owned(),
        priority,
        applies_to,
        ingress: rules(Direction::Ingress),
        egress: rules(Direction::Egress),
        mode: Mode::Enforce,
    }
}

fn scalar(node: &Node) -> Option<&str> {
    match &node.value {
        crate::parse::yaml::Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}
