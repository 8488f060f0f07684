//! The rules that a host adds to its policy on its own account: the lifeline, the failsafe and
//! anti-spoofing. They are ordinary rules of their tiers, so no packet pays for them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use policy::{
    Direction, Effect, HostPolicy, Mode, Origin, PeerMatch, PortSpan, ProtocolSlot, Rule, Tier,
    host_policy::SubnetMatch,
};

/// What a host knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LocalTiers {
    /// Where the controllers listen: nothing cuts the way there.
    pub controllers: Vec<SocketAddr>,
    /// Where operators come from.
    pub failsafe_subnets: Vec<IpNet>,
    /// The TCP ports that they come to.
    pub failsafe_tcp_ports: Vec<u16>,
    /// The addresses that no packet from outside may claim.
    pub own_addresses: Vec<IpAddr>,
    /// The config file's path, for reports.
    pub config_file: String,
}

impl LocalTiers {
    /// A number that changes when the rules do.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// The policy with this host's own rules, in order of precedence.
    #[must_use]
    pub fn merge(&self, policy: &HostPolicy) -> HostPolicy {
        let mut merged = policy.clone();
        merged.rules.extend(self.rules());
        // Stable: within a tier the order of the compiler stands.
        merged.rules.sort_by_key(|rule| rule.tier);
        merged
    }

    fn rules(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self
            .controllers
            .iter()
            .map(|controller| {
                let peers = of_subnets([IpNet::from(controller.ip())]);
                let ports = ports(ProtocolSlot::Tcp, [controller.port()]);
                self.rule(
                    Tier::Lifeline,
                    "controller",
                    Direction::Egress,
                    Effect::Allow,
                    peers,
                    ports,
                )
            })
            .collect();
        // DHCP (RFC 2131) and DHCPv6 (RFC 8415): servers' ports outward, clients' ports inward.
        for (direction, keys) in [
            (Direction::Egress, [67, 547]),
            (Direction::Ingress, [68, 546]),
        ] {
            let ports = ports(ProtocolSlot::Udp, keys);
            rules.push(self.rule(
                Tier::Lifeline,
                "dhcp",
                direction,
                Effect::Allow,
                PeerMatch::Any,
                ports,
            ));
        }
        if !self.failsafe_subnets.is_empty() && !self.failsafe_tcp_ports.is_empty() {
            rules.push(self.rule(
                Tier::Failsafe,
                "operators",
                Direction::Ingress,
                Effect::Allow,
                of_subnets(self.failsafe_subnets.iter().copied()),
                ports(ProtocolSlot::Tcp, self.failsafe_tcp_ports.iter().copied()),
            ));
        }
        if !self.own_addresses.is_empty() {
            rules.push(self.rule(
                Tier::AntiSpoofing,
                "own-addresses",
                Direction::Ingress,
                Effect::Deny,
                of_subnets(self.own_addresses.iter().copied().map(IpNet::from)),
                Vec::new(),
            ));
        }
        rules
    }

    fn rule(
        &self,
        tier: Tier,
        name: &str,
        direction: Direction,
        effect: Effect,
        peers: PeerMatch,
        ports: Vec<PortSpan>,
    ) -> Rule {
        let file = match tier {
            Tier::Failsafe => self.config_file.clone(),
            _ => String::new(),
        };
        let origin = Arc::new(Origin {
            rule: format!("{tier}/{name}"),
            file,
            line: 0,
        });
        Rule {
            direction,
            tier,
            effect,
            mode: Mode::Enforce,
            peers,
            ports,
            log: false,
            origin,
        }
    }
}

fn of_subnets(subnets: impl IntoIterator<Item = IpNet>) -> PeerMatch {
    let mut subnets: Vec<SubnetMatch> = subnets
        .into_iter()
        .map(|subnet| SubnetMatch {
            subnet: subnet.trunc(),
            except: Vec::new(),
        })
        .collect();
    subnets.sort();
    subnets.dedup();
    PeerMatch::Of {
        identities: Vec::new(),
        subnets,
    }
}

fn ports(slot: ProtocolSlot, keys: impl IntoIterator<Item = u16>) -> Vec<PortSpan> {
    let mut spans: Vec<PortSpan> = keys
        .into_iter()
        .map(|key| PortSpan {
            slot,
            first: key,
            last: key,
        })
        .collect();
    spans.sort();
    spans.dedup();
    spans
}
