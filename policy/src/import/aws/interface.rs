//! Network interfaces as hosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    import::{
        aws::{MEMBER, group_id},
        object::{field, is_mapping, refuse, text},
    },
    inventory::{Host, HostName, Inventory, Labels},
    parse::{
        collector::{Collector, quote},
        fields::list,
        values::address,
        yaml::{Node, Place, Value},
    },
};

/// The interfaces as hosts, sorted by name. One is named by its instance, and by itself too where
/// the instance has several.
pub(super) fn inventory(
    nodes: &[&Node],
    groups: &BTreeSet<&str>,
    problems: &mut Collector<'_>,
) -> Inventory {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in nodes.iter().filter_map(|node| instance(node)) {
        *counts.entry(instance).or_default() += 1;
    }
    let mut holders: BTreeMap<IpAddr, Place> = BTreeMap::new();
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    for node in nodes {
        if !is_mapping(node, "a network interface", problems) {
            continue;
        }
        let Some(id) = text(node, "NetworkInterfaceId") else {
            problems.report(
                node.place,
                "a network interface needs a field `NetworkInterfaceId`",
            );
            continue;
        };
        let name = match instance(node) {
            Some(instance) if counts.get(instance) == Some(&1) => instance.to_owned(),
            Some(instance) => format!("{instance}/{id}"),
            None => id.to_owned(),
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for (place, address) in read_addresses(node, problems) {
            if addresses.contains(&address) {
                continue;
            }
            if let Some(first) = holders.insert(address, place) {
                let message = format!(
                    "{address} is also an address of the interface in {}",
                    problems.line_of(first)
                );
                problems.report(place, message);
            }
            addresses.push(address);
        }
        let host = Host {
            name: HostName(name.clone()),
            addresses,
            labels: labels(node, groups, problems),
            quarantined: false,
        };
        if hosts.insert(name, host).is_some() {
            problems.report(
                node.place,
                format!("network interface {} stands here twice", quote(id)),
            );
        }
    }
    Inventory {
        hosts: hosts.into_values().collect(),
    }
}

fn instance(node: &Node) -> Option<&str> {
    text(field(node, "Attachment")?, "InstanceId")
}

fn nodes<'n>(node: &'n Node, name: &str, problems: &mut Collector<'_>) -> &'n [Node] {
    field(node, name)
        .and_then(|field| list(field, &format!("`{name}`"), problems))
        .unwrap_or_default()
}

/// Its private addresses: those are what a rule that names a group means.
fn read_addresses(node: &Node, problems: &mut Collector<'_>) -> Vec<(Place, IpAddr)> {
    for name in ["Ipv4Prefixes", "Ipv6Prefixes"] {
        if let Some(field) = field(node, name)
            && matches!(&field.value, Value::List(items) if !items.is_empty())
        {
            let why = "a host has single addresses; list those that it uses";
            refuse(field.place, name, why, problems);
        }
    }
    let mut found: Vec<&Node> = Vec::new();
    let lists = [
        ("PrivateIpAddresses", "PrivateIpAddress"),
        ("Ipv6Addresses", "Ipv6Address"),
    ];
    found.extend(field(node, "PrivateIpAddress"));
    for (list, name) in lists {
        let items = nodes(node, list, problems);
        found.extend(items.iter().filter_map(|item| field(item, name)));
    }
    found
        .into_iter()
        .filter_map(|node| Some((node.place, address(node, problems)?)))
        .collect()
}

/// A label for each of its groups.
fn labels(node: &Node, groups: &BTreeSet<&str>, problems: &mut Collector<'_>) -> Labels {
    let mut labels = Labels::new();
    for group in nodes(node, "Groups", problems) {
        let Some(id) = field(group, "GroupId").and_then(|id| group_id(id, problems)) else {
            continue;
        };
        if !groups.contains(id.text.as_str()) {
            problems.report_help(
                id.place,
                format!("security group {} is in none of the files", quote(&id.text)),
                "give its JSON too: without its rules this host would be open".to_owned(),
            );
        }
        labels.insert(id.text, MEMBER.to_owned());
    }
    labels
}
