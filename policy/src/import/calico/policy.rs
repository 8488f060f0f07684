//! GlobalNetworkPolicy.

use crate::{
    import::{
        calico::{Reader, rule::RuleItem, selector},
        object::{given, items, refuse},
    },
    parse::{
        collector::quote,
        fields::{Fields, word},
        yaml::{Node, Place},
    },
    set::{OrderedRule, SegmentId},
    words::{Action, Direction},
};

const WHAT: &str = "the spec of a GlobalNetworkPolicy";

/// Fields of a spec that mean what Bulkhead has no words for.
const REFUSED: [(&str, &str); 5] = [
    (
        "applyOnForward",
        "Bulkhead judges what its hosts send and receive, not what they forward",
    ),
    (
        "preDNAT",
        "Bulkhead judges packets as they leave the wire; write rules for the addresses there",
    ),
    (
        "doNotTrack",
        "Bulkhead tracks every connection: a rule allows its replies too",
    ),
    (
        "namespaceSelector",
        "write the namespace's labels into `selector`",
    ),
    (
        "serviceAccountSelector",
        "Bulkhead knows workloads by labels; label them and use `selector`",
    ),
];

pub(super) struct GlobalPolicy {
    pub name: String,
    pub place: Place,
    /// Infinite if none is given: those come last.
    pub order: f64,
    pub applies_to: Vec<SegmentId>,
    /// Of each direction that it has a type of.
    pub rules: [Option<Vec<OrderedRule>>; 2],
}

impl Reader<'_> {
    pub(super) fn policy(&mut self, name: &str, place: Place, spec: &Node) {
        let known = [
            "tier",
            "order",
            "selector",
            "types",
            "ingress",
            "egress",
            // How fast it comes into force.
            "performanceHints",
        ];
        let known: Vec<&str> = known
            .into_iter()
            .chain(REFUSED.map(|(name, _)| name))
            .collect();
        let Some(fields) = Fields::read(spec, WHAT, &known, &mut self.problems) else {
            return;
        };
        for (name, why) in REFUSED {
            if let Some(field) = given(&fields, name) {
                refuse(field.key, name, why, &mut self.problems);
            }
        }
        if let Some(tier) = given(&fields, "tier")
            && word(tier.node, "`tier`", &mut self.problems)
                .is_some_and(|tier| tier.text != "default")
        {
            let why = "only the tier `default` can be imported";
            refuse(tier.node.place, "tier", why, &mut self.problems);
        }
        let order = given(&fields, "order").and_then(|field| {
            let order = word(field.node, "`order`", &mut self.problems)?;
            let number = order
                .text
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite());
            if number.is_none() {
                let message = format!("`order` is a number, not {}", quote(&order.text));
                self.problems.report(order.place, message);
            }
            number
        });
        // Policies without a selector select every endpoint.
        let expression = match given(&fields, "selector") {
            Some(field) => self.expression(field.node),
            None => Some(selector::Expression::All),
        };
        let selector_place = given(&fields, "selector").map_or(place, |field| field.node.place);
        let origin = self.origin(name.to_owned(), selector_place);
        let applies_to = expression
            .map(|expression| self.segments_of(&expression, selector_place, &origin))
            .unwrap_or_default();
        let types = self.types(&fields);
        let rules = Direction::ALL.map(|direction| {
            let key = direction.to_string();
            let rules: Vec<RuleItem> = items(&fields, &key, &mut self.problems)
                .iter()
                .enumerate()
                .filter_map(|(index, node)| {
                    self.rule(node, direction, &format!("{name}/{direction}[{index}]"))
                })
                .collect();
            let rules = self.without_logs(rules);
            if types.contains(&direction) {
                return Some(rules);
            }
            if let Some(field) = given(&fields, &key) {
                self.problems.report_help(
                    field.key,
                    format!(
                        "`types` leaves out what `{key}` has rules for: Calico does not apply them"
                    ),
                    format!("take `{key}` out, or add its type"),
                );
            }
            None
        });
        self.policies.push(GlobalPolicy {
            name: name.to_owned(),
            place,
            order: order.unwrap_or(f64::INFINITY),
            applies_to,
            rules,
        });
    }

    /// The directions that the policy is about: without `types`, those that have rules, or ingress.
    fn types(&mut self, fields: &Fields<'_>) -> Vec<Direction> {
        let has_rules = |direction: &Direction| given(fields, &direction.to_string()).is_some();
        if given(fields, "types").is_none() {
            let types: Vec<Direction> = Direction::ALL.into_iter().filter(has_rules).collect();
            return if types.is_empty() {
                vec![Direction::Ingress]
            } else {
                types
            };
        }
        let mut types = Vec::new();
        for node in items(fields, "types", &mut self.problems) {
            let Some(word) = word(node, "an item of `types`", &mut self.problems) else {
                continue;
            };
            match word.text.as_str() {
                "Ingress" => types.push(Direction::Ingress),
                "Egress" => types.push(Direction::Egress),
                other => self.problems.report_help(
                    word.place,
                    format!("there is no type {}", quote(other)),
                    "it is `Ingress` or `Egress`".to_owned(),
                ),
            }
        }
        types
    }

    /// The rules without those that only log: Bulkhead reports every denial, and an allowed flow
    /// where its rule says so. So a log can be said where the next rule matches the same flows and
    /// decides them.
    fn without_logs(&mut self, items: Vec<RuleItem>) -> Vec<OrderedRule> {
        let mut rules = Vec::new();
        let mut items = items.into_iter().peekable();
        let mut log = false;
        while let Some(item) = items.next() {
            let Some(action) = item.action else {
                let is_said = items.peek().is_some_and(|next| {
                    (&next.peers, &next.ports) == (&item.peers, &item.ports)
                        && next.action != Some(Action::Pass)
                });
                if !is_said {
                    let why = "put it right before a rule that allows or denies the same flows";
                    refuse(item.place, "action: Log", why, &mut self.problems);
                }
                log = is_said;
                continue;
            };
            rules.push(OrderedRule {
                action,
                peers: item.peers,
                ports: item.ports,
                log: log && action == Action::Allow,
                origin: item.origin,
            });
            log = false;
        }
        rules
    }
}
