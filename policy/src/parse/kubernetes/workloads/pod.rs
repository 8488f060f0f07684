//! What of a pod's spec and status matters to network policy.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    inventory::{Labels, PORT_SCOPE},
    parse::{
        collector::{Collector, quote},
        fields::{Fields, boolean, word},
        kubernetes::{
            object::{given, items},
            ports::{PROTOCOLS, port_name},
        },
        suggest::one_of,
        values,
        yaml::{Node, Place, ScalarKind, Value},
    },
};

/// What matters of a pod or of a pod template.
#[derive(Clone, Default)]
pub(super) struct PodSpec {
    pub labels: Labels,
    /// The numbers of each named port, by the label that says so.
    pub ports: BTreeMap<String, BTreeSet<u16>>,
    pub host_network: bool,
}

/// What the cluster says of a pod.
#[derive(Default)]
pub(super) struct Status {
    pub has_ended: bool,
    pub addresses: Vec<(IpAddr, Place)>,
}

impl Status {
    pub fn read(pod: &Fields<'_>, problems: &mut Collector<'_>) -> Self {
        let known = ["phase", "podIP", "podIPs"];
        let Some(fields) = given(pod, "status")
            .and_then(|field| Fields::read_part(field.node, "`status`", &known, problems))
        else {
            return Self::default();
        };
        let phase = given(&fields, "phase")
            .and_then(|field| word(field.node, "a phase", problems))
            .map(|phase| phase.text);
        let has_ended = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
        let mut nodes: Vec<&Node> = given(&fields, "podIP")
            .map(|field| field.node)
            .into_iter()
            .collect();
        for item in items(&fields, "podIPs", problems) {
            let known = ["ip"];
            let address = Fields::read_part(item, "an item of `podIPs`", &known, problems);
            nodes.extend(address.and_then(|fields| Some(given(&fields, "ip")?.node)));
        }
        let addresses = nodes
            .into_iter()
            // A pod that has none yet has an empty one.
            .filter(|node| !matches!(&node.value, Value::Scalar { text, .. } if text.is_empty()))
            .filter_map(|node| Some((values::address(node, problems)?, node.place)))
            .collect();
        Self {
            has_ended,
            addresses,
        }
    }
}

/// Reads the spec of a pod or of a template with these labels.
pub(super) fn pod_spec(
    fields: &Fields<'_>,
    labels: Labels,
    problems: &mut Collector<'_>,
) -> PodSpec {
    let mut spec = PodSpec {
        labels,
        ..PodSpec::default()
    };
    let known = ["hostNetwork", "containers", "initContainers"];
    let Some(fields) = given(fields, "spec")
        .and_then(|field| Fields::read_part(field.node, "`spec`", &known, problems))
    else {
        return spec;
    };
    spec.host_network = given(&fields, "hostNetwork")
        .and_then(|field| boolean(field.node, "`hostNetwork`", problems))
        .unwrap_or_default();
    for list in ["containers", "initContainers"] {
        for item in items(&fields, list, problems) {
            let known = ["ports", "restartPolicy"];
            let Some(container) = Fields::read_part(item, "a container", &known, problems) else {
                continue;
            };
            // A container that ends before the others start serves nobody; a sidecar stays.
            let stays = list == "containers"
                || given(&container, "restartPolicy").is_some_and(
                    |field| matches!(&field.node.value, Value::Scalar { text, .. } if text == "Always"),
                );
            if !stays {
                continue;
            }
            for port in items(&container, "ports", problems) {
                if let Some((label, number)) = named_port(port, problems) {
                    spec.ports.entry(label).or_default().insert(number);
                }
            }
        }
    }
    spec
}

/// The label and the number of a container's port, if it has a name.
fn named_port(node: &Node, problems: &mut Collector<'_>) -> Option<(String, u16)> {
    let known = ["name", "containerPort", "protocol"];
    let fields = Fields::read_part(node, "a port", &known, problems)?;
    let name = port_name(given(&fields, "name")?.node, problems)?;
    let slot = match given(&fields, "protocol") {
        None => PROTOCOLS[0].1,
        Some(field) => {
            let protocol = word(field.node, "a protocol", problems)?;
            let known = PROTOCOLS.iter().find(|(known, _)| *known == protocol.text);
            let Some((_, slot)) = known else {
                let message = format!("{} is not a protocol", quote(&protocol.text));
                let help = format!(
                    "a protocol is one of {}",
                    one_of(&PROTOCOLS.map(|(name, _)| name))
                );
                problems.report_help(protocol.place, message, help);
                return None;
            };
            *slot
        }
    };
    let number = given(&fields, "containerPort");
    let number = number.and_then(|field| match &field.node.value {
        Value::Scalar {
            text,
            kind: ScalarKind::Number,
        } => text.parse().ok().filter(|port: &u16| *port > 0),
        _ => None,
    });
    if number.is_none() {
        let message = "a named port needs a `containerPort` from 1 to 65535";
        problems.report(node.place, message);
    }
    Some((format!("{PORT_SCOPE}{slot}/{name}"), number?))
}
