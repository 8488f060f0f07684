//! Guardrails and baselines in order of precedence; what isolation stands for.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    parse::{
        collector::quote,
        document::{
            ExceptDocument, IsolationDocument, OrderedDocument, OrderedRuleDocument, Priority,
        },
        fields::Word,
        resolve::{Named, Resolver},
        yaml::Place,
    },
    set::{OrderedPolicy, OrderedRule, Peer, Peers, Ports, SegmentId},
    words::{Action, Direction},
};

/// What was written with each priority: its kind and name, and the place of the priority.
type Priorities = BTreeMap<u32, (String, Place)>;

impl Resolver<'_, '_> {
    pub(super) fn guardrails(
        &mut self,
        guardrails: Named<OrderedDocument>,
        isolations: Named<IsolationDocument>,
    ) -> Vec<OrderedPolicy> {
        let mut taken = Priorities::new();
        let mut policies = Vec::new();
        for (_, document) in guardrails.into_values() {
            self.take(&mut taken, "Guardrail", &document.name, document.priority);
            policies.push(self.ordered(document));
        }
        for (_, document) in isolations.into_values() {
            self.take(&mut taken, "Isolation", &document.name, document.priority);
            policies.extend(self.isolation(document));
        }
        // Stable: what one document stands for stays in its order.
        policies.sort_by_key(|policy| policy.priority);
        policies
    }

    pub(super) fn baselines(&mut self, baselines: Named<OrderedDocument>) -> Vec<OrderedPolicy> {
        let mut taken = Priorities::new();
        let mut policies = Vec::new();
        for (_, document) in baselines.into_values() {
            self.take(&mut taken, "Baseline", &document.name, document.priority);
            policies.push(self.ordered(document));
        }
        policies.sort_by_key(|policy| policy.priority);
        policies
    }

    /// Two of one priority have no order.
    fn take(
        &mut self,
        taken: &mut Priorities,
        kind: &str,
        name: &Word,
        priority: Option<Priority>,
    ) {
        let Some(priority) = priority else { return };
        let this = format!("{kind} {}", quote(&name.text));
        let Some((other, first)) = taken.get(&priority.value) else {
            taken.insert(priority.value, (this, priority.place));
            return;
        };
        let message = format!(
            "{this} has the priority {} of {other}, in {}",
            priority.value,
            self.problems.line_of(*first)
        );
        let help = "give each a priority of its own: the lower one is asked first";
        self.problems
            .report_help(priority.place, message, help.to_owned());
    }

    fn ordered(&mut self, document: OrderedDocument) -> OrderedPolicy {
        let name = document.name;
        let mut rules = |direction, rules: Vec<OrderedRuleDocument>| {
            rules
                .into_iter()
                .map(|rule| self.ordered_rule(&name, direction, rule))
                .collect()
        };
        let ingress = rules(Direction::Ingress, document.ingress);
        let egress = rules(Direction::Egress, document.egress);
        OrderedPolicy {
            priority: document.priority.map_or(0, |priority| priority.value),
            applies_to: self.segments(&document.applies_to),
            ingress,
            egress,
            mode: document.mode,
            name: name.text,
        }
    }

    fn ordered_rule(
        &mut self,
        policy: &Word,
        direction: Direction,
        document: OrderedRuleDocument,
    ) -> OrderedRule {
        let rule = format!("{}/{direction}[{}]", policy.text, document.index);
        OrderedRule {
            action: document.action,
            peers: self.peers(document.peers),
            ports: self.ports(document.ports.as_deref()),
            log: document.log,
            origin: self.origin(policy, rule, document.line),
        }
    }

    /// All that is excepted is passed before anything is denied: a workload may be in two segments.
    fn isolation(&mut self, document: IsolationDocument) -> Vec<OrderedPolicy> {
        let name = document.name;
        let segments = self.segments(&document.segments);
        let pairs = segments.len() * segments.len().saturating_sub(1);
        if !self.has_room(2 * pairs, name.place) {
            return Vec::new();
        }
        let part = |applies_to, ingress, egress| OrderedPolicy {
            name: name.text.clone(),
            priority: document.priority.map_or(0, |priority| priority.value),
            applies_to,
            ingress,
            egress,
            mode: document.mode,
        };
        let rule = |action, others: &[SegmentId], ports, origin| OrderedRule {
            action,
            peers: Peers::Of(others.iter().copied().map(Peer::Segment).collect()),
            ports,
            log: false,
            origin,
        };
        let mut parts = Vec::new();
        for except in document.except {
            self.check_except(&segments, &except);
            let (from, to) = (self.segments(&except.from), self.segments(&except.to));
            let ports: Ports = self.ports(except.ports.as_deref());
            let text = format!("{}/except[{}]", name.text, except.index);
            let origin = self.origin(&name, text, except.line);
            let pass = |others: &[SegmentId]| {
                vec![rule(Action::Pass, others, ports.clone(), origin.clone())]
            };
            let (accepts, opens) = (pass(&from), pass(&to));
            parts.push(part(to, accepts, Vec::new()));
            parts.push(part(from, Vec::new(), opens));
        }
        for segment in &segments {
            let others: Vec<SegmentId> = segments
                .iter()
                .copied()
                .filter(|other| other != segment)
                .collect();
            let text = format!("{}/segments", name.text);
            let origin = self.origin(&name, text, document.line);
            let deny = || vec![rule(Action::Deny, &others, Ports::Any, origin.clone())];
            parts.push(part(vec![*segment], deny(), deny()));
        }
        parts
    }

    /// What an isolation passes must be what it would deny: anything else would only be taken out of
    /// reach of the guardrails after it.
    fn check_except(&mut self, isolated: &[SegmentId], except: &ExceptDocument) {
        for word in except.from.iter().chain(&except.to) {
            let id = self.segment_ids.get(word.text.as_str());
            if id.is_some_and(|id| isolated.binary_search(id).is_err()) {
                let message = format!("{} is not one of the isolated segments", quote(&word.text));
                let help = "an exception lies between two of them";
                self.problems
                    .report_help(word.place, message, help.to_owned());
            }
        }
        let opening: BTreeSet<&str> = except.from.iter().map(|word| &*word.text).collect();
        for word in &except.to {
            if opening.contains(&*word.text) {
                let message = format!("{} stands in `from` and in `to`", quote(&word.text));
                let help =
                    "a segment is not kept apart from itself; write an item for each direction";
                self.problems
                    .report_help(word.place, message, help.to_owned());
            }
        }
    }
}
