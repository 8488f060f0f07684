//! The same rules for every firewall, each as its expert would write them, and the traffic that meets them.
//!
//! A rule is what one line of a flat firewall is: an address that may come to a port, a subnet that
//! may come to a port, or a subnet that may not come at all, and outranks the others. Of each hundred
//! two are such denials, nested and overlapping, and one is a subnet; the rest are addresses.

use std::{collections::BTreeMap, fmt::Write as _, net::Ipv4Addr, sync::Arc};

use ipnet::{IpNet, Ipv4Net};
use policy::{
    Action, Direction, HostPolicy, Identity, Mode, Origin, PeerMatch, PortSpan, ProtocolSlot,
    Revision, Rule, SubnetMatch, Tier,
};

/// Where the server listens.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The address of the client's own; it is in [`CLIENTS`].
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
/// The port that it listens on, which the first rules open.
pub const PORT: u16 = 10_000;
/// An address that the first exact rule lets in.
pub const EXACT: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 0);
/// A subnet that the first subnet rule lets in; denials cut parts out of its upper half.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);
/// A subnet that no rule names.
pub const STRANGERS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 0);
/// Ports that the exact rules of one address open.
const PORTS: usize = 10;
/// Above this many addresses, ten share an identity: a compiled policy holds 16,384 lines.
const IDENTITIES: usize = 970;

/// So many rules.
pub struct Workload {
    allowed: Vec<(Ipv4Addr, u16)>,
    subnets: Vec<Ipv4Net>,
    denied: Vec<Ipv4Net>,
}

fn offset(base: Ipv4Addr, by: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base) + by as u32)
}

impl Workload {
    pub fn new(rules: usize) -> Self {
        let subnets = (rules / 100).max(1);
        let denied = (rules / 50).max(2);
        let exact = rules - subnets - denied;
        Self {
            allowed: (0..exact)
                .map(|rule| {
                    let port = PORT + (rule % PORTS) as u16;
                    (offset(EXACT, rule / PORTS), port)
                })
                .collect(),
            subnets: (0..subnets)
                .map(|rule| match rule {
                    0 => Ipv4Net::new_assert(CLIENTS, 16),
                    _ => Ipv4Net::new_assert(Ipv4Addr::new(10, 160, 0, 0), 24 + (rule % 5) as u8),
                })
                .enumerate()
                .map(|(rule, net)| match rule {
                    0 => net,
                    _ => Ipv4Net::new_assert(offset(net.network(), rule * 256), net.prefix_len()),
                })
                .collect(),
            // Each second one lies within the one before.
            denied: (0..denied)
                .map(|rule| {
                    let at = offset(CLIENTS, (128 + rule / 2 % 128) * 256 + rule / 256 * 16);
                    let length = if rule % 2 == 0 { 28 } else { 30 };
                    Ipv4Net::new_assert(at, length)
                })
                .collect(),
        }
    }

    /// One address more or one less, as hosts come and go.
    pub fn change_address(policy: &mut HostPolicy) {
        let address = Ipv4Addr::new(10, 150, 0, 1).into();
        if policy.addresses.remove(&address).is_none() {
            policy.addresses.insert(address, Identity(1_000));
        }
    }

    /// As a controller compiles it: addresses by identity.
    pub fn policy(&self, revision: u64) -> HostPolicy {
        let addresses = self.allowed.len().div_ceil(PORTS);
        let share = if addresses > IDENTITIES { 10 } else { 1 };
        let identity =
            |address: Ipv4Addr| Identity(1_000 + (u32::from(address) - u32::from(EXACT)) / share);
        let mut rules: Vec<Rule> = Vec::new();
        for net in &self.denied {
            let peers = subnet(*net);
            rules.push(rule(
                Tier::Guardrail,
                Action::Deny,
                peers,
                None,
                rules.len(),
            ));
        }
        for net in &self.subnets {
            let peers = subnet(*net);
            rules.push(rule(
                Tier::Policy,
                Action::Allow,
                peers,
                Some(PORT),
                rules.len(),
            ));
        }
        let pairs: BTreeMap<(Identity, u16), ()> = self
            .allowed
            .iter()
            .map(|(address, port)| ((identity(*address), *port), ()))
            .collect();
        for (identity, port) in pairs.into_keys() {
            let peers = PeerMatch::Of {
                identities: vec![identity],
                subnets: Vec::new(),
            };
            rules.push(rule(
                Tier::Policy,
                Action::Allow,
                peers,
                Some(port),
                rules.len(),
            ));
        }
        rules.push(rule(Tier::Policy, Action::Deny, PeerMatch::Any, None, 0));
        for direction in Direction::ALL {
            rules.push(Rule {
                direction,
                ..rule(Tier::Default, Action::Allow, PeerMatch::Any, None, 0)
            });
        }
        HostPolicy {
            revision: Revision(revision),
            identity: Identity::FIRST,
            rules,
            addresses: self
                .allowed
                .iter()
                .map(|(address, _)| ((*address).into(), identity(*address)))
                .collect(),
        }
    }

    /// For `nft -f`: what is established first, then sets and a verdict map, whatever their size.
    pub fn nftables(&self) -> String {
        let mut script = String::from(
            "table inet filter {\n\
             set denied { type ipv4_addr; flags interval; auto-merge; }\n\
             set subnets { type ipv4_addr . inet_service; flags interval; }\n\
             map allowed { type ipv4_addr . inet_service : verdict; }\n\
             chain input { type filter hook input priority filter; policy drop;\n\
             ct state vmap { established : accept, related : accept, invalid : drop }\n\
             ip saddr @denied drop\n\
             meta l4proto { tcp, udp } ip saddr . th dport vmap @allowed\n\
             meta l4proto { tcp, udp } ip saddr . th dport @subnets accept\n\
             }\n\
             chain output { type filter hook output priority filter; policy accept;\n\
             ct state vmap { established : accept, related : accept, invalid : drop }\n\
             }\n}\n",
        );
        let mut add = |kind: &str, set: &str, elements: Vec<String>| {
            for some in elements.chunks(4_096) {
                let _ = writeln!(
                    script,
                    "add {kind} inet filter {set} {{ {} }}",
                    some.join(", ")
                );
            }
        };
        let elements = |nets: &[Ipv4Net], port: &str| -> Vec<String> {
            nets.iter().map(|net| format!("{net}{port}")).collect()
        };
        add("element", "denied", elements(&self.denied, ""));
        add(
            "element",
            "subnets",
            elements(&self.subnets, &format!(" . {PORT}")),
        );
        let allowed = self.allowed.iter();
        let allowed = allowed.map(|(address, port)| format!("{address} . {port} : accept"));
        add("element", "allowed", allowed.collect());
        script
    }

    /// For `ipset restore`.
    pub fn ipset(&self) -> String {
        let mut script = String::from(
            "create denied hash:net maxelem 262144\n\
             create subnets hash:net,port maxelem 262144\n\
             create allowed hash:ip,port maxelem 262144 hashsize 65536\n",
        );
        for net in &self.denied {
            let _ = writeln!(script, "add denied {net} -exist");
        }
        for net in &self.subnets {
            for protocol in ["tcp", "udp"] {
                let _ = writeln!(script, "add subnets {net},{protocol}:{PORT} -exist");
            }
        }
        for (address, port) in &self.allowed {
            let _ = writeln!(script, "add allowed {address},udp:{port} -exist");
        }
        script
    }

    /// For `iptables-restore`, over those sets.
    pub fn iptables() -> &'static str {
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
         -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
         -A INPUT -m set --match-set denied src -j DROP\n\
         -A INPUT -m set --match-set allowed src,dst -j ACCEPT\n\
         -A INPUT -m set --match-set subnets src,dst -j ACCEPT\n\
         -A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
         -A OUTPUT -m conntrack --ctstate INVALID -j DROP\n\
         COMMIT\n"
    }
}

fn subnet(net: Ipv4Net) -> PeerMatch {
    PeerMatch::Of {
        identities: Vec::new(),
        subnets: vec![SubnetMatch::from(IpNet::from(net))],
    }
}

fn rule(tier: Tier, action: Action, peers: PeerMatch, port: Option<u16>, line: usize) -> Rule {
    let span = |slot, port| PortSpan {
        slot,
        first: port,
        last: port,
    };
    Rule {
        direction: Direction::Ingress,
        tier,
        action,
        mode: Mode::Enforce,
        peers,
        ports: port.map_or_else(Vec::new, |port| {
            vec![span(ProtocolSlot::Tcp, port), span(ProtocolSlot::Udp, port)]
        }),
        log: false,
        expires: None,
        origin: Arc::new(Origin {
            rule: format!("bench/ingress[{line}]"),
            file: "bench.yaml".to_owned(),
            line: line as u32,
        }),
    }
}
