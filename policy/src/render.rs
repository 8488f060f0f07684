//! A policy set and an inventory as the files that an author would write: they parse back to the
//! same meaning. Equal input gives equal text.

mod tidy;
mod time;
mod yaml;

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::{
    host_policy::{Origin, SubnetMatch},
    inventory::{Inventory, PORT_SCOPE},
    selector::{Selector, Test},
    set::{
        Allow, Assertion, Claim, Exception, LabelSchema, OrderedPolicy, OrderedRule, Peer, Peers,
        Policy, PolicySet, Ports, Segment, SegmentId, Service, Side,
    },
    words::{Direction, Mode, Timestamp},
};

use yaml::{comment, list, map, scalar, sentence};

pub(crate) use tidy::simplified;
pub use tidy::{Tidied, tidy};

/// The set as policy files, many documents in one text. Names become valid ones, guardrails and
/// baselines that share a priority get one each, and what can match nothing is left out, with a
/// comment at the top that says so. A service is written, and the rules that used it with its ports.
#[must_use]
pub fn policies(set: &PolicySet) -> String {
    let Tidied { set, left_out } = tidy(set.clone());
    let mut file = File {
        set: &set,
        text: String::new(),
    };
    for note in &left_out {
        file.text.push_str(&format!("# {}\n", comment(note)));
    }
    if let Some(schema) = &set.schema {
        file.schema(schema);
    }
    set.segments
        .iter()
        .for_each(|segment| file.segment(segment));
    set.services
        .iter()
        .for_each(|service| file.service(service));
    for guardrail in &set.guardrails {
        file.ordered("Guardrail", guardrail);
    }
    for exception in &set.exceptions {
        file.exception(exception);
    }
    set.policies.iter().for_each(|policy| file.policy(policy));
    for baseline in &set.baselines {
        file.ordered("Baseline", baseline);
    }
    for assertion in &set.assertions {
        file.assertion(assertion);
    }
    file.text
}

/// The inventory as a file: `hosts:` and a host an item.
#[must_use]
pub fn inventory(inventory: &Inventory) -> String {
    if inventory.hosts.is_empty() {
        return "hosts: []\n".to_owned();
    }
    let mut text = "hosts:\n".to_owned();
    for host in &inventory.hosts {
        text.push_str(&format!("  - name: {}\n", scalar(&host.name.0)));
        let mut field = |line: String| text.push_str(&format!("    {}\n", indented(&line, 4)));
        if !host.addresses.is_empty() {
            let addresses = host
                .addresses
                .iter()
                .map(|address| scalar(&address.to_string()));
            field(list("addresses", addresses.collect(), 4));
        }
        // Named ports are labels of a scope of their own, and a field of their own for authors.
        let mut ports: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut labels = Vec::new();
        for (key, value) in &host.labels {
            let named = key
                .strip_prefix(PORT_SCOPE)
                .and_then(|port| port.split_once('/'));
            match named {
                Some((protocol, name)) => ports.entry(name).or_default().extend(
                    value
                        .split(',')
                        .map(|number| format!("{protocol}/{number}")),
                ),
                None => labels.push((scalar(key), scalar(value))),
            }
        }
        if !labels.is_empty() {
            field(map("labels", labels, 4));
        }
        if !ports.is_empty() {
            let ports = ports
                .into_iter()
                .map(|(name, ports)| (scalar(name), one_or_list(ports)));
            field(map("ports", ports.collect(), 4));
        }
        if host.quarantined {
            field("quarantined: true".to_owned());
        }
    }
    text
}

struct File<'a> {
    set: &'a PolicySet,
    text: String,
}

impl File<'_> {
    fn begin(&mut self, kind: &str, name: &str, origin: Option<&Origin>) {
        if !self.text.is_empty() {
            self.text.push_str("---\n");
        }
        if let Some(place) = origin.and_then(place) {
            self.text.push_str(&format!("# From {place}\n"));
        }
        self.line("apiVersion: bulkhead/v1");
        self.line(&format!("kind: {kind}"));
        self.line(&format!("name: {}", scalar(name)));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn schema(&mut self, schema: &LabelSchema) {
        self.begin("LabelSchema", "labels", None);
        let keys = schema.keys.iter().map(|(key, values)| {
            let values = match values {
                None => "any".to_owned(),
                Some(values) => format!("[{}]", scalars(values)),
            };
            (scalar(key), values)
        });
        self.line(&map("keys", keys.collect(), 0));
    }

    fn segment(&mut self, segment: &Segment) {
        self.begin("Segment", &segment.name, Some(&segment.origin));
        if !segment.selector.requirements.is_empty() {
            self.line(&map("match", requirements(&segment.selector), 0));
        }
        if !segment.subnets.is_empty() {
            let subnets = segment.subnets.iter().map(subnet).collect();
            self.line(&list("subnets", subnets, 0));
        }
    }

    fn service(&mut self, service: &Service) {
        self.begin("Service", &service.name, None);
        let ports = literals(&service.ports).unwrap_or_else(|| vec!["any".to_owned()]);
        self.line(&list("ports", ports, 0));
    }

    fn policy(&mut self, policy: &Policy) {
        let side = policy.ingress.as_ref().or(policy.egress.as_ref());
        self.begin("Policy", &policy.name, side.map(|side| &*side.origin));
        self.applies_to(&policy.applies_to);
        for direction in Direction::ALL {
            if let Some(Side { rules, .. }) = policy.side(direction) {
                let rules = rules.iter().map(|allow| self.allow(direction, allow));
                let rules: Vec<String> = rules.collect();
                self.rules(direction, &rules);
            }
        }
        self.mode(policy.mode);
    }

    fn ordered(&mut self, kind: &str, policy: &OrderedPolicy) {
        let first = policy.ingress.first().or(policy.egress.first());
        self.begin(kind, &policy.name, first.map(|rule| &*rule.origin));
        self.line(&format!("priority: {}", policy.priority));
        self.applies_to(&policy.applies_to);
        for direction in Direction::ALL {
            let rules = policy.rules(direction).iter();
            let rules: Vec<String> = rules
                .map(|rule| self.ordered_rule(direction, rule))
                .collect();
            if !rules.is_empty() {
                self.rules(direction, &rules);
            }
        }
        self.mode(policy.mode);
    }

    fn exception(&mut self, exception: &Exception) {
        self.begin("Exception", &exception.name, Some(&exception.origin));
        self.line(&format!("owner: {}", sentence(&exception.owner)));
        self.line(&format!("reason: {}", sentence(&exception.reason)));
        let Timestamp(seconds) = exception.expires;
        self.line(&format!("expires: {}", time::rfc3339(seconds)));
        self.line(&list("from", self.names(&exception.from), 0));
        self.line(&list("to", self.names(&exception.to), 0));
        if let Some(ports) = literals(&exception.ports) {
            self.line(&list("ports", ports, 0));
        }
    }

    fn assertion(&mut self, assertion: &Assertion) {
        self.begin("Assertion", &assertion.name, Some(&assertion.origin));
        let claim = match assertion.claim {
            Claim::Never => "never",
            Claim::Always => "always",
        };
        let ends = [("from", &assertion.from), ("to", &assertion.to)];
        let ends = ends.map(|(key, segments)| (key.to_owned(), one_or_list(self.names(segments))));
        let service =
            literals(&assertion.ports).map(|ports| ("service".to_owned(), one_or_list(ports)));
        self.line(&map(claim, ends.into_iter().chain(service).collect(), 0));
    }

    fn applies_to(&mut self, segments: &[SegmentId]) {
        self.line(&list("appliesTo", self.names(segments), 0));
    }

    fn mode(&mut self, mode: Mode) {
        if mode == Mode::Observe {
            self.line("mode: observe");
        }
    }

    fn rules(&mut self, direction: Direction, rules: &[String]) {
        if rules.is_empty() {
            self.line(&format!("{direction}: []"));
        } else {
            self.line(&format!("{direction}:"));
            self.text.push_str(&rules.concat());
        }
    }

    fn allow(&self, direction: Direction, allow: &Allow) -> String {
        let mut fields = Vec::new();
        fields.extend(self.peers(direction, &allow.peers));
        fields.extend(literals(&allow.ports).map(|ports| list("allow", ports, 4)));
        if allow.log {
            fields.push("log: true".to_owned());
        }
        item(fields, &allow.origin)
    }

    fn ordered_rule(&self, direction: Direction, rule: &OrderedRule) -> String {
        let mut fields = vec![format!("action: {}", rule.action)];
        fields.extend(self.peers(direction, &rule.peers));
        fields.extend(literals(&rule.ports).map(|ports| list("ports", ports, 4)));
        if rule.log {
            fields.push("log: true".to_owned());
        }
        item(fields, &rule.origin)
    }

    /// `from: [...]` or `to: [...]`; none for any peer.
    fn peers(&self, direction: Direction, peers: &Peers) -> Option<String> {
        let Peers::Of(peers) = peers else {
            return None;
        };
        let key = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let peers = peers.iter().map(|peer| match peer {
            Peer::Segment(id) => scalar(&self.set.segment(*id).name),
            Peer::Subnet(subnet) => subnet_peer(subnet),
        });
        Some(list(key, peers.collect(), 4))
    }

    fn names(&self, segments: &[SegmentId]) -> Vec<String> {
        segments
            .iter()
            .map(|id| scalar(&self.set.segment(*id).name))
            .collect()
    }
}

/// The place of an origin for a comment; none if no file wrote it.
fn place(origin: &Origin) -> Option<String> {
    origin.place().map(|place| comment(&place))
}

/// One rule of a list, with its place behind the first field.
fn item(fields: Vec<String>, origin: &Origin) -> String {
    let fields = if fields.is_empty() {
        vec!["{}".to_owned()]
    } else {
        fields
    };
    let place = place(origin)
        .map(|place| format!("  # {place}"))
        .unwrap_or_default();
    let mut text = String::new();
    for (index, field) in fields.iter().enumerate() {
        let start = if index == 0 { "  - " } else { "    " };
        let field = indented(field, 4);
        // Behind the first line of the first field: a field may be a list over several.
        let field = match field.split_once('\n') {
            _ if index > 0 => field,
            Some((first, rest)) => format!("{first}{place}\n{rest}"),
            None => format!("{field}{place}"),
        };
        text.push_str(&format!("{start}{field}\n"));
    }
    text
}

/// The lines after the first, moved to the right.
fn indented(text: &str, columns: usize) -> String {
    text.replace('\n', &format!("\n{}", " ".repeat(columns)))
}

/// The tests of each key; a key has several only where it must be there and not be some value.
fn requirements(selector: &Selector) -> Vec<(String, String)> {
    let mut keys: BTreeMap<&str, Vec<&Test>> = BTreeMap::new();
    for requirement in &selector.requirements {
        keys.entry(&requirement.key)
            .or_default()
            .push(&requirement.test);
    }
    let value = |tests: Vec<&Test>| match tests[..] {
        [Test::In(values)] => one_or_list(values.iter().map(|value| scalar(value)).collect()),
        _ => {
            let tests = tests.iter().map(|test| match test {
                Test::In(values) => format!("in: [{}]", scalars(values)),
                Test::NotIn(values) => {
                    let values = values.iter().map(|value| scalar(value)).collect();
                    format!("not: {}", one_or_list(values))
                }
                Test::Exists => "exists: true".to_owned(),
                Test::DoesNotExist => "exists: false".to_owned(),
            });
            format!("{{ {} }}", tests.collect::<Vec<_>>().join(", "))
        }
    };
    keys.into_iter()
        .map(|(key, tests)| (scalar(key), value(tests)))
        .collect()
}

fn one_or_list(mut items: Vec<String>) -> String {
    match items.len() {
        1 => items.remove(0),
        _ => format!("[{}]", items.join(", ")),
    }
}

fn scalars<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| scalar(word)).collect();
    words.join(", ")
}

fn subnet(subnet: &IpNet) -> String {
    scalar(&subnet.to_string())
}

fn subnet_peer(peer: &SubnetMatch) -> String {
    let SubnetMatch {
        subnet: whole,
        except,
    } = peer;
    if except.is_empty() {
        return format!("{{ subnet: {} }}", subnet(whole));
    }
    let holes: Vec<String> = except.iter().map(subnet).collect();
    format!(
        "{{ subnet: {}, except: [{}] }}",
        subnet(whole),
        holes.join(", ")
    )
}

/// The ports as literals; none for any.
fn literals(ports: &Ports) -> Option<Vec<String>> {
    let Ports::Of { spans, named } = ports else {
        return None;
    };
    let spans = spans.iter().map(ToString::to_string);
    let named = named
        .iter()
        .map(|port| format!("{}/{}", port.slot, port.name));
    Some(spans.chain(named).collect())
}

#[cfg(test)]
mod tests;
