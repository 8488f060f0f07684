//! Kubernetes manifests: network policies become policy, pods become workloads.
//!
//! What decides network policy is read strictly, as the API server would, so that nothing is
//! dropped in silence; what does not, most of a pod among it, passes.

mod admin;
mod merge;
mod network_policy;
mod object;
mod ports;
mod selector;
mod workloads;

pub(crate) use workloads::{is_replica, is_stand_in};

use std::collections::BTreeMap;

use crate::{
    parse::{
        Parsed,
        collector::{Collector, quote},
        document::{has, scalar_field},
        fields::{Fields, Word, list},
        kubernetes::{
            admin::Api,
            object::{Meta, Reader, given},
            selector::Segments,
            workloads::Workloads,
        },
        suggest::{did_you_mean, one_of},
        yaml::{Node, Place},
    },
    set::{OrderedPolicy, Policy, PolicySet},
    words::Tier,
};

/// The kinds of network policy, each with the version that is read.
const POLICY_KINDS: [(&str, &str); 4] = [
    ("NetworkPolicy", "networking.k8s.io/v1"),
    ("AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1"),
    (
        "BaselineAdminNetworkPolicy",
        "policy.networking.k8s.io/v1alpha1",
    ),
    ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2"),
];

/// What a manifest of policy has at its top.
const TOP: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// Whether a document is meant for Kubernetes, and not for Bulkhead with a mistake in it.
pub(crate) fn is_manifest(node: &Node) -> bool {
    let foreign = scalar_field(node, "apiVersion").is_some_and(|version| {
        !version.text.starts_with("bulkhead")
            && did_you_mean(&version.text, ["bulkhead/v1"]).is_none()
    });
    foreign && has(node, "kind")
}

/// What the manifests of all files say together.
#[derive(Default)]
pub(crate) struct Cluster {
    segments: Segments,
    /// By name, with the place of the name.
    policies: BTreeMap<String, (Place, Policy)>,
    ordered: Vec<Ordered>,
    workloads: Workloads,
}

/// A guardrail or baseline.
struct Ordered {
    tier: Tier,
    /// Of the priority, or where none is written, of the name.
    place: Place,
    policy: OrderedPolicy,
}

impl Cluster {
    /// Reads one manifest, or each of a list of them.
    pub fn read(&mut self, node: &Node, problems: &mut Collector<'_>) {
        self.manifest(node, None, problems);
    }

    /// The items of a typed list may leave their version and kind to the list.
    fn manifest(
        &mut self,
        node: &Node,
        inherited: Option<(&Word, &Word)>,
        problems: &mut Collector<'_>,
    ) {
        let version = scalar_field(node, "apiVersion").or_else(|| Some(inherited?.0.clone()));
        let kind = scalar_field(node, "kind").or_else(|| Some(inherited?.1.clone()));
        let (Some(version), Some(kind)) = (version, kind) else {
            problems.report(node.place, "a manifest needs `apiVersion` and `kind`");
            return;
        };
        if let Some(of) = kind.text.strip_suffix("List") {
            let of = Word {
                text: of.to_owned(),
                place: kind.place,
            };
            let inherited = (!of.text.is_empty()).then_some((&version, &of));
            self.items(node, inherited, problems);
            return;
        }
        let group = version.text.split_once('/').map_or("", |(group, _)| group);
        if group == "bulkhead" {
            problems.report_help(
                kind.place,
                "a Bulkhead document cannot be an item of a Kubernetes List",
                "give it a document of its own: `---` before it".to_owned(),
            );
            return;
        }
        match (kind.text.as_str(), version.text.as_str(), group) {
            ("Namespace", "v1", _) => self.workloads.namespace(node, problems),
            ("Pod", "v1", _) => self.workloads.pod(node, problems),
            (
                "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "CronJob",
                _,
                "apps" | "batch" | "extensions",
            ) => self.workloads.owner(node, &kind.text, problems),
            ("NetworkPolicy", "networking.k8s.io/v1", _) => self.network_policy(node, problems),
            ("AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1", _) => {
                self.ordered(node, Api::Admin, problems);
            }
            ("BaselineAdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1", _) => {
                self.ordered(node, Api::Baseline, problems);
            }
            ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2", _) => {
                self.ordered(node, Api::Cluster, problems);
            }
            _ if !has(node, "metadata") => problems.report_help(
                node.place,
                "a manifest needs a field `metadata`",
                "for a Bulkhead document write `apiVersion: bulkhead/v1`".to_owned(),
            ),
            _ => refuse_other_policy(&version, &kind, group, problems),
        }
    }

    fn items(
        &mut self,
        node: &Node,
        inherited: Option<(&Word, &Word)>,
        problems: &mut Collector<'_>,
    ) {
        let items = Fields::read_part(node, "a List", &["items"], problems)
            .and_then(|fields| given(&fields, "items"))
            .and_then(|field| list(field.node, "`items`", problems));
        for item in items.unwrap_or_default() {
            self.manifest(item, inherited, problems);
        }
    }

    fn network_policy(&mut self, node: &Node, problems: &mut Collector<'_>) {
        let what = "a NetworkPolicy";
        let Some((fields, meta)) = policy_object(node, what, problems) else {
            return;
        };
        let name = format!("{}/{}", meta.namespace, meta.name.text);
        let mut reader = Reader::new(&name, meta.name.place, &mut self.segments, problems);
        let Some(policy) = reader.network_policy(&fields, &meta) else {
            return;
        };
        if let Some((first, _)) = self.policies.get(&name) {
            report_twice(what, &name, meta.name.place, *first, problems);
        } else {
            self.policies.insert(name, (meta.name.place, policy));
        }
    }

    fn ordered(&mut self, node: &Node, api: Api, problems: &mut Collector<'_>) {
        let what = api.what();
        let Some((fields, meta)) = policy_object(node, what, problems) else {
            return;
        };
        let name = format!("{}/{}", api.resource(), meta.name.text);
        let mut reader = Reader::new(&name, meta.name.place, &mut self.segments, problems);
        let Some((tier, place, policy)) = reader.ordered(api, &fields, &meta) else {
            return;
        };
        let same = self
            .ordered
            .iter()
            .find(|ordered| ordered.policy.name == name);
        if let Some(first) = same {
            report_twice(what, &name, meta.name.place, first.place, problems);
        } else {
            self.ordered.push(Ordered {
                tier,
                place,
                policy,
            });
        }
    }

    /// The manifests' policies beside those of a set, and the manifests' workloads.
    pub fn join(self, set: PolicySet, problems: &mut Collector<'_>) -> Parsed {
        for (tier, others) in [
            (Tier::Guardrail, &set.guardrails),
            (Tier::Baseline, &set.baselines),
        ] {
            self.report_ties(tier, others, problems);
        }
        let mut manifests = PolicySet {
            segments: self.segments.into_vec(),
            policies: self
                .policies
                .into_values()
                .map(|(_, policy)| policy)
                .collect(),
            ..PolicySet::default()
        };
        for ordered in self.ordered {
            match ordered.tier {
                Tier::Baseline => manifests.baselines.push(ordered.policy),
                _ => manifests.guardrails.push(ordered.policy),
            }
        }
        Parsed {
            set: merge::merge(set, manifests),
            inventory: self.workloads.inventory(problems),
        }
    }

    /// Which of two policies of one priority comes first is nobody's to know.
    fn report_ties(&self, tier: Tier, others: &[OrderedPolicy], problems: &mut Collector<'_>) {
        let mut taken: BTreeMap<u32, String> = BTreeMap::new();
        for other in others {
            let rule = other.ingress.iter().chain(&other.egress).next();
            let place = rule.map(|rule| format!(", in {}:{}", rule.origin.file, rule.origin.line));
            let holder = format!("{}{}", quote(&other.name), place.unwrap_or_default());
            taken.entry(other.priority).or_insert(holder);
        }
        for ordered in self.ordered.iter().filter(|ordered| ordered.tier == tier) {
            let Ordered { place, policy, .. } = ordered;
            if let Some(holder) = taken.get(&policy.priority) {
                problems.report_help(
                    *place,
                    format!(
                        "{} has the priority {} of {holder}",
                        quote(&policy.name),
                        policy.priority
                    ),
                    format!("each {tier} needs a priority of its own: lower comes first"),
                );
            } else {
                let holder = format!("{}, in {}", quote(&policy.name), problems.line_of(*place));
                taken.insert(policy.priority, holder);
            }
        }
    }
}

/// The fields and the metadata of a manifest of policy.
fn policy_object<'n>(
    node: &'n Node,
    what: &str,
    problems: &mut Collector<'_>,
) -> Option<(Fields<'n>, Meta)> {
    let fields = Fields::read(node, what, &TOP, problems)?;
    let meta = Meta::read(&fields, what, problems)?;
    Some((fields, meta))
}

fn report_twice(what: &str, name: &str, place: Place, first: Place, problems: &mut Collector<'_>) {
    let message = format!(
        "there is {what} named {} already, in {}",
        quote(name),
        problems.line_of(first)
    );
    problems.report(place, message);
}

/// A network policy that is passed over would make every answer wrong: of another version, of
/// another maker, or misspelt. Any other kind passes.
fn refuse_other_policy(version: &Word, kind: &Word, group: &str, problems: &mut Collector<'_>) {
    let is_policy = kind.text.to_ascii_lowercase().contains("networkpolicy")
        || group.ends_with("networking.k8s.io")
            && did_you_mean(&kind.text, POLICY_KINDS.map(|(kind, _)| kind)).is_some();
    if !is_policy {
        return;
    }
    let same = POLICY_KINDS.iter().find(|(name, _)| *name == kind.text);
    let help = match same {
        Some((name, version)) => format!("{name} is read at {version}"),
        None => did_you_mean(&kind.text, POLICY_KINDS.map(|(kind, _)| kind)).unwrap_or_else(|| {
            let kinds = POLICY_KINDS.map(|(kind, _)| kind);
            format!("the network policies that are read are {}", one_of(&kinds))
        }),
    };
    let message = format!(
        "{} of {} is a network policy that cannot be read",
        quote(&kind.text),
        quote(&version.text)
    );
    problems.report_help(kind.place, message, help);
}
