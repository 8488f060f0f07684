//! HostEndpoint: hosts, with what Calico says of them as labels.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    import::{
        calico::{Reader, rule::named_port, rule::port_slot, selector::EXCLUDED},
        object::{field, given, integer, items, refuse},
    },
    inventory::{Host, HostName, Inventory, Labels, PORT_SCOPE},
    parse::{
        collector::quote,
        fields::{Fields, word},
        values::{MAX_NAME, address, is_name, labels},
        yaml::{Node, Place, Value},
    },
};

/// The key of the label of hosts whose endpoint has no profile: they are denied what no policy
/// decides.
pub(super) const PROFILE: &str = "projectcalico.org/profile";
/// Its value.
pub(super) const NO_PROFILE: &str = "none";
/// The profile that allows everything.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

const WHAT: &str = "the spec of a HostEndpoint";

/// The endpoints that were read.
#[derive(Default)]
pub(super) struct Endpoints {
    hosts: BTreeMap<String, Host>,
    addresses: BTreeMap<IpAddr, Place>,
}

impl Endpoints {
    /// Sorted by name.
    pub fn inventory(self) -> Inventory {
        Inventory {
            hosts: self.hosts.into_values().collect(),
        }
    }
}

impl Reader<'_> {
    pub(super) fn endpoint(&mut self, name: &str, place: Place, node: &Node, spec: &Node) {
        let known = ["node", "interfaceName", "expectedIPs", "profiles", "ports"];
        let Some(fields) = Fields::read(spec, WHAT, &known, &mut self.problems) else {
            return;
        };
        let (name, place) = self.node(&fields).unwrap_or((name, place));
        if !is_name(name, 253) || name.parse::<IpAddr>().is_ok() {
            self.problems
                .report(place, format!("{} is not a host's name", quote(name)));
        }
        self.interface(&fields);
        let written = field(node, "metadata").and_then(|metadata| field(metadata, "labels"));
        let mut labels = written
            .and_then(|node| labels(node, "`labels`", &mut self.problems))
            .unwrap_or_default();
        for key in [EXCLUDED, PROFILE] {
            if let (true, Some(node)) = (labels.contains_key(key), written) {
                let message = format!(
                    "the import gives the label {} a meaning of its own",
                    quote(key)
                );
                self.problems.report(node.place, message);
            }
        }
        if !self.has_profile(&fields) {
            labels.insert(PROFILE.to_owned(), NO_PROFILE.to_owned());
        }
        self.ports(&fields, &mut labels);
        let mut addresses = Vec::new();
        for item in items(&fields, "expectedIPs", &mut self.problems) {
            let Some(address) = address(item, &mut self.problems) else {
                continue;
            };
            if let Some(first) = self.endpoints.addresses.insert(address, item.place) {
                let message = format!("{address} is also in {}", self.problems.line_of(first));
                self.problems.report(item.place, message);
            }
            addresses.push(address);
        }
        let host = Host {
            name: HostName(name.to_owned()),
            addresses,
            labels,
            quarantined: false,
        };
        if self.endpoints.hosts.insert(name.to_owned(), host).is_some() {
            let message = format!("{} has another HostEndpoint", quote(name));
            let help = "a host of Bulkhead has one set of labels for all its interfaces".to_owned();
            self.problems.report_help(place, message, help);
        }
    }

    /// The node of an endpoint, which is the host; without one its name is.
    fn node<'n>(&mut self, fields: &Fields<'n>) -> Option<(&'n str, Place)> {
        let node = given(fields, "node")?.node;
        match &node.value {
            Value::Scalar { text, .. } => Some((text, node.place)),
            _ => {
                self.problems.report(node.place, "`node` is a name");
                None
            }
        }
    }

    /// Policy of Bulkhead is for all interfaces of a host.
    fn interface(&mut self, fields: &Fields<'_>) {
        let Some(field) = given(fields, "interfaceName") else {
            return;
        };
        let is_all = matches!(&field.node.value, Value::Scalar { text, .. } if text == "*");
        if !is_all && !self.all_interfaces {
            let message = "`interfaceName` other than `*` cannot be expressed: policy is for all \
                           interfaces of a host";
            let help = "give --all-interfaces to take it for all of them".to_owned();
            self.problems.report_help(field.node.place, message, help);
        }
    }

    /// Whether a profile allows what no policy decides. There is no other in Bulkhead.
    fn has_profile(&mut self, fields: &Fields<'_>) -> bool {
        let profiles = items(fields, "profiles", &mut self.problems);
        for profile in profiles {
            let name = word(profile, "a profile", &mut self.problems);
            if name.is_some_and(|name| name.text != DEFAULT_ALLOW) {
                let why =
                    "only `projectcalico-default-allow` can; write the profile's rules as a policy";
                refuse(profile.place, "profiles", why, &mut self.problems);
            }
        }
        !profiles.is_empty()
    }

    /// Named ports, as labels of their scope.
    fn ports(&mut self, fields: &Fields<'_>, labels: &mut Labels) {
        let mut numbers: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for item in items(fields, "ports", &mut self.problems) {
            let what = "an item of `ports`";
            let known = ["name", "port", "protocol"];
            let Some(fields) = Fields::read(item, what, &known, &mut self.problems) else {
                continue;
            };
            let name =
                given(&fields, "name").and_then(|field| named_port(field.node, &mut self.problems));
            let slot = given(&fields, "protocol")
                .and_then(|field| port_slot(field.node, &mut self.problems));
            let port = given(&fields, "port")
                .and_then(|field| integer(field.node, "`port`", 1, 65_535, &mut self.problems));
            for name in known {
                if given(&fields, name).is_none() {
                    self.problems
                        .report(item.place, format!("{what} needs a field `{name}`"));
                }
            }
            if let (Some(name), Some(slot), Some(port)) = (name, slot, port) {
                numbers
                    .entry(format!("{PORT_SCOPE}{slot}/{name}"))
                    .or_default()
                    .push(port);
            }
        }
        for (key, mut numbers) in numbers {
            numbers.sort_unstable();
            numbers.dedup();
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            labels.insert(key, numbers.join(","));
        }
    }
}

/// Whether a text is the name of a port: as in Kubernetes, with a letter in it, so that it is no number.
pub(super) fn is_port_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && is_name(text, MAX_NAME)
}
