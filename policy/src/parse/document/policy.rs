//! Policies as authors write them.

use ipnet::IpNet;

use crate::{
    host_policy::SubnetMatch,
    parse::{
        collector::{Collector, quote},
        fields::{Fields, Word, boolean, filled_list, list, word},
        ports::{self, PortWord},
        suggest::did_you_mean,
        values,
        yaml::{Node, ScalarKind, Value},
    },
    words::{Direction, Mode},
};

pub(crate) struct PolicyDocument {
    pub name: Word,
    pub applies_to: Vec<Word>,
    pub ingress: Option<SideDocument>,
    pub egress: Option<SideDocument>,
    pub mode: Mode,
}

pub(crate) struct SideDocument {
    /// The line of the key.
    pub line: u32,
    pub rules: Vec<RuleDocument>,
}

pub(crate) struct RuleDocument {
    /// Where it stands in the list, rules with mistakes counted too.
    pub index: usize,
    /// The line of the item.
    pub line: u32,
    /// None: any peer.
    pub peers: Option<Vec<PeerWord>>,
    /// None: any port.
    pub allow: Option<Vec<PortWord>>,
    pub log: bool,
}

pub(crate) enum PeerWord {
    Segment(Word),
    Subnet(SubnetMatch),
}

/// Reads a policy; a part with mistakes is missing from it.
pub(super) fn read(node: &Node, problems: &mut Collector<'_>) -> Option<PolicyDocument> {
    let known = [
        "apiVersion",
        "kind",
        "name",
        "appliesTo",
        "ingress",
        "egress",
        "mode",
    ];
    let fields = Fields::read(node, "a Policy", &known, problems)?;
    let name = values::name(&fields, "a Policy", problems);
    let applies_to = fields
        .require("appliesTo", "a Policy", problems)
        .map(|field| values::segments(field.node, "`appliesTo`", problems))
        .unwrap_or_default();
    let mut read_side = |direction| side(&fields, direction, problems);
    let ingress = read_side(Direction::Ingress);
    let egress = read_side(Direction::Egress);
    if fields.get("ingress").is_none() && fields.get("egress").is_none() {
        problems.report_help(
            fields.place,
            "a Policy needs `ingress`, or `egress`, or both",
            "an empty list, `ingress: []`, allows nothing".to_owned(),
        );
    }
    let mode = fields
        .get("mode")
        .and_then(|field| mode(field.node, problems))
        .unwrap_or_default();
    Some(PolicyDocument {
        name: name?,
        applies_to,
        ingress,
        egress,
        mode,
    })
}

pub(super) fn mode(node: &Node, problems: &mut Collector<'_>) -> Option<Mode> {
    let mode = word(node, "`mode`", problems)?;
    match mode.text.as_str() {
        "enforce" => Some(Mode::Enforce),
        "observe" => Some(Mode::Observe),
        other => {
            let help = did_you_mean(other, ["enforce", "observe"])
                .unwrap_or_else(|| "write `enforce` or `observe`".to_owned());
            problems.report_help(
                mode.place,
                format!("there is no mode {}", quote(other)),
                help,
            );
            None
        }
    }
}

fn side(
    fields: &Fields<'_>,
    direction: Direction,
    problems: &mut Collector<'_>,
) -> Option<SideDocument> {
    let name = direction.to_string();
    let field = fields.get(&name)?;
    if matches!(field.node.value, Value::Null) {
        problems.report_help(
            field.key,
            format!("`{name}` is empty"),
            format!("write `{name}: []` to allow nothing, or leave it out to select nothing"),
        );
        return None;
    }
    let items = list(field.node, &format!("`{name}`"), problems)?;
    let rules = items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| rule(item, index, direction, problems))
        .collect();
    Some(SideDocument {
        line: field.key.line,
        rules,
    })
}

fn rule(
    node: &Node,
    index: usize,
    direction: Direction,
    problems: &mut Collector<'_>,
) -> Option<RuleDocument> {
    let (own, other) = match direction {
        Direction::Ingress => ("from", "to"),
        Direction::Egress => ("to", "from"),
    };
    let what = format!("an {direction} rule");
    let help = |field: &str| match field {
        "ports" => Some("its ports are in `allow`".to_owned()),
        "action" => {
            Some("a Policy only allows; a Guardrail or a Baseline can deny and pass".to_owned())
        }
        _ => (field == other).then(|| format!("its peers are in `{own}`")),
    };
    let known = [own, "allow", "log"];
    let fields = Fields::read_with_help(node, &what, &known, help, problems)?;
    let peers = fields.get(own).map(|field| {
        let what = format!("`{own}`");
        filled_list(
            field.node,
            &what,
            "leave the field out for any peer",
            problems,
        )
        .unwrap_or_default()
        .iter()
        .filter_map(|item| peer(item, problems))
        .collect()
    });
    let allow = fields.get("allow").map(|field| {
        filled_list(
            field.node,
            "`allow`",
            "leave the field out for any port",
            problems,
        )
        .unwrap_or_default()
        .iter()
        .filter_map(|item| ports::word(item, problems))
        .collect()
    });
    let log = fields
        .get("log")
        .and_then(|field| boolean(field.node, "`log`", problems))
        .unwrap_or_default();
    Some(RuleDocument {
        index,
        line: node.place.line,
        peers,
        allow,
        log,
    })
}

pub(super) fn peer(node: &Node, problems: &mut Collector<'_>) -> Option<PeerWord> {
    match &node.value {
        Value::Map(_) => values::subnet_match(node, problems).map(PeerWord::Subnet),
        Value::Scalar {
            text,
            kind: ScalarKind::Text,
        } if text.parse::<IpNet>().is_ok() => {
            problems.report_help(
                node.place,
                format!(
                    "{} is a subnet, where a segment's name is expected",
                    quote(text)
                ),
                format!("write {{ subnet: {text} }}"),
            );
            None
        }
        _ => word(node, "a peer", problems).map(PeerWord::Segment),
    }
}
