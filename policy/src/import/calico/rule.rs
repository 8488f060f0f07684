//! The rules of a GlobalNetworkPolicy.

mod ports;

use std::{collections::BTreeSet, sync::Arc};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    host_policy::{Origin, SubnetMatch},
    import::{
        calico::{Reader, selector::Expression},
        object::{given, integer, items, refuse},
    },
    parse::{
        collector::quote,
        fields::{Fields, word},
        values::subnet,
        yaml::{Node, Place},
    },
    set::{Peer, Peers, Ports},
    words::{Action, Direction},
};

pub(super) use ports::{named_port, port_slot};

/// A rule; without an action it only logs.
pub(super) struct RuleItem {
    pub action: Option<Action>,
    pub peers: Peers,
    pub ports: Ports,
    pub origin: Arc<Origin>,
    pub place: Place,
}

const WHAT: &str = "a rule of a GlobalNetworkPolicy";
const ENTITY: [&str; 10] = [
    "nets",
    "notNets",
    "selector",
    "notSelector",
    "ports",
    "notPorts",
    "namespaceSelector",
    "serviceAccounts",
    "services",
    "domains",
];

impl Reader<'_> {
    pub(super) fn rule(
        &mut self,
        node: &Node,
        direction: Direction,
        rule: &str,
    ) -> Option<RuleItem> {
        let known = [
            "action",
            "ipVersion",
            "protocol",
            "notProtocol",
            "icmp",
            "notICMP",
            "source",
            "destination",
            "http",
            // Annotations.
            "metadata",
        ];
        let fields = Fields::read(node, WHAT, &known, &mut self.problems)?;
        if let Some(http) = given(&fields, "http") {
            let why = "Bulkhead judges packets, not requests; allow the port";
            refuse(http.key, "http", why, &mut self.problems);
        }
        let action = self.action(&fields);
        let [source, destination] = ["source", "destination"].map(|name| {
            let field = given(&fields, name)?;
            Fields::read(
                field.node,
                &format!("`{name}`"),
                &ENTITY,
                &mut self.problems,
            )
        });
        let (own_name, peer_name, peer) = match direction {
            Direction::Ingress => ("destination", "source", &source),
            Direction::Egress => ("source", "destination", &destination),
        };
        for (name, entity) in [("source", &source), ("destination", &destination)] {
            self.refuse_entity(name, entity.as_ref(), name == own_name);
        }
        let version = given(&fields, "ipVersion").and_then(|field| {
            let number = integer(field.node, "`ipVersion`", 4, 6, &mut self.problems)?;
            if number == 5 {
                self.problems
                    .report(field.node.place, "`ipVersion` is 4 or 6");
            }
            Some((number == 4, field.key))
        });
        let ports = self.rule_ports(&fields, destination.as_ref());
        let origin = self.origin(rule.to_owned(), node.place);
        let peers = match peer {
            Some(entity) => self.peers(entity, peer_name, &origin),
            None => Some(Peers::Any),
        };
        let (ports, mut peers) = (ports?, peers?);
        if let Some((is_ipv4, place)) = version
            && !ports::is_of_family(&ports, is_ipv4)
        {
            peers = self.of_family(peers, is_ipv4, place)?;
        }
        Some(RuleItem {
            action: action?,
            peers,
            ports,
            origin,
            place: node.place,
        })
    }

    fn action(&mut self, fields: &Fields<'_>) -> Option<Option<Action>> {
        let action = fields.require("action", WHAT, &mut self.problems)?;
        let action = word(action.node, "`action`", &mut self.problems)?;
        match action.text.as_str() {
            "Allow" => Some(Some(Action::Allow)),
            "Deny" => Some(Some(Action::Deny)),
            "Pass" => Some(Some(Action::Pass)),
            "Log" => Some(None),
            other => {
                self.problems.report_help(
                    action.place,
                    format!("there is no action {}", quote(other)),
                    "it is `Allow`, `Deny`, `Pass` or `Log`".to_owned(),
                );
                None
            }
        }
    }

    /// Reports what of an entity Bulkhead cannot say. Of a rule's own side, the policy's selector
    /// says everything.
    fn refuse_entity(&mut self, entity: &str, fields: Option<&Fields<'_>>, is_own: bool) {
        let Some(fields) = fields else {
            return;
        };
        let mut refuse_all = |names: &[&str], why: &str| {
            for name in names {
                if let Some(field) = given(fields, name) {
                    refuse(
                        field.key,
                        &format!("{entity}.{name}"),
                        why,
                        &mut self.problems,
                    );
                }
            }
        };
        let why = "name the workloads by their labels, in `selector`";
        refuse_all(
            &[
                "namespaceSelector",
                "serviceAccounts",
                "services",
                "domains",
            ],
            why,
        );
        if entity == "source" {
            refuse_all(
                &["ports", "notPorts"],
                "Bulkhead has no rules on source ports",
            );
        }
        if is_own {
            let why = "write a policy whose own `selector` means these workloads";
            refuse_all(&["nets", "notNets", "selector", "notSelector"], why);
        }
    }

    /// The other end of a rule.
    fn peers(&mut self, entity: &Fields<'_>, name: &str, origin: &Arc<Origin>) -> Option<Peers> {
        let [selector, not_selector, nets, not_nets] =
            ["selector", "notSelector", "nets", "notNets"].map(|name| given(entity, name));
        let by_address = nets.or(not_nets);
        let Some(labelled) = selector.or(not_selector) else {
            return match by_address {
                None => Some(Peers::Any),
                Some(_) => Some(Peers::Of(self.subnets(entity))),
            };
        };
        if let Some(field) = by_address {
            let why =
                "it narrows a selector: write a policy for the labels, or one for the subnets";
            let field_name = if nets.is_some() { "nets" } else { "notNets" };
            refuse(
                field.key,
                &format!("{name}.{field_name}"),
                why,
                &mut self.problems,
            );
            return None;
        }
        if selector.is_none() {
            let why = "without a `selector` it also means addresses that are no endpoint's";
            refuse(
                labelled.key,
                &format!("{name}.notSelector"),
                why,
                &mut self.problems,
            );
            return None;
        }
        let mut parts = Vec::new();
        for (field, is_negated) in [(selector, false), (not_selector, true)] {
            let Some(field) = field else {
                continue;
            };
            let expression = self.expression(field.node)?;
            parts.push(if is_negated {
                Expression::Not(Box::new(expression))
            } else {
                expression
            });
        }
        let ids = self.segments_of(&Expression::And(parts), labelled.node.place, origin);
        Some(Peers::Of(ids.into_iter().map(Peer::Segment).collect()))
    }

    /// `nets` less `notNets`. Calico makes rules of each family apart, and none for a family that one
    /// of the lists does not name.
    fn subnets(&mut self, entity: &Fields<'_>) -> Vec<Peer> {
        let mut read = |name| -> BTreeSet<IpNet> {
            items(entity, name, &mut self.problems)
                .iter()
                .filter_map(|item| subnet(item, &mut self.problems))
                .collect()
        };
        let (mut nets, holes) = (read("nets"), read("notNets"));
        if nets.is_empty() {
            nets.extend(
                holes
                    .iter()
                    .map(|hole| every_address(matches!(hole, IpNet::V4(_)))),
            );
        }
        if !holes.is_empty() {
            nets.retain(|net| holes.iter().any(|hole| is_ipv4(hole) == is_ipv4(net)));
        }
        nets.retain(|net| !holes.iter().any(|hole| hole.contains(net)));
        nets.into_iter()
            .map(|net| {
                let except = holes.iter().copied().filter(|hole| net.contains(hole));
                Peer::Subnet(SubnetMatch {
                    subnet: net,
                    except: except.collect(),
                })
            })
            .collect()
    }

    /// The peers of one family.
    fn of_family(&mut self, peers: Peers, family: bool, place: Place) -> Option<Peers> {
        let Peers::Of(mut peers) = peers else {
            return Some(Peers::Of(vec![Peer::Subnet(every_address(family).into())]));
        };
        if peers.iter().any(|peer| matches!(peer, Peer::Segment(_))) {
            let why = "workloads are meant with all their addresses; name subnets instead";
            refuse(place, "ipVersion", why, &mut self.problems);
            return None;
        }
        peers.retain(|peer| match peer {
            Peer::Subnet(peer) => is_ipv4(&peer.subnet) == family,
            Peer::Segment(_) => true,
        });
        Some(Peers::Of(peers))
    }
}

fn is_ipv4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

fn every_address(is_ipv4: bool) -> IpNet {
    if is_ipv4 {
        IpNet::V4(Ipv4Net::default())
    } else {
        IpNet::V6(Ipv6Net::default())
    }
}
