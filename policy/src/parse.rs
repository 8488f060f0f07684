//! From YAML text to a policy set.
//!
//! A document is read in three steps. `yaml` makes a tree in which every node knows its place,
//! `document` checks what can be checked in one document, and `resolve` looks up names across
//! all files. Each step reports what it finds and goes on with the rest, so that an author sees
//! all mistakes at once.

pub(crate) mod collector;
mod document;
pub(crate) mod fields;
mod inventory;
pub(crate) mod kubernetes;
mod ports;
mod resolve;
mod selector;
pub(crate) mod suggest;
pub(crate) mod values;
pub(crate) mod yaml;

#[cfg(test)]
pub(crate) use document::KINDS;

use crate::{
    inventory::{Host, Inventory},
    parse::{
        collector::Collector,
        yaml::{Node, Place},
    },
    problem::Problems,
    set::PolicySet,
    source::SourceFile,
};

/// Bytes in one file. Larger ones are refused unread.
pub const MAX_FILE_BYTES: usize = 16 << 20;

/// Parses, resolves and checks a set of policy files. No files make the empty set; inventories
/// among them (`hosts:` without `kind:`) are passed over.
///
/// # Errors
/// All mistakes of all documents of all files at once, sorted by file and position.
pub fn parse(files: &[SourceFile]) -> Result<PolicySet, Problems> {
    let mut problems = Collector::new(files);
    let mut documents = Vec::new();
    for file in 0..files.len() {
        let (nodes, broken) = read_file(file, &mut problems);
        documents.extend(broken.into_iter().map(document::Document::Broken));
        documents.extend(
            nodes
                .iter()
                .filter_map(|node| document::read(node, &mut problems)),
        );
    }
    let set = resolve::resolve(documents, &mut problems);
    problems.finish(set)
}

/// What files of Bulkhead documents and Kubernetes manifests hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The policies of both.
    pub set: PolicySet,
    /// The pods, sorted by name. Bulkhead's inventories are files of their own: see
    /// [`Inventory::parse`] and [`Inventory::join`].
    pub inventory: Inventory,
}

impl Parsed {
    /// How many workloads have only an address that stands in for one.
    #[must_use]
    pub fn stand_ins(&self) -> usize {
        let stands_in = |host: &&Host| host.addresses.iter().copied().all(kubernetes::is_stand_in);
        self.inventory.hosts.iter().filter(stands_in).count()
    }
}

/// Parses, resolves and checks files in which Bulkhead documents and Kubernetes manifests are
/// mixed: as [`parse`], and the manifests become policies and workloads.
///
/// Of Kubernetes these are read: NetworkPolicy (`networking.k8s.io/v1`), AdminNetworkPolicy and
/// BaselineAdminNetworkPolicy (`policy.networking.k8s.io/v1alpha1`), ClusterNetworkPolicy
/// (`policy.networking.k8s.io/v1alpha2`), Namespace, Pod, Deployment, StatefulSet, DaemonSet,
/// ReplicaSet, Job and CronJob, alone or in a List. Any other kind of network policy is an error;
/// all that is neither policy nor workload is passed over.
///
/// - A workload is named `namespace/name`. It has the labels of its pod, those of its namespace as
///   `namespace:KEY`, and its named ports. Policies of Kubernetes select pods, never Bulkhead's
///   hosts; segments of Bulkhead may select either.
/// - Pods on their host's network, and pods that have ended, are no workloads: no policy selects
///   them, and their addresses are not theirs alone.
/// - A Deployment or other owner of pods is one workload, made from its template, and where it makes
///   several pods a second one, `namespace/name_2`, for what they say to each other; unless a pod that
///   it owns (by `ownerReferences`) or the owner that it has itself is there. Where a workload has
///   its name already, it is named `namespace/kind/name`.
/// - A workload without an address, as in manifests that no cluster has seen, gets a stand-in from
///   240.0.0.0/4, in the order of names, so that it can be asked for. Only a subnet as wide as
///   0.0.0.0/0 holds a stand-in: rules by address want real addresses.
/// - A selector becomes a segment with a name such as `payments/(app: web)`. A label schema takes
///   in the keys of such selectors, so that it never changes what they mean.
/// - AdminNetworkPolicy and the tier Admin become guardrails, NetworkPolicy becomes policy, the tier
///   Baseline and BaselineAdminNetworkPolicy become baselines; the last, which has no priority,
///   comes after all others.
/// - A Service is not an address of a pod, and is not modelled: ask for the pods behind it. Nor is
///   the exemption that a cluster gives to a pod's own node.
///
/// # Errors
/// All mistakes of all documents of all files at once, sorted by file and position.
pub fn parse_mixed(files: &[SourceFile]) -> Result<Parsed, Problems> {
    let mut problems = Collector::new(files);
    let mut documents = Vec::new();
    let mut cluster = kubernetes::Cluster::default();
    for file in 0..files.len() {
        let (nodes, broken) = read_file(file, &mut problems);
        documents.extend(broken.into_iter().map(document::Document::Broken));
        for node in &nodes {
            if kubernetes::is_manifest(node) {
                cluster.read(node, &mut problems);
            } else {
                documents.extend(document::read(node, &mut problems));
            }
        }
    }
    let set = resolve::resolve(documents, &mut problems);
    let parsed = cluster.join(set, &mut problems);
    problems.finish(parsed)
}

/// The documents of a file that are YAML, and the names that those which are not seem to have.
pub(crate) fn read_file(file: usize, problems: &mut Collector<'_>) -> (Vec<Node>, Vec<String>) {
    let content = problems.files[file].content.as_str();
    if content.len() > MAX_FILE_BYTES {
        let place = Place {
            file,
            line: 1,
            column: 1,
            width: 1,
        };
        let message = format!("the file has more than {MAX_FILE_BYTES} bytes");
        problems.report_help(place, message, "split it into several files".to_owned());
        return (Vec::new(), Vec::new());
    }
    let (mut nodes, mut broken) = (Vec::new(), Vec::new());
    for piece in yaml::documents(content) {
        match yaml::read(&piece, file) {
            Ok(node) => nodes.extend(node),
            Err((place, message)) => {
                problems.report(place, message);
                broken.extend(document::likely_name(piece.text));
            }
        }
    }
    (nodes, broken)
}
