//! AdminNetworkPolicy and BaselineAdminNetworkPolicy, `policy.networking.k8s.io/v1alpha1`, and
//! ClusterNetworkPolicy, `policy.networking.k8s.io/v1alpha2`: one idea in three spellings.

use crate::{
    inventory::NAMESPACE_SCOPE,
    parse::{
        collector::quote,
        fields::{Fields, filled_list, list, word},
        kubernetes::object::{Meta, Reader, given},
        yaml::{Node, Place},
    },
    set::{OrderedPolicy, OrderedRule, Peer, Peers, Ports, SegmentId},
    words::{Action, Direction, Mode, Tier},
};

/// The greatest priority of the APIs.
const LAST_PRIORITY: u32 = 1_000;
/// Where the baseline that has no priority stands: after all that have one.
const PRIORITY_OF_DEFAULT: u32 = 65_535;

/// The three APIs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// AdminNetworkPolicy.
    Admin,
    /// BaselineAdminNetworkPolicy.
    Baseline,
    /// ClusterNetworkPolicy.
    Cluster,
}

impl Api {
    /// For "... has no field".
    pub fn what(self) -> &'static str {
        match self {
            Self::Admin => "an AdminNetworkPolicy",
            Self::Baseline => "a BaselineAdminNetworkPolicy",
            Self::Cluster => "a ClusterNetworkPolicy",
        }
    }

    /// What stands before the name in reports.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Admin => "adminnetworkpolicy",
            Self::Baseline => "baselineadminnetworkpolicy",
            Self::Cluster => "clusternetworkpolicy",
        }
    }

    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Admin => &["priority", "subject", "ingress", "egress"],
            Self::Baseline => &["subject", "ingress", "egress"],
            Self::Cluster => &["tier", "priority", "subject", "ingress", "egress"],
        }
    }

    fn actions(self) -> &'static [(&'static str, Action)] {
        match self {
            Self::Admin => &[
                ("Allow", Action::Allow),
                ("Deny", Action::Deny),
                ("Pass", Action::Pass),
            ],
            Self::Baseline => &[("Allow", Action::Allow), ("Deny", Action::Deny)],
            Self::Cluster => &[
                ("Accept", Action::Allow),
                ("Deny", Action::Deny),
                ("Pass", Action::Pass),
            ],
        }
    }

    /// The field that names protocols and ports.
    fn ports(self) -> &'static str {
        match self {
            Self::Admin | Self::Baseline => "ports",
            Self::Cluster => "protocols",
        }
    }
}

impl Reader<'_, '_> {
    /// Reads a policy of one of the three APIs: its tier, the place of its priority, and itself.
    pub fn ordered(
        &mut self,
        api: Api,
        fields: &Fields<'_>,
        meta: &Meta,
    ) -> Option<(Tier, Place, OrderedPolicy)> {
        if api == Api::Baseline && meta.name.text != "default" {
            let message = format!("{} is named `default`, and there is only one", api.what());
            self.problems.report(meta.name.place, message);
        }
        let spec = self.require(fields, "spec", api.what())?;
        let spec = Fields::read(spec.node, "`spec`", api.fields(), self.problems)?;
        let tier = match api {
            Api::Admin => Some(Tier::Guardrail),
            Api::Baseline => Some(Tier::Baseline),
            Api::Cluster => {
                let tiers = [("Admin", Tier::Guardrail), ("Baseline", Tier::Baseline)];
                self.require(&spec, "tier", "`spec`")
                    .and_then(|field| self.choice(field.node, "a tier", &tiers))
            }
        };
        let priority = match api {
            Api::Baseline => Some((meta.name.place, PRIORITY_OF_DEFAULT)),
            Api::Admin | Api::Cluster => {
                self.require(&spec, "priority", "`spec`").and_then(|field| {
                    let number = self.number(field.node, "`priority`", 0, LAST_PRIORITY)?;
                    Some((field.node.place, number))
                })
            }
        };
        let subject = self
            .require(&spec, "subject", "`spec`")
            .and_then(|field| self.subject(api, field.node));
        let [ingress, egress] = Direction::ALL.map(|direction| self.rules(api, &spec, direction));
        let (place, priority) = priority?;
        let policy = OrderedPolicy {
            name: self.name.to_owned(),
            priority,
            applies_to: vec![subject?],
            ingress,
            egress,
            mode: Mode::Enforce,
        };
        Some((tier?, place, policy))
    }

    fn subject(&mut self, api: Api, node: &Node) -> Option<SegmentId> {
        let known = ["namespaces", "pods"];
        let fields = Fields::read(node, "`subject`", &known, self.problems)?;
        let (name, field) = self.exactly_one(&fields, &known, "`subject`")?;
        self.pods(api, name, field.node)
    }

    /// The pods that `namespaces` or `pods` means.
    fn pods(&mut self, api: Api, name: &str, node: &Node) -> Option<SegmentId> {
        if name == "namespaces" {
            let namespaces = self.requirements(node, "`namespaces`", NAMESPACE_SCOPE);
            return Some(self.pods_in(namespaces, Vec::new(), node.place));
        }
        let known = ["namespaceSelector", "podSelector"];
        let fields = Fields::read(node, "`pods`", &known, self.problems)?;
        let namespaces = match api {
            Api::Cluster => given(&fields, "namespaceSelector"),
            Api::Admin | Api::Baseline => {
                Some(self.require(&fields, "namespaceSelector", "`pods`")?)
            }
        };
        let namespaces = namespaces
            .map(|field| self.requirements(field.node, "`namespaceSelector`", NAMESPACE_SCOPE))
            .unwrap_or_default();
        let pods = self.require(&fields, "podSelector", "`pods`")?;
        let pods = self.requirements(pods.node, "`podSelector`", "");
        Some(self.pods_in(namespaces, pods, node.place))
    }

    fn rules(&mut self, api: Api, spec: &Fields<'_>, direction: Direction) -> Vec<OrderedRule> {
        let items = given(spec, &direction.to_string())
            .and_then(|field| list(field.node, &format!("`{direction}`"), self.problems));
        (0..)
            .zip(items.unwrap_or_default())
            .filter_map(|(index, item)| self.rule(api, index, item, direction))
            .collect()
    }

    fn rule(
        &mut self,
        api: Api,
        index: usize,
        item: &Node,
        direction: Direction,
    ) -> Option<OrderedRule> {
        let what = format!("an item of `{direction}`");
        let (peers, ports) = match direction {
            Direction::Ingress => ("from", api.ports()),
            Direction::Egress => ("to", api.ports()),
        };
        let known = ["name", "action", peers, ports];
        let fields = Fields::read(item, &what, &known, self.problems)?;
        let mut rule = format!("{}/{direction}[{index}]", self.name);
        if let Some(field) = given(&fields, "name")
            && let Some(name) = word(field.node, "a rule's name", self.problems)
        {
            rule = format!("{rule} ({})", name.text);
        }
        let action = self
            .require(&fields, "action", &what)
            .and_then(|field| self.choice(field.node, "an action", api.actions()));
        let peers = self.require(&fields, peers, &what).and_then(|field| {
            let absent = match direction {
                Direction::Ingress => "for every pod write `namespaces: {}`",
                Direction::Egress => {
                    "for every pod write `namespaces: {}`, for all else `networks: [0.0.0.0/0]`"
                }
            };
            filled_list(field.node, &quote(peers), absent, self.problems)
        });
        let mut found = Vec::new();
        let mut outside = false;
        for item in peers.unwrap_or_default() {
            outside |= self.admin_peer(api, item, direction, &mut found);
        }
        let field = given(&fields, ports);
        let ports = match api {
            Api::Admin | Api::Baseline => self.admin_ports(field),
            Api::Cluster => self.protocols(field),
        };
        if let (Some(field), Ports::Of { named, .. }) = (field, &ports)
            && outside
            && !named.is_empty()
        {
            let message = "a named port cannot stand beside `networks`: those name no ports";
            let help = "give each a rule of its own".to_owned();
            self.problems.report_help(field.key, message, help);
        }
        Some(OrderedRule {
            action: action?,
            peers: Peers::Of(found),
            ports,
            log: false,
            origin: self.origin(rule, item.place),
        })
    }

    /// Adds what a peer names; says whether that is addresses.
    fn admin_peer(
        &mut self,
        api: Api,
        item: &Node,
        direction: Direction,
        found: &mut Vec<Peer>,
    ) -> bool {
        let known: &[&'static str] = match direction {
            Direction::Ingress => &["namespaces", "pods"],
            Direction::Egress => &["namespaces", "pods", "nodes", "networks", "domainNames"],
        };
        let chosen = Fields::read(item, "a peer", known, self.problems)
            .and_then(|fields| self.exactly_one(&fields, known, "a peer"));
        let Some((name, field)) = chosen else {
            return false;
        };
        match name {
            "networks" => {
                let absent = "name at least one network";
                let items = filled_list(field.node, "`networks`", absent, self.problems);
                for item in items.unwrap_or_default() {
                    let subnet = self.network(item);
                    found.extend(subnet.map(|subnet| Peer::Subnet(subnet.into())));
                }
                return true;
            }
            "nodes" | "domainNames" => {
                let message =
                    format!("`{name}` cannot be expressed: they are not in the inventory");
                let help = "name their addresses under `networks`".to_owned();
                self.problems.report_help(field.key, message, help);
            }
            name => found.extend(self.pods(api, name, field.node).map(Peer::Segment)),
        }
        false
    }
}
