//! NetworkPolicy, `networking.k8s.io/v1`.

use ipnet::IpNet;

use crate::{
    host_policy::SubnetMatch,
    inventory::NAMESPACE_SCOPE,
    parse::{
        fields::{Field, Fields, list},
        kubernetes::object::{Meta, Reader, given, items},
        values,
        yaml::{Node, Place, Value},
    },
    set::{Allow, Peer, Peers, Policy, Side},
    words::{Direction, Mode},
};

impl Reader<'_, '_> {
    /// Reads a NetworkPolicy. Without a spec, or with an empty one, it selects every pod of its
    /// namespace and allows them nothing in.
    pub fn network_policy(&mut self, fields: &Fields<'_>, meta: &Meta) -> Option<Policy> {
        let known = ["podSelector", "policyTypes", "ingress", "egress"];
        let spec = match given(fields, "spec") {
            Some(field) => Some(Fields::read(field.node, "`spec`", &known, self.problems)?),
            None => None,
        };
        let field = |name| given(spec.as_ref()?, name);
        let selector = field("podSelector");
        let pods = selector
            .map(|field| self.requirements(field.node, "`podSelector`", ""))
            .unwrap_or_default();
        let place = selector.map_or(meta.name.place, |field| field.key);
        let applies_to = vec![self.pods_of(&meta.namespace, pods, place)];
        let mut side = |name, direction| {
            let origin = field(name)
                .or_else(|| field("policyTypes"))
                .map_or(meta.name.place, |field| field.key);
            self.side(field(name), origin, direction, &meta.namespace)
        };
        let (ingress, egress) = (
            side("ingress", Direction::Ingress),
            side("egress", Direction::Egress),
        );
        let types = self.policy_types(spec.as_ref());
        let (has_ingress, has_egress) = match types.as_slice() {
            // Rules for egress select it; an empty list of them does not.
            [] => (true, !egress.rules.is_empty()),
            types => (
                types.contains(&Direction::Ingress),
                types.contains(&Direction::Egress),
            ),
        };
        Some(Policy {
            name: self.name.to_owned(),
            applies_to,
            ingress: has_ingress.then_some(ingress),
            egress: has_egress.then_some(egress),
            mode: Mode::Enforce,
        })
    }

    fn policy_types(&mut self, spec: Option<&Fields<'_>>) -> Vec<Direction> {
        let choices = [
            ("Ingress", Direction::Ingress),
            ("Egress", Direction::Egress),
        ];
        let items = spec.map(|spec| items(spec, "policyTypes", self.problems));
        items
            .unwrap_or_default()
            .iter()
            .filter_map(|item| self.choice(item, "a policy type", &choices))
            .collect()
    }

    fn side(
        &mut self,
        field: Option<Field<'_>>,
        place: Place,
        direction: Direction,
        namespace: &str,
    ) -> Side {
        let origin = self.origin(format!("{}/{direction}", self.name), place);
        let items = field
            .and_then(|field| list(field.node, &format!("`{direction}`"), self.problems))
            .unwrap_or_default();
        let rules = (0..)
            .zip(items)
            .filter_map(|(index, item)| self.allow(index, item, direction, namespace))
            .collect();
        Side { origin, rules }
    }

    fn allow(
        &mut self,
        index: usize,
        item: &Node,
        direction: Direction,
        namespace: &str,
    ) -> Option<Allow> {
        let peers = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let what = format!("an item of `{direction}`");
        let fields = Fields::read(item, &what, &[peers, "ports"], self.problems)?;
        let ports = self.network_policy_ports(given(&fields, "ports"));
        let items = items(&fields, peers, self.problems);
        let peers = match items {
            [] => Peers::Any,
            items => Peers::Of(
                items
                    .iter()
                    .filter_map(|item| self.peer(item, namespace))
                    .collect(),
            ),
        };
        Some(Allow {
            peers,
            ports,
            log: false,
            origin: self.origin(format!("{}/{direction}[{index}]", self.name), item.place),
        })
    }

    fn peer(&mut self, item: &Node, namespace: &str) -> Option<Peer> {
        let known = ["podSelector", "namespaceSelector", "ipBlock"];
        let fields = Fields::read(item, "a peer", &known, self.problems)?;
        let (pods, namespaces) = (
            given(&fields, "podSelector"),
            given(&fields, "namespaceSelector"),
        );
        if let Some(block) = given(&fields, "ipBlock") {
            if pods.or(namespaces).is_some() {
                let message = "`ipBlock` cannot stand beside a selector";
                let help = "make two items of them: either matches".to_owned();
                self.problems.report_help(block.key, message, help);
                return None;
            }
            return self.ip_block(block.node).map(Peer::Subnet);
        }
        if pods.or(namespaces).is_none() {
            let message = "a peer needs `podSelector`, `namespaceSelector` or `ipBlock`";
            let help = "for every peer leave the whole list out".to_owned();
            self.problems.report_help(item.place, message, help);
            return None;
        }
        let pods = pods.map(|field| self.requirements(field.node, "`podSelector`", ""));
        let pods = pods.unwrap_or_default();
        let segment = match namespaces {
            None => self.pods_of(namespace, pods, item.place),
            Some(field) => {
                let what = "`namespaceSelector`";
                let namespaces = self.requirements(field.node, what, NAMESPACE_SCOPE);
                self.pods_in(namespaces, pods, item.place)
            }
        };
        Some(Peer::Segment(segment))
    }

    fn ip_block(&mut self, node: &Node) -> Option<SubnetMatch> {
        let fields = Fields::read(node, "`ipBlock`", &["cidr", "except"], self.problems)?;
        let subnet = self
            .require(&fields, "cidr", "`ipBlock`")
            .and_then(|field| self.network(field.node));
        let mut except = Vec::new();
        for item in items(&fields, "except", self.problems) {
            let Some(hole) = self.network(item) else {
                continue;
            };
            match subnet {
                Some(subnet) if hole == subnet || !subnet.contains(&hole) => {
                    let message = format!("{hole} is not a part of {subnet}");
                    let help = "an exception takes addresses out of its own `cidr`".to_owned();
                    self.problems.report_help(item.place, message, help);
                }
                _ => except.push(hole),
            }
        }
        except.sort_unstable();
        except.dedup();
        Some(SubnetMatch {
            subnet: subnet?,
            except,
        })
    }

    /// A subnet. Kubernetes takes one with bits behind its prefix, and means the subnet.
    pub fn network(&mut self, node: &Node) -> Option<IpNet> {
        if let Value::Scalar { text, .. } = &node.value
            && let Ok(IpNet::V4(subnet)) = text.parse()
        {
            return Some(IpNet::V4(subnet.trunc()));
        }
        if let Value::Scalar { text, .. } = &node.value
            && let Ok(IpNet::V6(subnet)) = text.parse()
            && subnet.addr().to_ipv4_mapped().is_none()
        {
            return Some(IpNet::V6(subnet.trunc()));
        }
        values::subnet(node, self.problems)
    }
}
