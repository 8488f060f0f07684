//! Random scenarios with every kind of rule: the sets of [`scenario`] with guardrails, exceptions,
//! baselines, selectors, named ports and a label schema beside their policies.

use std::{collections::BTreeSet, sync::Arc};

use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
    sample::{select, subsequence},
};

use crate::{
    Action, Mode, Origin, PortSpan, ProtocolSlot, Selector, SubnetMatch, Timestamp,
    selector::{Requirement, Test},
    set::{
        Exception, LabelSchema, NamedPort, OrderedPolicy, OrderedRule, Peer, Peers, Ports,
        SegmentId,
    },
    testing::{Scenario, scenario},
};

/// All kinds of rules, in small worlds.
pub(crate) fn world() -> impl Strategy<Value = Scenario> {
    scenario().prop_flat_map(|scenario| {
        let (segments, hosts) = (
            scenario.set.segments.len() as u32,
            scenario.inventory.hosts.len(),
        );
        let numbers = option::of(select(vec!["80", "443", "80,443", "91"]));
        (
            vec(ordered(segments), 0..=3),
            vec(ordered(segments), 0..=2),
            vec(exception(segments), 0..=3),
            vec(option::of(selector()), segments as usize),
            vec(numbers, hosts),
            option::weighted(0.2, Just(["env"])),
        )
            .prop_map(
                move |(guardrails, baselines, exceptions, selectors, ports, schema)| {
                    let mut scenario = scenario.clone();
                    let set = &mut scenario.set;
                    set.guardrails = numbered("guardrail", guardrails);
                    set.baselines = numbered("baseline", baselines);
                    set.exceptions = exceptions;
                    for (index, exception) in set.exceptions.iter_mut().enumerate() {
                        exception.name = format!("exception-{index}");
                        exception.origin = Arc::new(Origin::unwritten(&exception.name));
                    }
                    for (segment, selector) in set.segments.iter_mut().zip(selectors) {
                        segment.selector = selector.unwrap_or(segment.selector.clone());
                    }
                    set.schema = schema.map(|keys| LabelSchema {
                        keys: keys.map(|key| (key.to_owned(), None)).into(),
                    });
                    for (host, numbers) in scenario.inventory.hosts.iter_mut().zip(ports) {
                        let numbers = numbers.map(str::to_owned);
                        host.labels
                            .extend(numbers.map(|numbers| ("port:tcp/http".to_owned(), numbers)));
                    }
                    scenario
                },
            )
    })
}

/// Gives every rule a name of its own.
fn numbered(name: &str, mut policies: Vec<OrderedPolicy>) -> Vec<OrderedPolicy> {
    for (priority, policy) in (0..).zip(&mut policies) {
        policy.priority = priority;
        policy.name = format!("{name}-{priority}");
        for (side, rules) in [
            ("ingress", &mut policy.ingress),
            ("egress", &mut policy.egress),
        ] {
            for (index, rule) in rules.iter_mut().enumerate() {
                let name = format!("{name}-{priority}/{side}[{index}]");
                rule.origin = Arc::new(Origin::unwritten(&name));
            }
        }
    }
    policies
}

fn some_segments(segments: u32) -> impl Strategy<Value = Vec<SegmentId>> {
    let all: Vec<SegmentId> = (0..segments).map(SegmentId).collect();
    let most = all.len().min(3);
    subsequence(all, 1..=most)
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![3 => Just(Mode::Enforce), 1 => Just(Mode::Observe)]
}

fn ordered(segments: u32) -> impl Strategy<Value = OrderedPolicy> {
    let rules = || vec(rule(segments), 0..=3);
    (some_segments(segments), rules(), rules(), mode()).prop_map(
        |(applies_to, ingress, egress, mode)| OrderedPolicy {
            name: String::new(),
            priority: 0,
            applies_to,
            ingress,
            egress,
            mode,
        },
    )
}

fn rule(segments: u32) -> impl Strategy<Value = OrderedRule> {
    let action = prop_oneof![
        2 => Just(Action::Allow),
        3 => Just(Action::Deny),
        1 => Just(Action::Pass),
    ];
    (action, peers(segments), ports(), any::<bool>()).prop_map(|(action, peers, ports, log)| {
        OrderedRule {
            action,
            peers,
            ports,
            log,
            origin: Arc::new(Origin::unwritten("")),
        }
    })
}

fn exception(segments: u32) -> impl Strategy<Value = Exception> {
    (
        some_segments(segments),
        some_segments(segments),
        ports(),
        1u64..4,
    )
        .prop_map(|(from, to, ports, expires)| Exception {
            name: String::new(),
            owner: "jane".to_owned(),
            reason: "a test".to_owned(),
            expires: Timestamp(expires),
            from,
            to,
            ports,
            origin: Arc::new(Origin::unwritten("")),
        })
}

fn peers(segments: u32) -> impl Strategy<Value = Peers> {
    let subnet = (
        select(vec![
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.0.1.0/24",
            "::/0",
            "fd00::/16",
        ]),
        option::weighted(
            0.3,
            select(vec![
                "10.0.1.0/24",
                "10.0.0.0/9",
                "fd00:1::/64",
                "0.0.0.0/0",
            ]),
        ),
    );
    let subnet = subnet.prop_map(|(subnet, except)| {
        Peer::Subnet(SubnetMatch {
            subnet: subnet.parse().unwrap(),
            except: except.iter().map(|net| net.parse().unwrap()).collect(),
        })
    });
    let segment = (0..segments).prop_map(|id| Peer::Segment(SegmentId(id)));
    let peer = prop_oneof![3 => segment, 1 => subnet];
    option::weighted(0.7, vec(peer, 1..=3)).prop_map(|peers| peers.map_or(Peers::Any, Peers::Of))
}

fn ports() -> impl Strategy<Value = Ports> {
    let span = select(vec![
        (ProtocolSlot::Tcp, 0, u16::MAX),
        (ProtocolSlot::Tcp, 80, 90),
        (ProtocolSlot::Tcp, 80, 80),
        (ProtocolSlot::Udp, 53, 80),
        (ProtocolSlot::Icmp, 0, u16::MAX),
    ])
    .prop_map(|(slot, first, last)| PortSpan { slot, first, last });
    let named = select(vec!["http", "http", "https"]).prop_map(|name| NamedPort {
        slot: ProtocolSlot::Tcp,
        name: name.to_owned(),
    });
    let of = (vec(span, 0..=2), btree_set(named, 0..=1))
        .prop_filter("names a port", |(spans, named)| {
            !(spans.is_empty() && named.is_empty())
        })
        .prop_map(|(spans, named)| Ports::Of {
            spans: crate::service::merge(spans),
            named: named.into_iter().collect(),
        });
    option::weighted(0.6, of).prop_map(|ports| ports.unwrap_or(Ports::Any))
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || {
        subsequence(vec!["web", "app", "db", "prod", "dev"], 1..=3).prop_map(|values| {
            values
                .into_iter()
                .map(str::to_owned)
                .collect::<BTreeSet<_>>()
        })
    };
    let test = prop_oneof![
        values().prop_map(Test::In),
        values().prop_map(Test::NotIn),
        Just(Test::Exists),
        Just(Test::DoesNotExist),
    ];
    let requirement = (select(vec!["tier", "env"]), test).prop_map(|(key, test)| Requirement {
        key: key.to_owned(),
        test,
    });
    vec(requirement, 1..=2).prop_map(Selector::from_iter)
}
