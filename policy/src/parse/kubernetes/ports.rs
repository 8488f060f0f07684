//! Ports as the three APIs write them.

use crate::{
    parse::{
        collector::{Collector, quote},
        fields::{Field, Fields, filled_list, list, word},
        kubernetes::object::{Reader, given},
        yaml::{Node, Place, ScalarKind, Value},
    },
    service::{PortSpan, ProtocolSlot, merge},
    set::{NamedPort, Ports},
};

/// The protocols of Kubernetes.
pub(super) const PROTOCOLS: [(&str, ProtocolSlot); 3] = [
    ("TCP", ProtocolSlot::Tcp),
    ("UDP", ProtocolSlot::Udp),
    ("SCTP", ProtocolSlot::Sctp),
];

/// The longest name of a port: that of a service (RFC 6335).
const MAX_PORT_NAME: usize = 15;

const LAST_PORT: u32 = u16::MAX as u32;

/// The ports of a rule, while they are read.
#[derive(Default)]
struct List {
    spans: Vec<PortSpan>,
    named: Vec<NamedPort>,
}

impl List {
    fn span(&mut self, slot: ProtocolSlot, first: u32, last: u32) {
        let narrow = |port: u32| u16::try_from(port).unwrap_or(u16::MAX);
        self.spans.push(PortSpan {
            slot,
            first: narrow(first),
            last: narrow(last),
        });
    }

    fn finish(mut self) -> Ports {
        self.named.sort_unstable();
        self.named.dedup();
        Ports::Of {
            spans: merge(self.spans),
            named: self.named,
        }
    }
}

impl Reader<'_, '_> {
    /// `ports` of a NetworkPolicy: `protocol`, `port`, `endPort`. Empty and missing lists are any.
    pub fn network_policy_ports(&mut self, field: Option<Field<'_>>) -> Ports {
        let items = field.and_then(|field| list(field.node, "`ports`", self.problems));
        let items = items.unwrap_or_default();
        if items.is_empty() {
            return Ports::Any;
        }
        let mut ports = List::default();
        for item in items {
            self.network_policy_port(item, &mut ports);
        }
        ports.finish()
    }

    fn network_policy_port(&mut self, item: &Node, ports: &mut List) -> Option<()> {
        let known = ["protocol", "port", "endPort"];
        let fields = Fields::read(item, "a port", &known, self.problems)?;
        let slot = self.protocol(&fields);
        let end = given(&fields, "endPort");
        let Some(port) = given(&fields, "port") else {
            if let Some(end) = end {
                self.problems.report(end.key, "`endPort` needs a `port`");
            }
            ports.span(slot?, 0, LAST_PORT);
            return Some(());
        };
        if is_text(port.node) {
            let name = port_name(port.node, self.problems);
            if let Some(end) = end {
                let message = "`endPort` cannot follow a named port";
                self.problems.report(end.key, message);
            }
            let (slot, name) = (slot?, name?);
            ports.named.push(NamedPort { slot, name });
            return Some(());
        }
        let first = self.number(port.node, "`port`", 1, LAST_PORT);
        let last = match end {
            Some(end) => self.number(end.node, "`endPort`", 1, LAST_PORT),
            None => first,
        };
        let (slot, first, last) = (slot?, first?, last?);
        self.in_order(first, last, end.map_or(item.place, |end| end.node.place))?;
        ports.span(slot, first, last);
        Some(())
    }

    /// `ports` of v1alpha1: each has one of `portNumber`, `portRange`, `namedPort`.
    pub fn admin_ports(&mut self, field: Option<Field<'_>>) -> Ports {
        let Some(field) = field else {
            return Ports::Any;
        };
        let absent = "leave the field out for every port";
        let items = filled_list(field.node, "`ports`", absent, self.problems);
        let mut ports = List::default();
        for item in items.unwrap_or_default() {
            self.admin_port(item, &mut ports);
        }
        ports.finish()
    }

    fn admin_port(&mut self, item: &Node, ports: &mut List) -> Option<()> {
        let known = ["portNumber", "portRange", "namedPort"];
        let fields = Fields::read(item, "a port", &known, self.problems)?;
        let (name, field) = self.exactly_one(&fields, &known, "a port")?;
        match name {
            "portNumber" => {
                let known = ["protocol", "port"];
                let fields = Fields::read(field.node, "`portNumber`", &known, self.problems)?;
                let slot = self.protocol(&fields);
                let port = self.require(&fields, "port", "`portNumber`")?;
                let port = self.number(port.node, "`port`", 1, LAST_PORT)?;
                ports.span(slot?, port, port);
            }
            "portRange" => {
                let known = ["protocol", "start", "end"];
                let fields = Fields::read(field.node, "`portRange`", &known, self.problems)?;
                let slot = self.protocol(&fields);
                let (first, last) = self.range(&fields, "`portRange`")?;
                ports.span(slot?, first, last);
            }
            _ => self.any_protocol(field.node, ports)?,
        }
        Some(())
    }

    /// `protocols` of v1alpha2: each has one of `tcp`, `udp`, `sctp`, `destinationNamedPort`.
    pub fn protocols(&mut self, field: Option<Field<'_>>) -> Ports {
        let Some(field) = field else {
            return Ports::Any;
        };
        let absent = "leave the field out for every protocol";
        let items = filled_list(field.node, "`protocols`", absent, self.problems);
        let mut ports = List::default();
        for item in items.unwrap_or_default() {
            self.protocol_match(item, &mut ports);
        }
        ports.finish()
    }

    fn protocol_match(&mut self, item: &Node, ports: &mut List) -> Option<()> {
        let known = ["tcp", "udp", "sctp", "destinationNamedPort"];
        let fields = Fields::read(item, "a protocol", &known, self.problems)?;
        let (name, field) = self.exactly_one(&fields, &known, "a protocol")?;
        let slot = match name {
            "tcp" => ProtocolSlot::Tcp,
            "udp" => ProtocolSlot::Udp,
            "sctp" => ProtocolSlot::Sctp,
            _ => return self.any_protocol(field.node, ports),
        };
        let what = quote(name);
        let fields = Fields::read(field.node, &what, &["destinationPort"], self.problems)?;
        let port = self.require(&fields, "destinationPort", &what)?;
        let (what, known) = ("`destinationPort`", ["number", "range"]);
        let fields = Fields::read(port.node, what, &known, self.problems)?;
        let (name, field) = self.exactly_one(&fields, &known, what)?;
        if name == "number" {
            let port = self.number(field.node, "`number`", 1, LAST_PORT)?;
            ports.span(slot, port, port);
        } else {
            let known = ["start", "end"];
            let fields = Fields::read(field.node, "`range`", &known, self.problems)?;
            let (first, last) = self.range(&fields, "`range`")?;
            ports.span(slot, first, last);
        }
        Some(())
    }

    /// A named port without a protocol: that of any protocol that has the name.
    fn any_protocol(&mut self, node: &Node, ports: &mut List) -> Option<()> {
        let name = port_name(node, self.problems)?;
        let slots = PROTOCOLS.iter().map(|(_, slot)| *slot);
        ports.named.extend(slots.map(|slot| NamedPort {
            slot,
            name: name.clone(),
        }));
        Some(())
    }

    fn range(&mut self, fields: &Fields<'_>, what: &str) -> Option<(u32, u32)> {
        let mut end = |name: &str| {
            let field = self.require(fields, name, what)?;
            let port = self.number(field.node, &quote(name), 1, LAST_PORT)?;
            Some((port, field.node.place))
        };
        let (first, last) = (end("start"), end("end"));
        let ((first, _), (last, place)) = (first?, last?);
        self.in_order(first, last, place)?;
        Some((first, last))
    }

    fn in_order(&mut self, first: u32, last: u32, place: Place) -> Option<()> {
        if first > last {
            let message = format!("the range {first}-{last} runs backwards");
            self.problems.report(place, message);
            return None;
        }
        Some(())
    }

    fn protocol(&mut self, fields: &Fields<'_>) -> Option<ProtocolSlot> {
        match given(fields, "protocol") {
            Some(field) => self.choice(field.node, "a protocol", &PROTOCOLS),
            None => Some(ProtocolSlot::Tcp),
        }
    }
}

fn is_text(node: &Node) -> bool {
    matches!(
        &node.value,
        Value::Scalar {
            kind: ScalarKind::Text,
            ..
        }
    )
}

/// The name of a port: lower-case letters, digits and single dashes between them, one letter.
pub(super) fn port_name(node: &Node, problems: &mut Collector<'_>) -> Option<String> {
    let name = word(node, "a port's name", problems)?;
    let text = name.text.as_str();
    let in_set = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = (1..=MAX_PORT_NAME).contains(&text.len())
        && text.bytes().all(in_set)
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !(text.starts_with('-') || text.ends_with('-') || text.contains("--"));
    if !is_name {
        let help = match text.parse::<u16>() {
            Ok(number) => format!("for the number write {number}, without quotes"),
            Err(_) => "use up to 15 lower-case letters, digits and `-`, with a letter".to_owned(),
        };
        let message = format!("{} is not a port's name", quote(text));
        problems.report_help(name.place, message, help);
        return None;
    }
    Some(name.text)
}
