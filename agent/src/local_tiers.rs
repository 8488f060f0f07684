//! The rules that a host adds to its policy on its own account: the lifeline, the failsafe and
//! anti-spoofing. They are ordinary rules of their tiers, so no packet pays for them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use datapath::layout::local_service;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy::{
    Action, Direction, HostPolicy, Mode, Origin, PeerMatch, PortSpan, ProtocolSlot, Rule, Tier,
    host_policy::SubnetMatch,
};

use crate::{config::OtherEthertypes, state::controllers::WayToControllers};

/// The port of DNS.
const DNS: u16 = 53;

const _: () = assert!(local_service::DHCP_RENEWAL == ProtocolSlot::Other.last_table_key());

/// What a host knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalTiers {
    /// Where the controllers listen: nothing cuts the way there.
    pub controllers: Vec<SocketAddr>,
    /// TCP ports of this host on which a controller was found to listen, whatever address it is configured
    /// by: agents elsewhere come to them.
    pub controller_ports: BTreeSet<u16>,
    /// The resolvers that tell where the controllers are; empty where no controller is known by name.
    pub resolvers: BTreeSet<IpAddr>,
    /// Where operators come from.
    pub failsafe_subnets: Vec<IpNet>,
    /// The TCP ports that they come to.
    pub failsafe_tcp_ports: Vec<u16>,
    /// Who may answer this host's DHCP client; empty: whoever answers a request of its own.
    pub dhcp_servers: Vec<IpNet>,
    /// The addresses that no packet from outside may claim.
    pub own_addresses: Vec<IpAddr>,
    /// What becomes of packets that no rule speaks of.
    pub other_ethertypes: OtherEthertypes,
    /// The config file's path, for reports.
    pub config_file: String,
}

impl LocalTiers {
    /// The same with another way to the controllers.
    #[must_use]
    pub fn with_way(self, way: WayToControllers) -> Self {
        let WayToControllers {
            addresses,
            ports_here,
            resolvers,
        } = way;
        Self {
            controllers: addresses,
            controller_ports: ports_here,
            resolvers,
            ..self
        }
    }

    /// A number that changes when the rules mean something else, and is the same in every build. What only
    /// reports show, such as how the path of the configuration file was written, does not count.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let meaning = Self {
            config_file: String::new(),
            ..self.clone()
        };
        let rules = meaning.rules();
        let digest = proto::sha256(format!("{rules:?} {:?}", self.other_ethertypes).as_bytes());
        digest[..8]
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Whether a controller is on this host, so that what cuts this host off cuts all others off.
    #[must_use]
    pub fn hosts_controller(&self) -> bool {
        !self.ports_of_controllers_here().is_empty()
    }

    /// The ports of controllers that are configured by an address of this host, and of those that were found
    /// to listen here.
    fn ports_of_controllers_here(&self) -> BTreeSet<u16> {
        let by_address = self
            .controllers
            .iter()
            .filter(|controller| self.own_addresses.contains(&controller.ip()))
            .map(SocketAddr::port);
        by_address
            .chain(self.controller_ports.iter().copied())
            .collect()
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
        rules.extend(self.ports_of_controllers_here().into_iter().map(|port| {
            self.rule(
                Tier::Lifeline,
                "controller",
                Direction::Ingress,
                Action::Allow,
                self.real_sources(&everywhere()),
                ports(ProtocolSlot::Tcp, [port]),
            )
        }));
        if !self.resolvers.is_empty() {
            rules.extend([ProtocolSlot::Udp, ProtocolSlot::Tcp].map(|protocol| {
                self.rule(
                    Tier::Lifeline,
                    "resolver",
                    Direction::Egress,
                    Action::Allow,
                    of_subnets(self.resolvers.iter().copied().map(IpNet::from)),
                    ports(protocol, [DNS]),
                )
            }));
        }
        rules.extend(self.dhcp());
        if !self.failsafe_subnets.is_empty() && !self.failsafe_tcp_ports.is_empty() {
            rules.push(self.rule(
                Tier::Failsafe,
                "operators",
                Direction::Ingress,
                Action::Allow,
                self.real_sources(&self.failsafe_subnets),
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
        rules.extend(self.martians());
        rules
    }

    /// Sources that nobody on a wire has: unspecified, loopback, multicast, reserved, and IPv4 addresses inside of
    /// IPv6 ones, which the host's own sockets show for IPv4 peers. A DHCP client that has no address yet sends
    /// its requests from 0.0.0.0 (RFC 2131, section 4.1): to their port policy decides. Duplicate address
    /// detection and multicast reports from `::` pass before any rule.
    fn martians(&self) -> [Rule; 3] {
        let rule = |name, direction, peers, ports| {
            let (tier, action) = (Tier::AntiSpoofing, Action::Deny);
            self.rule(tier, name, direction, action, peers, ports)
        };
        let unspecified = IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let all = |slot| PortSpan {
            slot,
            first: 0,
            last: u16::MAX,
        };
        let mut but_dhcp = [
            ProtocolSlot::Tcp,
            ProtocolSlot::Sctp,
            ProtocolSlot::Icmp,
            ProtocolSlot::Icmpv6,
            ProtocolSlot::Other,
        ]
        .map(all)
        .to_vec();
        but_dhcp.push(PortSpan {
            last: 66,
            ..all(ProtocolSlot::Udp)
        });
        but_dhcp.push(PortSpan {
            first: 68,
            ..all(ProtocolSlot::Udp)
        });
        but_dhcp.sort();
        let mapped = martian_subnets().into_iter().filter(is_mapped);
        [
            rule(
                "martian-sources",
                Direction::Ingress,
                excepting(&martian_subnets(), &[unspecified]),
                Vec::new(),
            ),
            rule(
                "martian-sources",
                Direction::Ingress,
                of_subnets([unspecified]),
                but_dhcp,
            ),
            rule(
                "martian-destinations",
                Direction::Egress,
                of_subnets(mapped),
                Vec::new(),
            ),
        ]
    }

    /// Subnets without the sources that are nobody's or this host's own.
    fn real_sources(&self, subnets: &[IpNet]) -> PeerMatch {
        let own = self.own_addresses.iter().copied().map(IpNet::from);
        let unreal: Vec<IpNet> = own.chain(martian_subnets()).collect();
        excepting(subnets, &unreal)
    }

    /// DHCP (RFC 2131) and DHCPv6 (RFC 8415) of this host's own client. Requests leave to where clients without an
    /// address send them: to any address they would be a way out of quarantine. What answers one passes, whoever
    /// sends it: the datapath knows which requests are open. A server that has answered is asked to renew the
    /// lease at its own address, but not in quarantine: there the client falls back to broadcast.
    fn dhcp(&self) -> [Rule; 4] {
        let rule = |tier, name, direction, peers, slot, key| {
            let ports = ports(slot, [key]);
            self.rule(tier, name, direction, Action::Allow, peers, ports)
        };
        let requests = |subnets: &[IpNet], port| {
            let peers = of_subnets(subnets.iter().copied());
            let (tier, slot) = (Tier::Lifeline, ProtocolSlot::Udp);
            rule(tier, "dhcp-requests", Direction::Egress, peers, slot, port)
        };
        let broadcast = IpNet::from(IpAddr::from(Ipv4Addr::BROADCAST));
        // All_DHCP_Relay_Agents_and_Servers.
        let servers = IpNet::from(IpAddr::from(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2)));
        let link_local = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
        [
            requests(&[broadcast], 67),
            requests(&[servers, link_local.into()], 547),
            rule(
                Tier::Lifeline,
                "dhcp-answers-to-own-requests",
                Direction::Ingress,
                self.dhcp_servers(),
                ProtocolSlot::Other,
                local_service::DHCP_ANSWER,
            ),
            rule(
                Tier::Failsafe,
                "dhcp-renewals-at-servers-that-answered",
                Direction::Egress,
                self.dhcp_servers(),
                ProtocolSlot::Other,
                local_service::DHCP_RENEWAL,
            ),
        ]
    }

    /// Who may answer this host's DHCP client: never who claims an address of this host, or nobody's.
    fn dhcp_servers(&self) -> PeerMatch {
        if self.dhcp_servers.is_empty() {
            self.real_sources(&everywhere())
        } else {
            self.real_sources(&self.dhcp_servers)
        }
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

fn everywhere() -> [IpNet; 2] {
    [Ipv4Net::default().into(), Ipv6Net::default().into()]
}

/// Sources that nobody on a wire has (RFC 6890, RFC 4291).
fn martian_subnets() -> Vec<IpNet> {
    let v4 = [([0, 0, 0, 0], 8), ([127, 0, 0, 0], 8), ([224, 0, 0, 0], 3)];
    // The first holds the unspecified and the loopback address.
    let v6 = [
        (Ipv6Addr::UNSPECIFIED, 96),
        (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96),
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
    ];
    let v4 = v4.map(|(network, bits)| Ipv4Net::new_assert(network.into(), bits).into());
    let v6 = v6.map(|(network, bits)| Ipv6Net::new_assert(network, bits).into());
    v4.into_iter().chain(v6).collect()
}

fn is_mapped(subnet: &IpNet) -> bool {
    matches!(subnet, IpNet::V6(subnet) if subnet.network().to_ipv4_mapped().is_some())
}

/// Subnets without others.
fn excepting(subnets: &[IpNet], others: &[IpNet]) -> PeerMatch {
    let mut others = others.to_vec();
    others.sort();
    others.dedup();
    let mut subnets: Vec<SubnetMatch> = subnets
        .iter()
        .map(|subnet| SubnetMatch {
            subnet: subnet.trunc(),
            except: others
                .iter()
                .filter(|other| subnet.contains(*other))
                .copied()
                .collect(),
        })
        .collect();
    subnets.sort();
    subnets.dedup();
    PeerMatch::Of {
        identities: Vec::new(),
        subnets,
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
