//! Pods, what owns them, and their namespaces: the inventory.

mod pod;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    inventory::{Host, HostName, Inventory, Labels, NAMESPACE_SCOPE},
    parse::{
        collector::{Collector, quote},
        fields::{Fields, Word},
        kubernetes::{
            object::{Meta, Owner, given, labels},
            selector::NAMESPACE_NAME,
            workloads::pod::{PodSpec, Status, pod_spec},
        },
        yaml::{Node, Place, Value},
    },
};

/// What the name of a second pod of an owner ends in: no name of Kubernetes has it.
const REPLICA: &str = "_2";

/// Whether a workload is the second of those that one owner makes.
pub(crate) fn is_replica(HostName(name): &HostName) -> bool {
    name.ends_with(REPLICA)
}

/// Whether an address only stands in for one that is not known.
pub(crate) fn is_stand_in(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.to_bits() >= FIRST_STAND_IN)
}

/// The first address of 240.0.0.0/4 that stands in for one that is not known: reserved, and nobody's
/// (RFC 1112, section 4).
const FIRST_STAND_IN: u32 = 0xf000_0001;

/// What the manifests say of workloads.
#[derive(Default)]
pub(super) struct Workloads {
    namespaces: BTreeMap<String, (Place, Labels)>,
    /// By `namespace/name`, in the order of the files.
    pods: Vec<Workload>,
    /// Each with its kind.
    owners: Vec<(String, Workload)>,
    /// The owners of several pods, by place.
    several: BTreeSet<Place>,
}

#[derive(Clone)]
struct Workload {
    name: Word,
    namespace: String,
    owners: Vec<Owner>,
    spec: PodSpec,
    addresses: Vec<(IpAddr, Place)>,
}

/// Namespace, kind and name.
type Key = (String, String, String);

fn key(namespace: &str, kind: &str, name: &str) -> Key {
    (namespace.to_owned(), kind.to_owned(), name.to_owned())
}

struct KnownOwners {
    /// Those in the files.
    places: BTreeMap<Key, Place>,
    /// Those that own a pod in the files.
    with_pods: BTreeSet<Key>,
}

/// Who owns a pod's owner, told by names, as that one is seldom in the files: a Deployment names its
/// ReplicaSets for the hash of their template, a CronJob its Jobs for the minute.
fn owner_of_owner<'a>(kind: &str, name: &'a str, pod: &Labels) -> Option<(&'static str, &'a str)> {
    let (owner, suffix) = name.rsplit_once('-')?;
    match kind {
        "ReplicaSet" => (pod.get("pod-template-hash").map(String::as_str) == Some(suffix))
            .then_some(("Deployment", owner)),
        "Job" => {
            let is_minute = suffix.len() >= 8 && suffix.bytes().all(|byte| byte.is_ascii_digit());
            is_minute.then_some(("CronJob", owner))
        }
        _ => None,
    }
}

impl Workload {
    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name.text)
    }
}

impl Workloads {
    pub fn namespace(&mut self, node: &Node, problems: &mut Collector<'_>) {
        let Some(meta) = Fields::read_part(node, "a Namespace", &["metadata"], problems)
            .and_then(|fields| Meta::read(&fields, "a Namespace", problems))
        else {
            return;
        };
        let Word { text, place } = meta.name;
        match self.namespaces.get(&text) {
            Some((first, _)) => report_twice("Namespace", &text, place, *first, problems),
            None => {
                self.namespaces.insert(text, (place, meta.labels));
            }
        }
    }

    pub fn pod(&mut self, node: &Node, problems: &mut Collector<'_>) {
        let known = ["metadata", "spec", "status"];
        let Some(fields) = Fields::read_part(node, "a Pod", &known, problems) else {
            return;
        };
        let Some(meta) = Meta::read(&fields, "a Pod", problems) else {
            return;
        };
        let status = Status::read(&fields, problems);
        let spec = pod_spec(&fields, meta.labels, problems);
        if spec.host_network || status.has_ended {
            return;
        }
        self.pods.push(Workload {
            name: meta.name,
            namespace: meta.namespace,
            owners: meta.owners,
            spec,
            addresses: status.addresses,
        });
    }

    /// A Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or CronJob.
    pub fn owner(&mut self, node: &Node, kind: &str, problems: &mut Collector<'_>) {
        let known = ["metadata", "spec"];
        let Some(fields) = Fields::read_part(node, "a workload", &known, problems) else {
            return;
        };
        let Some(meta) = Meta::read(&fields, "a workload", problems) else {
            return;
        };
        let steps: &[&str] = match kind {
            "CronJob" => &["spec", "jobTemplate", "spec", "template"],
            _ => &["spec", "template"],
        };
        let mut template = node;
        for step in steps {
            let Some(fields) = Fields::read_part(template, "a workload", &[step], problems) else {
                return;
            };
            let Some(field) = given(&fields, step) else {
                let message = format!("a {kind} needs `{}`", steps.join("."));
                problems.report(fields.place, message);
                return;
            };
            template = field.node;
        }
        let known = ["metadata", "spec"];
        let Some(fields) = Fields::read_part(template, "`template`", &known, problems) else {
            return;
        };
        let mut template_labels = given(&fields, "metadata")
            .and_then(|field| Fields::read_part(field.node, "`metadata`", &["labels"], problems))
            .map(|metadata| labels(&metadata, problems))
            .unwrap_or_default();
        if kind == "Job" {
            // The controller's own labels, which policies select by.
            for key in ["job-name", "batch.kubernetes.io/job-name"] {
                template_labels.insert(key.to_owned(), meta.name.text.clone());
            }
        }
        let spec = pod_spec(&fields, template_labels, problems);
        if makes_several(node, kind) {
            self.several.insert(meta.name.place);
        }
        let workload = Workload {
            name: meta.name,
            namespace: meta.namespace,
            owners: meta.owners,
            spec,
            addresses: Vec::new(),
        };
        self.owners.push((kind.to_owned(), workload));
    }

    fn known_owners(&self, problems: &mut Collector<'_>) -> KnownOwners {
        let mut places: BTreeMap<Key, Place> = BTreeMap::new();
        for (kind, owner) in &self.owners {
            let (key, place) = (
                key(&owner.namespace, kind, &owner.name.text),
                owner.name.place,
            );
            match places.get(&key) {
                Some(first) => report_twice(kind, &owner.full_name(), place, *first, problems),
                None => {
                    places.insert(key, place);
                }
            }
        }
        let mut with_pods = BTreeSet::new();
        for pod in &self.pods {
            for (kind, name) in &pod.owners {
                with_pods.insert(key(&pod.namespace, kind, name));
                if let Some((kind, name)) = owner_of_owner(kind, name, &pod.spec.labels) {
                    with_pods.insert(key(&pod.namespace, kind, name));
                }
            }
        }
        KnownOwners { places, with_pods }
    }

    /// All of them, sorted by name; those without an address with a stand-in.
    pub fn inventory(self, problems: &mut Collector<'_>) -> Inventory {
        let known = self.known_owners(problems);
        let mut hosts: BTreeMap<String, (Place, Workload)> = BTreeMap::new();
        for pod in self.pods {
            let name = pod.full_name();
            match hosts.get(&name) {
                Some((first, _)) => report_twice("Pod", &name, pod.name.place, *first, problems),
                None => {
                    hosts.insert(name, (pod.name.place, pod));
                }
            }
        }
        for (kind, owner) in self.owners {
            // Those that it owns, or the one that owns it, say the same more exactly.
            let has_pods =
                known
                    .with_pods
                    .contains(&key(&owner.namespace, &kind, &owner.name.text));
            let is_owned = owner.owners.iter().any(|(kind, name)| {
                let key = key(&owner.namespace, kind, name);
                known.places.contains_key(&key)
            });
            if has_pods || is_owned || owner.spec.host_network {
                continue;
            }
            let mut name = owner.full_name();
            if hosts.contains_key(&name) {
                let kind = kind.to_ascii_lowercase();
                name = format!("{}/{kind}/{}", owner.namespace, owner.name.text);
            }
            if self.several.contains(&owner.name.place) {
                let second = format!("{name}{REPLICA}");
                hosts.insert(second, (owner.name.place, owner.clone()));
            }
            hosts
                .entry(name)
                .or_insert_with(|| (owner.name.place, owner));
        }
        report_shared_addresses(&hosts, problems);
        let mut stand_ins = stand_ins(&hosts);
        let namespaces = &self.namespaces;
        let hosts = hosts.into_iter().map(|(name, (_, workload))| {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for (address, _) in &workload.addresses {
                if !addresses.contains(address) {
                    addresses.push(*address);
                }
            }
            if addresses.is_empty() {
                addresses.extend(stand_ins.next());
            }
            Host {
                name: HostName(name),
                addresses,
                labels: all_labels(workload, namespaces),
                quarantined: false,
            }
        });
        Inventory {
            hosts: hosts.collect(),
        }
    }
}

/// Whether an owner makes several pods, which talk to each other over the network.
fn makes_several(node: &Node, kind: &str) -> bool {
    let steps: &[&str] = match kind {
        // One on each node.
        "DaemonSet" => return true,
        "Job" => &["spec", "parallelism"],
        "CronJob" => &["spec", "jobTemplate", "spec", "parallelism"],
        _ => &["spec", "replicas"],
    };
    let value = (steps.iter()).try_fold(node, |node, step| field(node, step));
    value.is_some_and(|node| match &node.value {
        Value::Scalar { text, .. } => text.parse::<u32>().is_ok_and(|pods| pods > 1),
        _ => false,
    })
}

/// A field of a mapping.
fn field<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let named =
        |(key, _): &&(Node, Node)| matches!(&key.value, Value::Scalar { text, .. } if text == name);
    entries.iter().find(named).map(|(_, value)| value)
}

/// The labels that policy sees: the pod's, its namespace's and its named ports.
fn all_labels(workload: Workload, namespaces: &BTreeMap<String, (Place, Labels)>) -> Labels {
    let Workload {
        namespace, spec, ..
    } = workload;
    let mut labels = spec.labels;
    let of_namespace = namespaces.get(&namespace).map(|(_, labels)| labels);
    for (key, value) in of_namespace.into_iter().flatten() {
        labels.insert(format!("{NAMESPACE_SCOPE}{key}"), value.clone());
    }
    // The cluster sets this one itself.
    labels.insert(NAMESPACE_NAME.to_owned(), namespace);
    for (label, numbers) in spec.ports {
        let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
        labels.insert(label, numbers.join(","));
    }
    labels
}

fn report_shared_addresses(
    hosts: &BTreeMap<String, (Place, Workload)>,
    problems: &mut Collector<'_>,
) {
    let mut held: BTreeMap<IpAddr, (&str, Place)> = BTreeMap::new();
    for (name, (_, workload)) in hosts {
        for (address, place) in &workload.addresses {
            match held.get(address) {
                Some((holder, first)) if *holder != name => {
                    let message = format!(
                        "{address} is also an address of {}, in {}",
                        quote(holder),
                        problems.line_of(*first)
                    );
                    problems.report(*place, message);
                }
                _ => {
                    held.insert(*address, (name, *place));
                }
            }
        }
    }
}

/// Addresses that no workload has.
fn stand_ins(hosts: &BTreeMap<String, (Place, Workload)>) -> impl Iterator<Item = IpAddr> + use<> {
    let held: BTreeSet<IpAddr> = hosts
        .values()
        .flat_map(|(_, workload)| workload.addresses.iter().map(|(address, _)| *address))
        .collect();
    (FIRST_STAND_IN..u32::MAX)
        .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
        .filter(move |address| !held.contains(address))
}

fn report_twice(kind: &str, name: &str, place: Place, first: Place, problems: &mut Collector<'_>) {
    let message = format!(
        "there is another {kind} {}, in {}",
        quote(name),
        problems.line_of(first)
    );
    problems.report(place, message);
}
