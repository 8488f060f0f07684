//! Protocols, ports and ICMP types of a rule.

use crate::{
    import::{
        calico::{Reader, endpoint::is_port_name},
        object::{given, integer, items, refuse},
    },
    parse::{
        collector::{Collector, quote},
        fields::{Field, Fields, word},
        yaml::{Node, ScalarKind, Value},
    },
    service::{PortSpan, ProtocolSlot, merge},
    set::{NamedPort, Ports},
};

impl Reader<'_> {
    /// The ports of a rule, all its fields together: they all narrow.
    pub(super) fn rule_ports(
        &mut self,
        fields: &Fields<'_>,
        destination: Option<&Fields<'_>>,
    ) -> Option<Ports> {
        let read = |field: Option<Field<'_>>, problems: &mut Collector<'_>| match field {
            Some(field) => protocol(field.node, problems).map(Some),
            None => Some(None),
        };
        let only = read(given(fields, "protocol"), &mut self.problems);
        let not = read(given(fields, "notProtocol"), &mut self.problems);
        let (only, not) = (only?, not?);
        let narrowing = |name| given(destination?, name);
        let (of_ports, of_not_ports) = (narrowing("ports"), narrowing("notPorts"));
        let (of_icmp, of_not_icmp) = (given(fields, "icmp"), given(fields, "notICMP"));
        let slot = only.map(|span| span.slot);
        for (field, name) in [(of_ports, "ports"), (of_not_ports, "notPorts")] {
            if let Some(field) = field
                && !slot.is_some_and(has_ports)
            {
                let message = format!("`{name}` needs `protocol` TCP, UDP or SCTP beside it");
                self.problems.report(field.key, message);
                return None;
            }
        }
        for (field, name) in [(of_icmp, "icmp"), (of_not_icmp, "notICMP")] {
            if let Some(field) = field
                && !matches!(slot, Some(ProtocolSlot::Icmp | ProtocolSlot::Icmpv6))
            {
                let message = format!("`{name}` needs `protocol` ICMP or ICMPv6 beside it");
                self.problems.report(field.key, message);
                return None;
            }
        }
        if only.is_none() && not.is_none() {
            return Some(Ports::Any);
        }
        let mut named = Vec::new();
        let mut spans = match only {
            Some(span) => vec![span],
            None => ProtocolSlot::ALL.map(whole).to_vec(),
        };
        if let (Some(slot), Some(destination), true) = (slot, destination, of_ports.is_some()) {
            (spans, named) = self.ports_of(destination, "ports", slot);
        }
        if let (Some(slot), Some(field)) = (slot, of_icmp) {
            spans = vec![self.icmp_types(slot, field)?];
        }
        let mut holes: Vec<PortSpan> = not.into_iter().collect();
        if let (Some(slot), Some(destination), Some(field)) = (slot, destination, of_not_ports) {
            let (less, not_named) = self.ports_of(destination, "notPorts", slot);
            if !not_named.is_empty() || !named.is_empty() {
                let why = "a named port has a number of its own on each host; write numbers";
                refuse(field.key, "notPorts", why, &mut self.problems);
                return None;
            }
            holes.extend(less);
            // Port 0 is no port.
            for span in &mut spans {
                span.first = span.first.max(1);
            }
        }
        if let (Some(slot), Some(field)) = (slot, of_not_icmp) {
            holes.push(self.icmp_types(slot, field)?);
        }
        if let Some(hole) = not
            && slot == Some(hole.slot)
        {
            named.clear();
        }
        Some(Ports::Of {
            spans: without(merge(spans), &merge(holes)),
            named,
        })
    }

    /// The items of `ports` or `notPorts`: `80`, `8000:8010`, `http`.
    fn ports_of(
        &mut self,
        destination: &Fields<'_>,
        name: &str,
        slot: ProtocolSlot,
    ) -> (Vec<PortSpan>, Vec<NamedPort>) {
        let (mut spans, mut named) = (Vec::new(), Vec::new());
        for item in items(destination, name, &mut self.problems) {
            let Some(word) = word(item, "a port", &mut self.problems) else {
                continue;
            };
            let (first, last) = word
                .text
                .split_once(':')
                .unwrap_or((&word.text, &word.text));
            let port = |text: &str| text.parse().ok().filter(|port: &u16| *port > 0);
            if let (Some(first), Some(last)) = (port(first), port(last)) {
                if first > last {
                    let message = format!("the range {} runs backwards", quote(&word.text));
                    self.problems.report(word.place, message);
                } else {
                    spans.push(PortSpan { slot, first, last });
                }
            } else if let Some(name) = named_port(item, &mut self.problems) {
                named.push(NamedPort { slot, name });
            }
        }
        named.sort_unstable();
        named.dedup();
        (spans, named)
    }

    /// `icmp` or `notICMP`: a type, and with it a code.
    fn icmp_types(&mut self, slot: ProtocolSlot, field: Field<'_>) -> Option<PortSpan> {
        let fields = Fields::read(field.node, "`icmp`", &["type", "code"], &mut self.problems)?;
        let mut byte = |name| {
            let field = fields.get(name)?;
            integer(field.node, &format!("`{name}`"), 0, 255, &mut self.problems)
        };
        let (kind, code) = (byte("type"), byte("code"));
        let Some(kind) = kind.and_then(|kind| u16::try_from(kind).ok()) else {
            self.problems
                .report(field.key, "`icmp` needs a field `type`");
            return None;
        };
        let code = code.and_then(|code| u16::try_from(code).ok());
        Some(PortSpan {
            slot,
            first: kind << 8 | code.unwrap_or(0),
            last: kind << 8 | code.unwrap_or(255),
        })
    }
}

/// The name of a port.
pub(in crate::import::calico) fn named_port(
    node: &Node,
    problems: &mut Collector<'_>,
) -> Option<String> {
    let word = word(node, "a port", problems)?;
    if is_port_name(&word.text) {
        return Some(word.text);
    }
    problems.report_help(
        word.place,
        format!("{} is not a port", quote(&word.text)),
        "it is a number from 1 to 65535, a range such as 8000:8010, or a name such as http"
            .to_owned(),
    );
    None
}

/// A protocol that has ports.
pub(in crate::import::calico) fn port_slot(
    node: &Node,
    problems: &mut Collector<'_>,
) -> Option<ProtocolSlot> {
    let span = protocol(node, problems)?;
    if !has_ports(span.slot) {
        problems.report(node.place, "a port is of TCP, UDP or SCTP");
        return None;
    }
    Some(span.slot)
}

const fn has_ports(slot: ProtocolSlot) -> bool {
    matches!(
        slot,
        ProtocolSlot::Tcp | ProtocolSlot::Udp | ProtocolSlot::Sctp
    )
}

/// All of a protocol, by its name or number.
fn protocol(node: &Node, problems: &mut Collector<'_>) -> Option<PortSpan> {
    let word = word(node, "a protocol", problems)?;
    let is_number = matches!(
        node.value,
        Value::Scalar {
            kind: ScalarKind::Number,
            ..
        }
    );
    let number = match word.text.to_ascii_lowercase().as_str() {
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" => Some(1),
        "icmpv6" => Some(58),
        "sctp" => Some(132),
        "udplite" => Some(136),
        text if is_number => text.parse::<u8>().ok(),
        _ => None,
    };
    let Some(number) = number else {
        problems.report_help(
            word.place,
            format!("there is no protocol {}", quote(&word.text)),
            "it is TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number from 0 to 255".to_owned(),
        );
        return None;
    };
    Some(match ProtocolSlot::of(number) {
        slot @ ProtocolSlot::Other => PortSpan {
            slot,
            first: number.into(),
            last: number.into(),
        },
        slot => whole(slot),
    })
}

const fn whole(slot: ProtocolSlot) -> PortSpan {
    PortSpan {
        slot,
        first: 0,
        last: slot.last_key(),
    }
}

/// Whether packets with these ports are of one family anyway.
pub(super) fn is_of_family(ports: &Ports, is_ipv4: bool) -> bool {
    let slot = if is_ipv4 {
        ProtocolSlot::Icmp
    } else {
        ProtocolSlot::Icmpv6
    };
    matches!(ports, Ports::Of { spans, named } if named.is_empty() && spans.iter().all(|span| span.slot == slot))
}

/// Some spans less others, both merged.
fn without(spans: Vec<PortSpan>, holes: &[PortSpan]) -> Vec<PortSpan> {
    let mut left = Vec::new();
    for span in spans {
        // What of the span is not decided yet begins here; none: nothing.
        let mut first = Some(span.first);
        for hole in holes.iter().filter(|hole| hole.slot == span.slot) {
            let Some(start) = first.filter(|start| hole.last >= *start && hole.first <= span.last)
            else {
                continue;
            };
            if hole.first > start {
                left.push(PortSpan {
                    first: start,
                    last: hole.first - 1,
                    ..span
                });
            }
            first = hole.last.checked_add(1).filter(|next| *next <= span.last);
        }
        if let Some(first) = first {
            left.push(PortSpan { first, ..span });
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn tcp(first: u16, last: u16) -> PortSpan {
        PortSpan {
            slot: ProtocolSlot::Tcp,
            first,
            last,
        }
    }

    #[test]
    fn what_is_left_of_spans_is_exact() {
        let all = tcp(0, 65_535);
        for (holes, left) in [
            (vec![], vec![all]),
            (vec![all], vec![]),
            (vec![tcp(0, 0)], vec![tcp(1, 65_535)]),
            (vec![tcp(65_535, 65_535)], vec![tcp(0, 65_534)]),
            (
                vec![tcp(80, 80), tcp(90, 100)],
                vec![tcp(0, 79), tcp(81, 89), tcp(101, 65_535)],
            ),
        ] {
            assert_eq!(without(vec![all], &holes), left);
        }
        assert_eq!(
            without(vec![tcp(5, 9)], &[tcp(0, 6), tcp(8, 20)]),
            [tcp(7, 7)]
        );
        assert_eq!(without(vec![tcp(5, 9)], &[tcp(10, 20)]), [tcp(5, 9)]);
    }
}
