//! The rules that a host adds to its policy on its own account: the lifeline, the failsafe and
//! anti-spoofing. They are ordinary rules of their tiers, so no packet pays for them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv6Net};
use policy::{
    Action, Direction, HostPolicy, Mode, Origin, PeerMatch, PortSpan, ProtocolSlot, Rule, Tier,
    host_policy::SubnetMatch,
};

use crate::config::OtherEthertypes;

/// What a host knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalTiers {
    /// Where the controllers listen: nothing cuts the way there.
    pub controllers: Vec<SocketAddr>,
    /// Where operators come from.
    pub failsafe_subnets: Vec<IpNet>,
    /// The TCP ports that they come to.
    pub failsafe_tcp_ports: Vec<u16>,
    /// The addresses that no packet from outside may claim.
    pub own_addresses: Vec<IpAddr>,
    /// What becomes of packets that no rule speaks of.
    pub other_ethertypes: OtherEthertypes,
    /// The config file's path, for reports.
    pub config_file: String,
}

impl LocalTiers {
    /// A number that changes when the rules do, and is the same in every build.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let digest = proto::sha256(format!("{self:?}").as_bytes());
        digest[..8]
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
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
                    Action::Allow,
                    peers,
                    ports,
                )
            })
            .collect();
        // Agents elsewhere come to a controller on this very host.
        let here = self
            .controllers
            .iter()
            .filter(|controller| self.own_addresses.contains(&controller.ip()));
        rules.extend(here.map(|controller| {
            self.rule(
                Tier::Lifeline,
                "controller",
                Direction::Ingress,
                Action::Allow,
                PeerMatch::Any,
                ports(ProtocolSlot::Tcp, [controller.port()]),
            )
        }));
        rules.extend(self.dhcp());
        if !self.failsafe_subnets.is_empty() && !self.failsafe_tcp_ports.is_empty() {
            rules.push(self.rule(
                Tier::Failsafe,
                "operators",
                Direction::Ingress,
                Action::Allow,
                of_subnets(self.failsafe_subnets.iter().copied()),
                ports(ProtocolSlot::Tcp, self.failsafe_tcp_ports.iter().copied()),
            ));
        }
        if !self.own_addresses.is_empty() {
            rules.push(self.rule(
                Tier::AntiSpoofing,
                "own-addresses",
                Direction::Ingress,
                Action::Deny,
                of_subnets(self.own_addresses.iter().copied().map(IpNet::from)),
                Vec::new(),
            ));
        }
        rules
    }

    /// DHCP (RFC 2131) and DHCPv6 (RFC 8415), and no more of it than a host on a link needs: to any
    /// address it would be a way out of quarantine. Clients take the answer to a broadcast from a packet
    /// socket, which is before any verdict. One that fails to renew by unicast falls back to broadcast.
    fn dhcp(&self) -> [Rule; 3] {
        let rule = |direction, subnets: &[IpNet], port| {
            self.rule(
                Tier::Lifeline,
                "dhcp",
                direction,
                Action::Allow,
                of_subnets(subnets.iter().copied()),
                ports(ProtocolSlot::Udp, [port]),
            )
        };
        let broadcast = IpNet::from(IpAddr::from(Ipv4Addr::BROADCAST));
        // All_DHCP_Relay_Agents_and_Servers.
        let servers = IpNet::from(IpAddr::from(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2)));
        let link_local = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
        [
            rule(Direction::Egress, &[broadcast], 67),
            rule(Direction::Egress, &[servers, link_local.into()], 547),
            rule(Direction::Ingress, &[link_local.into()], 546),
        ]
    }

    fn rule(
        &self,
        tier: Tier,
        name: &str,
        direction: Direction,
        action: Action,
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
            action,
            mode: Mode::Enforce,
            peers,
            ports,
            log: false,
            expires: None,
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

#[cfg(test)]
mod tests;
