//! Rules that let in, or out to, everybody on any port.

use super::{
    Kind, Warning,
    cover::{Cover, holds_slot},
    rules::{Written, WrittenRule},
};
use crate::{
    service::ProtocolSlot,
    set::{Peers, PolicySet, Ports},
    words::{Action, Direction, Tier},
};

/// Rules of policies and guardrails that allow the world on any port.
///
/// The world on ports that are named is taken to be meant: that is how a service is published.
pub(super) fn open(set: &PolicySet, written: &[Written<'_>]) -> Vec<Warning> {
    let cover = Cover::new(set);
    let is_open = |policy: &Written<'_>, rule: &WrittenRule<'_>| {
        let on_any_port = match (rule.ports, policy.direction) {
            (Ports::Any, _) => true,
            // Of TCP or UDP every port is as good as any.
            (Ports::Of { spans, .. }, Direction::Ingress) => {
                let slots = [ProtocolSlot::Tcp, ProtocolSlot::Udp];
                slots.iter().any(|slot| holds_slot(spans, *slot))
            }
            (Ports::Of { .. }, Direction::Egress) => false,
        };
        let world = match rule.peers {
            Peers::Any => true,
            Peers::Of(peers) => on_any_port && cover.ranges(peers).holds_a_family(),
        };
        rule.action == Action::Allow && on_any_port && world
    };
    let mut found = Vec::new();
    for policy in written
        .iter()
        .filter(|policy| policy.tier != Tier::Baseline)
    {
        for rule in policy.rules.iter().filter(|rule| is_open(policy, rule)) {
            let (does, key) = match policy.direction {
                Direction::Ingress => ("lets everybody in", "from"),
                Direction::Egress => ("lets its workloads out to everybody", "to"),
            };
            let ports = match rule.ports {
                Ports::Any => "any port",
                Ports::Of { .. } => "any port of a protocol",
            };
            found.push(Warning {
                origin: rule.origin.clone(),
                kind: Kind::AllowsTheWorld,
                message: format!("`{}` {does}, on {ports}", rule.origin.rule),
                help: format!("say who with `{key}`, or name the ports"),
            });
        }
    }
    found
}
