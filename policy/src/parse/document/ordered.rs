//! Guardrails and baselines as authors write them.

use crate::{
    parse::{
        collector::{Collector, quote},
        document::policy::{self, PeerWord},
        fields::{Fields, Word, boolean, filled_list, list, word},
        ports::{self, PortWord},
        suggest::did_you_mean,
        values,
        yaml::{Node, Place},
    },
    words::{Action, Direction, Mode},
};

/// The largest priority: the one that is asked last.
const MAX_PRIORITY: u32 = 65_535;

pub(crate) struct OrderedDocument {
    pub name: Word,
    /// None: it is missing or wrong, which is reported.
    pub priority: Option<Priority>,
    pub applies_to: Vec<Word>,
    pub ingress: Vec<OrderedRuleDocument>,
    pub egress: Vec<OrderedRuleDocument>,
    pub mode: Mode,
}

/// A priority and its place.
#[derive(Clone, Copy)]
pub(crate) struct Priority {
    pub value: u32,
    pub place: Place,
}

pub(crate) struct OrderedRuleDocument {
    /// Where it stands in the list, rules with mistakes counted too.
    pub index: usize,
    /// The line of the item.
    pub line: u32,
    pub action: Action,
    /// None: any peer.
    pub peers: Option<Vec<PeerWord>>,
    /// None: any port.
    pub ports: Option<Vec<PortWord>>,
    pub log: bool,
}

/// Reads a guardrail or a baseline; a part with mistakes is missing from it.
pub(super) fn read(
    node: &Node,
    what: &str,
    problems: &mut Collector<'_>,
) -> Option<OrderedDocument> {
    let known = [
        "apiVersion",
        "kind",
        "name",
        "priority",
        "appliesTo",
        "ingress",
        "egress",
        "mode",
    ];
    let fields = Fields::read(node, what, &known, problems)?;
    let name = values::name(&fields, what, problems);
    let priority = priority(&fields, what, problems);
    let applies_to = fields
        .require("appliesTo", what, problems)
        .map(|field| values::segments(field.node, "`appliesTo`", problems))
        .unwrap_or_default();
    let mut side = |direction| rules(&fields, direction, problems);
    let (ingress, egress) = (side(Direction::Ingress), side(Direction::Egress));
    if ingress.is_empty()
        && egress.is_empty()
        && fields.get("ingress").or(fields.get("egress")).is_none()
    {
        problems.report_help(
            fields.place,
            format!("{what} needs `ingress`, or `egress`, or both"),
            "write ingress: [{ action: deny, from: [dev] }]".to_owned(),
        );
    }
    let mode = fields
        .get("mode")
        .and_then(|field| policy::mode(field.node, problems))
        .unwrap_or_default();
    Some(OrderedDocument {
        name: name?,
        priority,
        applies_to,
        ingress,
        egress,
        mode,
    })
}

/// The priority that a document must have.
pub(super) fn priority(
    fields: &Fields<'_>,
    what: &str,
    problems: &mut Collector<'_>,
) -> Option<Priority> {
    let field = fields.require("priority", what, problems)?;
    let value = values::number(field.node, "a priority", MAX_PRIORITY, problems)?;
    Some(Priority {
        value,
        place: field.node.place,
    })
}

fn rules(
    fields: &Fields<'_>,
    direction: Direction,
    problems: &mut Collector<'_>,
) -> Vec<OrderedRuleDocument> {
    let name = direction.to_string();
    let items = fields
        .get(&name)
        .and_then(|field| list(field.node, &format!("`{name}`"), problems))
        .unwrap_or_default();
    items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| rule(item, index, direction, problems))
        .collect()
}

fn rule(
    node: &Node,
    index: usize,
    direction: Direction,
    problems: &mut Collector<'_>,
) -> Option<OrderedRuleDocument> {
    let (own, other) = match direction {
        Direction::Ingress => ("from", "to"),
        Direction::Egress => ("to", "from"),
    };
    let what = format!("an {direction} rule");
    let help = |field: &str| match field {
        "allow" => Some("write `action: allow`, and its ports in `ports`".to_owned()),
        _ => (field == other).then(|| format!("its peers are in `{own}`")),
    };
    let known = ["action", own, "ports", "log"];
    let fields = Fields::read_with_help(node, &what, &known, help, problems)?;
    let action = fields
        .require("action", &what, problems)
        .and_then(|field| action(field.node, problems));
    let peers = fields.get(own).map(|field| {
        let absent = "leave the field out for any peer";
        filled_list(field.node, &format!("`{own}`"), absent, problems)
            .unwrap_or_default()
            .iter()
            .filter_map(|item| policy::peer(item, problems))
            .collect()
    });
    let ports = ports(&fields, problems);
    let log = fields
        .get("log")
        .and_then(|field| boolean(field.node, "`log`", problems))
        .unwrap_or_default();
    Some(OrderedRuleDocument {
        index,
        line: node.place.line,
        // Without one, which is reported, what else the rule says may be wrong too.
        action: action.unwrap_or(Action::Deny),
        peers,
        ports,
        log,
    })
}

/// The field `ports`; none: any port.
pub(super) fn ports(fields: &Fields<'_>, problems: &mut Collector<'_>) -> Option<Vec<PortWord>> {
    fields.get("ports").map(|field| {
        let absent = "leave the field out for any port";
        filled_list(field.node, "`ports`", absent, problems)
            .unwrap_or_default()
            .iter()
            .filter_map(|item| ports::word(item, problems))
            .collect()
    })
}

fn action(node: &Node, problems: &mut Collector<'_>) -> Option<Action> {
    const ACTIONS: [Action; 3] = [Action::Allow, Action::Deny, Action::Pass];
    let action = word(node, "`action`", problems)?;
    let found = ACTIONS.into_iter().find(|it| it.to_string() == action.text);
    if found.is_none() {
        let help = did_you_mean(&action.text, ["allow", "deny", "pass"])
            .unwrap_or_else(|| "write `allow`, `deny` or `pass`".to_owned());
        problems.report_help(
            action.place,
            format!("there is no action {}", quote(&action.text)),
            help,
        );
    }
    found
}
