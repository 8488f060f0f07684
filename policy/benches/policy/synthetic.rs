//! Fleets that look like real ones, the same at each run: applications in tiers and environments,
//! a few networks, and policies that follow from them.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use bulkhead_policy::{
    Action, Host, HostName, Identity, IdentityTable, Inventory, Labels, Mode, Origin, PolicySet,
    PortSpan, ProtocolSlot, Revision, Selector, Subject, SubnetMatch,
    host_policy::{HostPolicy, PeerMatch, Rule},
    selector::{Requirement, Test},
    set::{
        Allow, OrderedPolicy, OrderedRule, Peer, Peers, Policy, Ports, Segment, SegmentId, Side,
    },
    words::{Direction, Effect, Tier},
};
use ipnet::IpNet;

const TIERS: [&str; 5] = ["web", "app", "db", "cache", "queue"];
const ENVIRONMENTS: [&str; 2] = ["prod", "dev"];

/// Numbers that look random and are the same everywhere (Steele, Lea and Flood, 2014: SplitMix64).
pub struct Numbers(pub u64);

impl Numbers {
    /// From 0 to below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

pub fn origin(rule: &str, line: usize) -> Arc<Origin> {
    Arc::new(Origin {
        rule: rule.to_owned(),
        file: "policies/fleet.yaml".to_owned(),
        line: line as u32,
    })
}

fn span(port: usize) -> PortSpan {
    let port = port as u16;
    PortSpan {
        slot: ProtocolSlot::Tcp,
        first: port,
        last: port,
    }
}

fn selector(labels: &[(&str, &str)]) -> Selector {
    let required = labels.iter().map(|(key, value)| Requirement {
        key: (*key).to_owned(),
        test: Test::In(BTreeSet::from([(*value).to_owned()])),
    });
    required.collect()
}

fn segment(name: String, selector: Selector, subnets: Vec<IpNet>) -> Segment {
    Segment {
        origin: origin(&name, 1),
        name,
        selector,
        subnets,
    }
}

/// Hosts of every application, tier and environment in turn.
pub fn hosts(count: usize, applications: usize) -> Inventory {
    let hosts = (0..count).map(|number| {
        let tier = TIERS[number % 5];
        let environment = ENVIRONMENTS[number / 5 % 2];
        let application = number / 10 % applications;
        Host {
            name: HostName(format!("a{application}-{tier}-{environment}-{number}")),
            addresses: vec![address(number)],
            labels: labels(&[
                ("app", &format!("a{application}")),
                ("tier", tier),
                ("env", environment),
            ]),
            quarantined: false,
        }
    });
    Inventory {
        hosts: hosts.collect(),
    }
}

pub fn address(number: usize) -> IpAddr {
    IpAddr::from([10, (number >> 16) as u8, (number >> 8) as u8, number as u8])
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    labels.iter().map(owned).collect()
}

/// 500 segments and 2,000 policies over 100 applications.
///
/// 490 segments are an application, or one of its tiers in production or development as far as they
/// go; the others are environments, tiers everywhere, and networks. Most policies let one tier
/// of an application in from another, from a network, or from another application's service.
pub fn fleet_set() -> PolicySet {
    let mut numbers = Numbers(7);
    let mut segments = Vec::new();
    for environment in ENVIRONMENTS {
        segments.push(segment(
            format!("env-{environment}"),
            selector(&[("env", environment)]),
            Vec::new(),
        ));
    }
    for tier in TIERS {
        segments.push(segment(
            format!("tier-{tier}"),
            selector(&[("tier", tier)]),
            Vec::new(),
        ));
    }
    for (name, net) in [
        ("office", "192.168.0.0/16"),
        ("partners", "198.51.100.0/24"),
        ("first-rack", "10.0.0.0/24"),
    ] {
        segments.push(segment(
            format!("net-{name}"),
            Selector::default(),
            net.parse().into_iter().collect(),
        ));
    }
    for number in 0..490 {
        let (application, part) = (number / 5, number % 5);
        let name = format!("a{application}");
        let selector = match part {
            0 => selector(&[("app", &name)]),
            _ => selector(&[("app", &name), ("tier", TIERS[part - 1])]),
        };
        segments.push(segment(format!("app-{name}-{part}"), selector, Vec::new()));
    }
    segments.sort_by(|a, b| a.name.cmp(&b.name));
    let id = |name: &str| {
        let place = segments.binary_search_by(|segment| segment.name.as_str().cmp(name));
        SegmentId(place.unwrap_or_default() as u32)
    };

    let policies = (0..2_000).map(|number| {
        let application = number % 98;
        let part = number / 98 % 5;
        let name = format!("policy-{number:04}");
        let rule = |rule: usize, numbers: &mut Numbers| {
            let peer = match numbers.below(20) {
                0 => id("net-office"),
                1 => id("tier-web"),
                2 => id("env-prod"),
                3 => id("net-partners"),
                4..8 => id(&format!("app-a{}-{}", numbers.below(98), numbers.below(5))),
                _ => id(&format!("app-a{application}-{}", numbers.below(5))),
            };
            let first = span(1_000 + numbers.below(60) * 10);
            Allow {
                peers: Peers::Of(vec![Peer::Segment(peer)]),
                ports: Ports::spans(vec![first]),
                log: false,
                origin: origin(&format!("{name}/ingress[{rule}]"), number * 20 + rule),
            }
        };
        let rules = (0..3).map(|place| rule(place, &mut numbers)).collect();
        let side = Side {
            origin: origin(&format!("{name}/ingress"), number * 20),
            rules,
        };
        let egress = number % 10 == 0;
        Policy {
            applies_to: vec![id(&format!("app-a{application}-{part}"))],
            ingress: (!egress).then(|| side.clone()),
            egress: egress.then_some(side),
            mode: Mode::Enforce,
            name: name.clone(),
        }
    });
    let policies = policies.collect();
    let dev_to_prod = OrderedRule {
        action: Action::Deny,
        peers: Peers::Of(vec![Peer::Segment(id("env-dev"))]),
        ports: Ports::Any,
        log: false,
        origin: origin("dev-never-reaches-prod/ingress[0]", 90_000),
    };
    let guardrail = OrderedPolicy {
        name: "dev-never-reaches-prod".to_owned(),
        priority: 10,
        applies_to: vec![id("env-prod")],
        ingress: vec![dev_to_prod],
        egress: Vec::new(),
        mode: Mode::Enforce,
    };
    PolicySet {
        segments,
        policies,
        guardrails: vec![guardrail],
        ..PolicySet::default()
    }
}

/// One host whose 3,000 rules name segments of 1,000 identities, on 150 ports and ranges.
pub fn three_thousand_rules() -> (PolicySet, Inventory) {
    let mut numbers = Numbers(3);
    let mut set = fleet_set();
    set.guardrails.clear();
    let segments = set.segments.len();
    let own = SegmentId(0);
    let rules = (0..3_000).map(|rule| {
        let peers = 1 + numbers.below(3);
        let peer = |_| Peer::Segment(SegmentId(numbers.below(segments) as u32));
        let peers = Peers::Of((0..peers).map(peer).collect());
        let first = 1 + numbers.below(150) * 50;
        let wide = numbers.below(10) == 0;
        let span = PortSpan {
            last: (first + if wide { 60 } else { 0 }) as u16,
            ..span(first)
        };
        Allow {
            peers,
            ports: Ports::spans(vec![span]),
            log: false,
            origin: origin(&format!("large/ingress[{rule}]"), rule),
        }
    });
    let large = Policy {
        name: "large".to_owned(),
        applies_to: vec![own],
        ingress: Some(Side {
            origin: origin("large/ingress", 1),
            rules: rules.collect(),
        }),
        egress: None,
        mode: Mode::Enforce,
    };
    set.policies = vec![large];
    (set, hosts(1_000, 100))
}

/// The first host that anything applies to.
pub fn subject(set: &PolicySet, inventory: &Inventory, identities: &mut IdentityTable) -> Subject {
    let subjects = inventory
        .hosts
        .iter()
        .map(|host| set.subject(host, identities));
    let none = Subject {
        identity: Identity::WORLD,
        segments: Vec::new(),
    };
    subjects
        .into_iter()
        .find(|subject| !subject.segments.is_empty())
        .unwrap_or(none)
}

/// 1,000 denied and 1,000 allowed subnets, each a rule of its own, of all lengths and within each other.
pub fn overlapping() -> HostPolicy {
    let mut numbers = Numbers(11);
    let mut rules = Vec::new();
    let rule = |peers, action: Effect, tier, line| Rule {
        direction: Direction::Ingress,
        tier,
        action: action.into(),
        mode: Mode::Enforce,
        peers,
        ports: Vec::new(),
        log: false,
        expires: None,
        origin: origin("overlap", line),
    };
    for (effect, tier) in [
        (Effect::Deny, Tier::Guardrail),
        (Effect::Allow, Tier::Policy),
    ] {
        for line in 0..1_000 {
            let length = 9 + numbers.below(22) as u8;
            let address = address(numbers.below(1 << 22));
            let subnets = IpNet::new(address, length)
                .map(|net| SubnetMatch::from(net.trunc()))
                .into_iter()
                .collect();
            let identities = Vec::new();
            let peers = PeerMatch::Of {
                identities,
                subnets,
            };
            rules.push(rule(peers, effect, tier, line));
        }
    }
    rules.push(rule(PeerMatch::Any, Effect::Deny, Tier::Policy, 0));
    for direction in Direction::ALL {
        rules.push(Rule {
            direction,
            ..rule(PeerMatch::Any, Effect::Allow, Tier::Default, 0)
        });
    }
    HostPolicy {
        revision: Revision(1),
        identity: Identity::FIRST,
        rules,
        addresses: Default::default(),
    }
}
