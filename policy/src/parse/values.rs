//! The syntax of single values: names, labels, subnets, addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    host_policy::SubnetMatch,
    inventory::Labels,
    parse::{
        collector::{Collector, quote},
        fields::{Fields, Word, filled_list, kind_of, word},
        selector,
        yaml::{Node, Value},
    },
};

/// The longest name, label value, and label key after its prefix: as in Kubernetes.
pub(crate) const MAX_NAME: usize = 63;
/// The longest prefix of a label key.
pub(crate) const MAX_PREFIX: usize = 253;

const NAME_HELP: &str =
    "use 1 to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends";

/// Whether the text is 1 to `longest` letters, digits, `-`, `_` and `.`, the ends letters or digits.
pub(crate) fn is_name(text: &str, longest: usize) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= longest
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// The name of a segment, service or policy. One that is not well written is reported, and read on
/// with: other documents may refer to it.
pub(crate) fn name(fields: &Fields<'_>, what: &str, problems: &mut Collector<'_>) -> Option<Word> {
    let field = fields.require("name", what, problems)?;
    let name = word(field.node, "a name", problems)?;
    if !is_name(&name.text, MAX_NAME) {
        problems.report_help(
            name.place,
            format!("{} is not a name", quote(&name.text)),
            NAME_HELP.to_owned(),
        );
    }
    Some(name)
}

/// The name of a host: segments of names, joined by `/`.
pub(crate) fn host_name(fields: &Fields<'_>, problems: &mut Collector<'_>) -> Option<Word> {
    let field = fields.require("name", "a host", problems)?;
    let name = word(field.node, "a name", problems)?;
    let well_written =
        name.text.len() <= MAX_PREFIX && name.text.split('/').all(|part| is_name(part, MAX_PREFIX));
    if !well_written {
        problems.report_help(
            name.place,
            format!("{} is not a host's name", quote(&name.text)),
            "use letters, digits, `-`, `_` and `.`".to_owned(),
        );
        return None;
    }
    if name.text.parse::<IpAddr>().is_ok() {
        problems.report(
            name.place,
            format!("{} is an address, not a name", quote(&name.text)),
        );
        return None;
    }
    Some(name)
}

/// Reports a key of a label that is not well written; `text` is the key without its scope.
pub(crate) fn check_label_key(text: &str, key: &Word, problems: &mut Collector<'_>) {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if !is_name(name, MAX_NAME) || prefix.is_some_and(|prefix| !is_name(prefix, MAX_PREFIX)) {
        problems.report_help(
            key.place,
            format!("{} is not a label's key", quote(&key.text)),
            NAME_HELP.to_owned(),
        );
    }
}

/// Reports a value of a label that is not well written.
pub(crate) fn check_label_value(value: &Word, problems: &mut Collector<'_>) {
    if !value.text.is_empty() && !is_name(&value.text, MAX_NAME) {
        problems.report_help(
            value.place,
            format!("{} is not a label's value", quote(&value.text)),
            NAME_HELP.to_owned(),
        );
    }
}

/// A whole number of a range.
pub(crate) fn number(
    node: &Node,
    what: &str,
    most: u32,
    problems: &mut Collector<'_>,
) -> Option<u32> {
    let Word { text, place } = word(node, what, problems)?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    let number = number.filter(|number| *number <= most);
    if number.is_none() {
        let message = format!("{} is not {what}: a number from 0 to {most}", quote(&text));
        problems.report(place, message);
    }
    number
}

/// One name of a segment, or a list of some.
pub(crate) fn segments(node: &Node, what: &str, problems: &mut Collector<'_>) -> Vec<Word> {
    let items = match &node.value {
        Value::Scalar { .. } => std::slice::from_ref(node),
        _ => filled_list(node, what, "name at least one segment", problems).unwrap_or_default(),
    };
    items
        .iter()
        .filter_map(|item| segment(item, problems))
        .collect()
}

fn segment(node: &Node, problems: &mut Collector<'_>) -> Option<Word> {
    let subnet = match &node.value {
        Value::Map(_) => true,
        Value::Scalar { text, .. } => text.parse::<IpNet>().is_ok(),
        _ => false,
    };
    if subnet {
        problems.report_help(
            node.place,
            "only a segment's name may stand here, no subnet",
            "give the subnet a Segment with `subnets`, and name that".to_owned(),
        );
        return None;
    }
    word(node, "a segment", problems)
}

/// A mapping of label keys to values.
pub(crate) fn labels(node: &Node, what: &str, problems: &mut Collector<'_>) -> Option<Labels> {
    let Value::Map(entries) = &node.value else {
        problems.report_help(
            node.place,
            format!("{what} is a mapping of labels, not {}", kind_of(node)),
            "write { tier: db, env: prod }".to_owned(),
        );
        return None;
    };
    let mut labels = Labels::new();
    for (key, value) in entries {
        let key = word(key, "a label's key", problems);
        let value = word(value, "a label's value", problems);
        let (Some(key), Some(value)) = (key, value) else {
            continue;
        };
        selector::label_key(&key, problems);
        check_label_value(&value, problems);
        if labels.insert(key.text.clone(), value.text).is_some() {
            problems.report(
                key.place,
                format!("label {} stands here twice", quote(&key.text)),
            );
        }
    }
    Some(labels)
}

/// A subnet whose host bits are zero.
pub(crate) fn subnet(node: &Node, problems: &mut Collector<'_>) -> Option<IpNet> {
    let Word { text, place } = word(node, "a subnet", problems)?;
    let Ok(subnet) = text.parse::<IpNet>() else {
        let help = match text.parse::<IpAddr>() {
            Ok(address) => format!("for this address alone write {}", IpNet::from(address)),
            Err(_) => "write ADDRESS/LENGTH, such as 10.1.30.0/24 or 2001:db8::/32".to_owned(),
        };
        problems.report_help(place, format!("{} is not a subnet", quote(&text)), help);
        return None;
    };
    if subnet.trunc() != subnet {
        problems.report_help(
            place,
            format!("{} has bits set behind its prefix", quote(&text)),
            format!(
                "write {} for the subnet, or {} for the address",
                subnet.trunc(),
                IpNet::from(subnet.addr())
            ),
        );
        return None;
    }
    if let IpNet::V6(v6) = subnet
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        problems.report_help(
            place,
            format!(
                "{} is no subnet of packets: IPv4 in IPv6 notation",
                quote(&text)
            ),
            format!("write {v4}/{}", v6.prefix_len() - 96),
        );
        return None;
    }
    Some(subnet)
}

/// A list of subnets, sorted and without duplicates.
pub(crate) fn subnets(node: &Node, problems: &mut Collector<'_>) -> Vec<IpNet> {
    let absent = "leave the field out if there are none";
    let items = filled_list(node, "`subnets`", absent, problems).unwrap_or_default();
    let mut subnets: Vec<IpNet> = items
        .iter()
        .filter_map(|item| subnet(item, problems))
        .collect();
    subnets.sort_unstable();
    subnets.dedup();
    subnets
}

/// `{subnet: .., except: [..]}`.
pub(crate) fn subnet_match(node: &Node, problems: &mut Collector<'_>) -> Option<SubnetMatch> {
    let fields = Fields::read(node, "a peer", &["subnet", "except"], problems)?;
    let whole = fields
        .require("subnet", "a peer", problems)
        .and_then(|field| subnet(field.node, problems));
    let mut except = Vec::new();
    if let Some(field) = fields.get("except") {
        let absent = "leave the field out if there are none";
        let items = filled_list(field.node, "`except`", absent, problems).unwrap_or_default();
        for item in items {
            let Some(hole) = subnet(item, problems) else {
                continue;
            };
            match whole {
                Some(whole) if hole == whole => problems.report(
                    item.place,
                    format!("{hole} excepts all of the subnet: nothing is left"),
                ),
                Some(whole) if !whole.contains(&hole) => problems.report_help(
                    item.place,
                    format!("{hole} is not inside {whole}"),
                    "an exception takes addresses out of its own subnet".to_owned(),
                ),
                _ => except.push(hole),
            }
        }
    }
    except.sort_unstable();
    except.dedup();
    Some(SubnetMatch {
        subnet: whole?,
        except,
    })
}

/// An address that a host may hold.
pub(crate) fn address(node: &Node, problems: &mut Collector<'_>) -> Option<IpAddr> {
    let Word { text, place } = word(node, "an address", problems)?;
    let Ok(address) = text.parse::<IpAddr>() else {
        let help = text
            .parse::<IpNet>()
            .map(|subnet| format!("write {} without the length", subnet.addr()))
            .unwrap_or_else(|_| "write an IPv4 or IPv6 address, such as 10.1.30.5".to_owned());
        problems.report_help(place, format!("{} is not an address", quote(&text)), help);
        return None;
    };
    let reason = match address {
        _ if address.is_unspecified() => "is no host's address",
        _ if address.is_loopback() => "is every host's own: policy does not reach it",
        _ if address.is_multicast() => "is a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "is a broadcast address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            "is IPv4 in IPv6 notation: write it as IPv4"
        }
        _ => return Some(address),
    };
    problems.report(place, format!("{address} {reason}"));
    None
}
