//! Random policy sets, inventories and flows, for property tests here and in other crates (cargo
//! feature `testing`). All draw from one small world, so that they have to do with each other:
//! subnets hold hosts, ports sit at the edges of ranges, and labels match.

#![expect(
    clippy::expect_used,
    reason = "a generator that makes bad input is a bug in a test"
)]

#[cfg(test)]
mod agreement;
pub mod fuzz;
mod tiers;

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use ipnet::IpNet;
use proptest::{
    collection::vec,
    option,
    prelude::{BoxedStrategy, Just, Strategy, any},
    sample::{Index, select, subsequence},
};

use crate::{
    evaluate::Flow,
    inventory::{Host, HostName, Inventory, Labels},
    parse::parse,
    service::{PortKey, ProtocolSlot},
    set::PolicySet,
    source::SourceFile,
};

/// A policy set, who is there, and what they try.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The set as its author wrote it.
    pub files: Vec<SourceFile>,
    /// The set as the parser read it.
    pub set: PolicySet,
    /// Names and addresses are unique; some hosts are in quarantine.
    pub inventory: Inventory,
    /// Both ends are of one family and of different hosts; at least one end is a host's.
    pub flows: Vec<Flow>,
}

const ADDRESSES: [&str; 16] = [
    "10.0.1.0",
    "10.0.1.2",
    "10.0.1.3",
    "10.0.1.4",
    "10.0.1.255",
    "10.0.2.1",
    "10.1.0.1",
    "192.0.2.7",
    "8.8.8.8",
    "fd00:1::2",
    "fd00:1::3",
    "fd00:1::ffff",
    "fd00:2::1",
    "fd01::1",
    "2001:db8::7",
    "fe80::1",
];

const SUBNETS: [&str; 18] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/23",
    "10.0.1.0/24",
    "10.0.1.0/30",
    "10.0.1.2/31",
    "10.0.1.2/32",
    "10.1.0.0/16",
    "192.0.2.7/32",
    "::/0",
    "fd00::/8",
    "fd00::/16",
    "fd00:1::/32",
    "fd00:1::/64",
    "fd00:1::2/127",
    "fd00:1::2/128",
    "2001:db8::/32",
];

const PORTS: [&str; 28] = [
    "any",
    "tcp",
    "tcp/80",
    "tcp/443",
    "tcp/1-1023",
    "tcp/80-90",
    "tcp/91-443",
    "tcp/65535",
    "udp",
    "udp/53",
    "udp/53-80",
    "sctp/80",
    "icmp",
    "icmp/8",
    "icmp/8/0",
    "icmp/7/3-8",
    "icmpv6",
    "icmpv6/128",
    "icmpv6/128/0",
    "protocol/47",
    "protocol/40-50",
    "protocol/6",
    "gre",
    "vrrp",
    "icmp/echo-request",
    "tcp/http",
    "tcp/admin",
    "udp/dns",
];

/// Named ports that a host may have, with the numbers that it may give them.
const NAMED: [(&str, &str); 5] = [
    ("port:tcp/http", "80"),
    ("port:tcp/http", "81"),
    ("port:tcp/admin", "443,1024"),
    ("port:tcp/admin", "90"),
    ("port:udp/dns", "53"),
];

const KEYS: [(ProtocolSlot, &[u16]); 6] = [
    (
        ProtocolSlot::Tcp,
        &[
            1, 79, 80, 81, 90, 91, 92, 443, 444, 1023, 1024, 65_534, 65_535,
        ],
    ),
    (ProtocolSlot::Udp, &[1, 52, 53, 54, 80, 81, 65_535]),
    (ProtocolSlot::Sctp, &[79, 80, 81]),
    (ProtocolSlot::Icmp, &[0, 2047, 2048, 2049, 2303, 2304]),
    (ProtocolSlot::Icmpv6, &[256, 32_768, 32_769, 33_023, 33_024]),
    (ProtocolSlot::Other, &[0, 46, 47, 48, 50, 255]),
];

const LABELS: [(&str, &str); 5] = [
    ("tier", "web"),
    ("tier", "app"),
    ("tier", "db"),
    ("env", "prod"),
    ("env", "dev"),
];

/// What only hosts have: labels of their namespace, and one that no selector names and a schema
/// leaves out of identity.
const MORE_LABELS: [(&str, &str); 4] = [
    ("namespace:team", "a"),
    ("namespace:team", "b"),
    ("build", "1"),
    ("build", "2"),
];

/// Random scenarios with up to 6 segments, 3 services, 5 policies, all other kinds, 6 hosts and 24 flows.
pub fn scenario() -> impl Strategy<Value = Scenario> {
    (policies(), inventory()).prop_flat_map(|(yaml, inventory)| {
        flows(&inventory).prop_map(move |flows| {
            let files = vec![SourceFile {
                path: "random.yaml".to_owned(),
                content: yaml.clone(),
            }];
            let set = parse(&files).expect("the generator writes valid policies");
            Scenario {
                files,
                set,
                inventory: inventory.clone(),
                flows,
            }
        })
    })
}

/// Random valid policy files, as text.
pub fn policies() -> impl Strategy<Value = String> {
    (vec(segment(), 1..=6), vec(ports(), 0..=3)).prop_flat_map(|(segments, services)| {
        let (segment_count, service_count) = (segments.len(), services.len());
        let policies = vec(policy(segment_count, service_count), 0..=5);
        let schema = proptest::bool::weighted(0.3);
        let documents = (policies, tiers::documents(segment_count), schema);
        documents.prop_map(move |(policies, tiers, schema)| {
            let mut yaml = tiers;
            let mut document = |kind: &str, name: String, body: &str| {
                let head = format!("---\napiVersion: bulkhead/v1\nkind: {kind}\nname: {name}\n");
                yaml.push_str(&head);
                yaml.push_str(body);
            };
            if schema {
                let keys = "keys: { tier: any, env: [prod, dev] }\n";
                document("LabelSchema", "labels".to_owned(), keys);
            }
            for (index, body) in segments.iter().enumerate() {
                document("Segment", segment_name(index), body);
            }
            for (index, ports) in services.iter().enumerate() {
                let body = format!("ports: [{}]\n", ports.join(", "));
                document("Service", service_name(index), &body);
            }
            for (index, body) in policies.iter().enumerate() {
                document("Policy", format!("policy-{index}"), body);
            }
            yaml
        })
    })
}

fn segment_name(index: usize) -> String {
    format!("segment-{index}")
}

fn service_name(index: usize) -> String {
    format!("service-{index}")
}

fn some_of<const N: usize>(
    all: [&'static str; N],
    most: usize,
) -> BoxedStrategy<Vec<&'static str>> {
    subsequence(all.to_vec(), 1..=most).boxed()
}

fn ports() -> impl Strategy<Value = Vec<&'static str>> {
    some_of(PORTS, 3)
}

fn labels(least: usize) -> BoxedStrategy<Labels> {
    subsequence(LABELS.to_vec(), least..=3)
        .prop_map(owned_labels)
        .boxed()
}

fn owned_labels(labels: Vec<(&str, &str)>) -> Labels {
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    labels.into_iter().map(owned).collect()
}

fn segment() -> BoxedStrategy<String> {
    let matching = vec(test(), 1..=2).prop_map(|tests| {
        let tests: BTreeMap<&str, String> = tests.into_iter().collect();
        let tests: Vec<String> = tests.iter().map(|(k, t)| format!("{k}: {t}")).collect();
        format!("match: {{ {} }}\n", tests.join(", "))
    });
    let matching = matching.boxed();
    let subnets = some_of(SUBNETS, 3).prop_map(|nets| format!("subnets: [{}]\n", quoted(&nets)));
    let both = (matching.clone(), subnets.clone()).prop_map(|(a, b)| a + &b);
    proptest::prop_oneof![3 => matching, 2 => subnets, 1 => both].boxed()
}

/// A label's key and what a selector requires of it.
fn test() -> impl Strategy<Value = (&'static str, String)> {
    let tier = || some_of(["web", "app", "db"], 2);
    let list = |values: Vec<&str>| format!("[{}]", values.join(", "));
    proptest::prop_oneof![
        4 => select(LABELS.to_vec()).prop_map(|(key, value)| (key, value.to_owned())),
        2 => tier().prop_map(move |values| ("tier", list(values))),
        1 => tier().prop_map(move |values| ("tier", format!("{{ not: {} }}", list(values)))),
        1 => any::<bool>().prop_map(|exists| ("env", format!("{{ exists: {exists} }}"))),
        1 => Just(("env", "{ not: dev, exists: true }".to_owned())),
        1 => select(vec!["a", "{ not: b }", "{ exists: true }"])
            .prop_map(|test| ("\"namespace:team\"", test.to_owned())),
    ]
}

fn quoted(items: &[&str]) -> String {
    items
        .iter()
        .map(|item| format!("\"{item}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

fn policy(segments: usize, services: usize) -> impl Strategy<Value = String> {
    let side = |key| vec(rule(key, segments, services), 0..=3);
    let sides = (option::of(side("from")), option::of(side("to")))
        .prop_filter("says something", |(ingress, egress)| {
            ingress.is_some() || egress.is_some()
        });
    (
        subsequence((0..segments).collect::<Vec<_>>(), 1..=segments.min(2)),
        sides,
        any::<bool>(),
    )
        .prop_map(|(applies_to, (ingress, egress), observe)| {
            let names: Vec<String> = applies_to.into_iter().map(segment_name).collect();
            let mut body = format!("appliesTo: [{}]\n", names.join(", "));
            for (key, rules) in [("ingress", ingress), ("egress", egress)] {
                match rules {
                    None => {}
                    Some(rules) if rules.is_empty() => body += &format!("{key}: []\n"),
                    Some(rules) => body += &format!("{key}:\n{}", rules.concat()),
                }
            }
            if observe {
                body += "mode: observe\n";
            }
            body
        })
}

fn rule(key: &'static str, segments: usize, services: usize) -> impl Strategy<Value = String> {
    let segment = (0..segments).prop_map(segment_name);
    let peer = proptest::prop_oneof![3 => segment, 2 => subnet_peer()];
    let port = if services > 0 {
        proptest::prop_oneof![
            3 => select(PORTS.to_vec()).prop_map(str::to_owned),
            2 => (0..services).prop_map(service_name),
        ]
        .boxed()
    } else {
        select(PORTS.to_vec()).prop_map(str::to_owned).boxed()
    };
    (
        option::weighted(0.9, vec(peer, 1..=3)),
        option::weighted(0.8, vec(port, 1..=3)),
        any::<bool>(),
    )
        .prop_map(move |(peers, ports, log)| {
            let mut rule = format!("  - log: {log}\n");
            if let Some(peers) = peers {
                let _ = writeln!(rule, "    {key}: [{}]", peers.join(", "));
            }
            if let Some(ports) = ports {
                let _ = writeln!(rule, "    allow: [{}]", ports.join(", "));
            }
            rule
        })
}

fn subnet_peer() -> impl Strategy<Value = String> {
    (select(SUBNETS.to_vec()), vec(any::<Index>(), 0..=2)).prop_map(|(subnet, holes)| {
        let whole: IpNet = subnet.parse().expect("a subnet of the list");
        let inside: Vec<&str> = SUBNETS
            .into_iter()
            .filter(|other| {
                let other: IpNet = other.parse().expect("a subnet of the list");
                other != whole && whole.contains(&other)
            })
            .collect();
        if inside.is_empty() || holes.is_empty() {
            return format!("{{ subnet: \"{subnet}\" }}");
        }
        let holes: Vec<&str> = holes.iter().map(|hole| *hole.get(&inside)).collect();
        format!("{{ subnet: \"{subnet}\", except: [{}] }}", quoted(&holes))
    })
}

/// Random inventories of 1 to 6 hosts with up to 3 addresses each.
pub fn inventory() -> impl Strategy<Value = Inventory> {
    let addresses = Just(ADDRESSES.to_vec()).prop_shuffle();
    let named = subsequence(NAMED.to_vec(), 0..=2).prop_map(owned_labels);
    let more = subsequence(MORE_LABELS.to_vec(), 0..=2).prop_map(owned_labels);
    let labels = (labels(0), more, named).prop_map(|(mut labels, more, named)| {
        labels.extend(more);
        labels.extend(named);
        labels
    });
    let host = (0usize..=3, labels, proptest::bool::weighted(0.15));
    (addresses, vec(host, 1..=6)).prop_map(|(addresses, hosts)| {
        let mut free = addresses.into_iter().map(address);
        let hosts = hosts
            .into_iter()
            .enumerate()
            .map(|(index, (count, labels, quarantined))| Host {
                name: HostName(format!("host-{index}")),
                addresses: free.by_ref().take(count).collect(),
                labels,
                quarantined,
            })
            .collect();
        Inventory { hosts }
    })
}

/// Random flows from or to the hosts of an inventory; none if no host has an address.
pub fn flows(inventory: &Inventory) -> impl Strategy<Value = Vec<Flow>> + use<> {
    let held: BTreeMap<IpAddr, usize> = inventory
        .hosts
        .iter()
        .enumerate()
        .flat_map(|(host, of)| of.addresses.iter().map(move |address| (*address, host)))
        .collect();
    let all: Vec<IpAddr> = ADDRESSES.into_iter().map(address).collect();
    let mut pairs = Vec::new();
    for source in &all {
        for destination in &all {
            let ends = (held.get(source), held.get(destination));
            let of_different_hosts = ends.0 != ends.1;
            if source.is_ipv4() == destination.is_ipv4() && of_different_hosts {
                pairs.push((*source, *destination));
            }
        }
    }
    if pairs.is_empty() {
        return Just(Vec::new()).boxed();
    }
    let flow = (select(pairs), any::<Index>(), any::<Index>()).prop_map(
        |((source, destination), slot, key)| {
            let foreign = if source.is_ipv4() {
                ProtocolSlot::Icmpv6
            } else {
                ProtocolSlot::Icmp
            };
            let slots: Vec<_> = KEYS
                .into_iter()
                .filter(|(slot, _)| *slot != foreign)
                .collect();
            let (slot, keys) = *slot.get(&slots);
            Flow {
                source,
                destination,
                port: PortKey {
                    slot,
                    key: *key.get(keys),
                },
            }
        },
    );
    vec(flow, 1..=24).boxed()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address of the list")
}
