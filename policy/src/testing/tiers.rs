//! Random documents of the kinds around policies: guardrails, baselines, isolation, exceptions.

use std::fmt::Write;

use proptest::{
    collection::vec,
    option,
    prelude::{BoxedStrategy, Just, Strategy, any},
    sample::{Index, select, subsequence},
};

use crate::testing::{PORTS, segment_name, subnet_peer};

/// Some documents of these kinds, as text, for sets with so many segments.
pub(super) fn documents(segments: usize) -> impl Strategy<Value = String> {
    (
        vec(ordered(segments), 0..=3),
        vec(ordered(segments), 0..=2),
        option_of_isolation(segments),
        vec(exception(segments), 0..=2),
        // Which of the guardrails comes first.
        any::<bool>(),
    )
        .prop_map(|(guardrails, baselines, isolation, exceptions, upwards)| {
            let mut yaml = String::new();
            let mut document = |kind: &str, index: usize, priority: Option<usize>, body: &str| {
                let _ = write!(
                    yaml,
                    "---\napiVersion: bulkhead/v1\nkind: {kind}\nname: {}-{index}\n",
                    kind.to_lowercase()
                );
                if let Some(priority) = priority {
                    let _ = writeln!(yaml, "priority: {priority}");
                }
                yaml.push_str(body);
            };
            for (index, body) in guardrails.iter().enumerate() {
                let priority = if upwards { index } else { 9 - index };
                document("Guardrail", index, Some(priority), body);
            }
            if let Some(body) = &isolation {
                document("Isolation", 0, Some(5), body);
            }
            for (index, body) in exceptions.iter().enumerate() {
                document("Exception", index, None, body);
            }
            for (index, body) in baselines.iter().enumerate() {
                document("Baseline", index, Some(index), body);
            }
            yaml
        })
}

fn names(segments: usize, least: usize, most: usize) -> BoxedStrategy<String> {
    let all: Vec<usize> = (0..segments).collect();
    subsequence(all, least.min(segments)..=most.min(segments))
        .prop_map(|chosen| {
            let names: Vec<String> = chosen.into_iter().map(segment_name).collect();
            format!("[{}]", names.join(", "))
        })
        .boxed()
}

fn ordered(segments: usize) -> impl Strategy<Value = String> {
    let side = |key| vec(rule(key, segments), 0..=3);
    (
        names(segments, 1, 2),
        side("from"),
        side("to"),
        proptest::bool::weighted(0.3),
    )
        .prop_map(|(applies_to, ingress, egress, observe)| {
            let mut body = format!("appliesTo: {applies_to}\n");
            for (key, rules) in [("ingress", ingress), ("egress", egress)] {
                if rules.is_empty() {
                    let _ = writeln!(body, "{key}: []");
                } else {
                    let _ = write!(body, "{key}:\n{}", rules.concat());
                }
            }
            if observe {
                body += "mode: observe\n";
            }
            body
        })
}

fn rule(key: &'static str, segments: usize) -> impl Strategy<Value = String> {
    let peer = proptest::prop_oneof![
        3 => (0..segments).prop_map(segment_name),
        1 => subnet_peer(),
    ];
    (
        select(vec!["allow", "deny", "pass"]),
        option::weighted(0.9, vec(peer, 1..=2)),
        ports(),
    )
        .prop_map(move |(action, peers, ports)| {
            let mut rule = format!("  - action: {action}\n");
            if let Some(peers) = peers {
                let _ = writeln!(rule, "    {key}: [{}]", peers.join(", "));
            }
            if let Some(ports) = ports {
                let _ = writeln!(rule, "    ports: {ports}");
            }
            rule
        })
}

fn ports() -> impl Strategy<Value = Option<String>> {
    option::of(subsequence(PORTS.to_vec(), 1..=3).prop_map(|all| format!("[{}]", all.join(", "))))
}

/// A set with one segment has nothing to isolate.
fn option_of_isolation(segments: usize) -> BoxedStrategy<Option<String>> {
    if segments < 2 {
        Just(None).boxed()
    } else {
        option::weighted(0.4, isolation(segments)).boxed()
    }
}

fn isolation(segments: usize) -> impl Strategy<Value = String> {
    let all: Vec<usize> = (0..segments).collect();
    let except = vec((any::<Index>(), any::<Index>(), ports()), 0..=2);
    (subsequence(all, 2..=segments.min(3)), except).prop_map(move |(isolated, except)| {
        let isolated: Vec<String> = isolated.into_iter().map(segment_name).collect();
        let mut body = format!("segments: [{}]\n", isolated.join(", "));
        if !except.is_empty() {
            body += "except:\n";
        }
        for (from, to, ports) in except {
            let from = from.get(&isolated);
            let others: Vec<&String> = isolated.iter().filter(|other| *other != from).collect();
            let to = to.get(&others);
            let ports = ports.map_or_else(String::new, |ports| format!(", ports: {ports}"));
            let _ = writeln!(body, "  - {{ from: {from}, to: {to}{ports} }}");
        }
        body
    })
}

fn exception(segments: usize) -> impl Strategy<Value = String> {
    (names(segments, 1, 2), names(segments, 1, 2), ports()).prop_map(|(from, to, ports)| {
        let mut body = format!(
            "owner: somebody\nreason: a test\nexpires: 2100-01-01T00:00:00Z\nfrom: {from}\nto: {to}\n"
        );
        if let Some(ports) = ports {
            let _ = writeln!(body, "ports: {ports}");
        }
        body
    })
}
