//! Inventories: YAML or JSON, `hosts: [{name, addresses, labels, quarantined}]`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    inventory::{Host, HostName, Inventory, Labels, PORT_SCOPE},
    parse::{
        self,
        collector::{Collector, quote},
        document,
        fields::{Fields, boolean, filled_list, kind_of, list, word},
        values,
        yaml::{Node, Value},
    },
    problem::Problems,
    service::{
        PortSpan, ProtocolSlot,
        literal::{PortLiteral, is_port_name},
    },
    source::SourceFile,
};

impl Inventory {
    /// Reads an inventory, YAML or JSON, strictly. Of many documents, each adds its hosts.
    ///
    /// # Errors
    /// All mistakes at once, as [`crate::parse()`] reports them.
    pub fn parse(file: &SourceFile) -> Result<Self, Problems> {
        let files = std::slice::from_ref(file);
        let mut problems = Collector::new(files);
        let (nodes, _) = parse::read_file(0, &mut problems);
        if let Some(policy) = nodes.iter().find(|node| document::is_policy(node)) {
            // Once, and nothing of what each of its fields is not.
            let mut problems = Collector::new(files);
            problems.report_help(
                policy.place,
                "this is a policy file, not an inventory",
                "name the file that lists the hosts: `hosts: [{ name, addresses, labels }]`"
                    .to_owned(),
            );
            return problems.finish(Self::default());
        }
        let mut reader = Reader {
            problems,
            names: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        let hosts = nodes
            .iter()
            .flat_map(|node| reader.inventory(node))
            .collect();
        reader.problems.finish(Self { hosts })
    }
}

struct Reader<'f> {
    problems: Collector<'f>,
    /// The line of each name.
    names: BTreeMap<String, u32>,
    /// The host and line of each address.
    addresses: BTreeMap<std::net::IpAddr, (String, u32)>,
}

impl Reader<'_> {
    /// Named ports, `{ http: tcp/8080 }`, as the labels that stand for them.
    fn ports(&mut self, node: &Node) -> Labels {
        let Value::Map(entries) = &node.value else {
            self.problems.report_help(
                node.place,
                format!("`ports` is a mapping of names, not {}", kind_of(node)),
                "write { http: tcp/8080, dns: udp/53 }".to_owned(),
            );
            return Labels::new();
        };
        let mut numbers: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for (name, port) in entries {
            let name = word(name, "a port's name", &mut self.problems);
            let Some(name) = name else { continue };
            if !is_port_name(&name.text) {
                let message = format!("{} is not a port's name", quote(&name.text));
                let help = "use up to 15 lower-case letters, digits and `-`, one letter at least";
                self.problems
                    .report_help(name.place, message, help.to_owned());
            }
            if !names.insert(name.text.clone()) {
                let message = format!("port {} stands here twice", quote(&name.text));
                let help = "for several numbers of one name write a list";
                self.problems
                    .report_help(name.place, message, help.to_owned());
            }
            let items = match &port.value {
                Value::List(_) => {
                    let absent = "leave the name out if it has no number";
                    let what = "a port's list of numbers";
                    filled_list(port, what, absent, &mut self.problems).unwrap_or_default()
                }
                _ => std::slice::from_ref(port),
            };
            for (slot, number) in items.iter().filter_map(|item| self.port(item)) {
                let label = format!("{PORT_SCOPE}{slot}/{}", name.text);
                numbers.entry(label).or_default().insert(number);
            }
        }
        // Sorted: in whatever order they are written, they make one identity.
        let value = |numbers: BTreeSet<u16>| {
            let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
            numbers.join(",")
        };
        numbers
            .into_iter()
            .map(|(label, numbers)| (label, value(numbers)))
            .collect()
    }

    /// One port of a protocol that has ports.
    fn port(&mut self, node: &Node) -> Option<(ProtocolSlot, u16)> {
        let port = word(node, "a port", &mut self.problems)?;
        match port.text.parse() {
            Ok(PortLiteral::Span(PortSpan { slot, first, last }))
                if first == last && slot.has_ports() =>
            {
                Some((slot, first))
            }
            _ => {
                self.problems.report_help(
                    port.place,
                    format!("{} is not one port", quote(&port.text)),
                    "write tcp/8080, udp/53 or sctp/3868".to_owned(),
                );
                None
            }
        }
    }

    fn inventory(&mut self, node: &Node) -> Vec<Host> {
        let Some(fields) = Fields::read(node, "an inventory", &["hosts"], &mut self.problems)
        else {
            return Vec::new();
        };
        fields
            .require("hosts", "an inventory", &mut self.problems)
            .and_then(|field| list(field.node, "`hosts`", &mut self.problems))
            .unwrap_or_default()
            .iter()
            .filter_map(|node| self.host(node))
            .collect()
    }

    fn host(&mut self, node: &Node) -> Option<Host> {
        let known = ["name", "addresses", "labels", "ports", "quarantined"];
        let fields = Fields::read(node, "a host", &known, &mut self.problems)?;
        let name = values::host_name(&fields, &mut self.problems);
        if let Some(name) = &name
            && let Some(line) = self.names.insert(name.text.clone(), name.place.line)
        {
            let message = format!(
                "there is another host {}, on line {line}",
                quote(&name.text)
            );
            self.problems.report(name.place, message);
        }
        let mut labels = fields
            .get("labels")
            .and_then(|field| values::labels(field.node, "`labels`", &mut self.problems))
            .unwrap_or_default();
        if let Some(field) = fields.get("ports") {
            labels.extend(self.ports(field.node));
        }
        let quarantined = fields
            .get("quarantined")
            .and_then(|field| boolean(field.node, "`quarantined`", &mut self.problems))
            .unwrap_or_default();
        let owner = name
            .as_ref()
            .map(|name| name.text.as_str())
            .unwrap_or_default();
        let mut addresses = Vec::new();
        let items = fields
            .get("addresses")
            .and_then(|field| list(field.node, "`addresses`", &mut self.problems))
            .unwrap_or_default();
        for item in items {
            let Some(address) = values::address(item, &mut self.problems) else {
                continue;
            };
            let holder = (owner.to_owned(), item.place.line);
            if let Some((other, line)) = self.addresses.insert(address, holder) {
                let message = format!(
                    "{address} is also an address of {}, on line {line}",
                    quote(&other)
                );
                self.problems.report(item.place, message);
            }
            addresses.push(address);
        }
        Some(Host {
            name: HostName(name?.text),
            addresses,
            labels,
            quarantined,
        })
    }
}
