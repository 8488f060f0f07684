//! The rules of a security group.

use crate::{
    host_policy::SubnetMatch,
    import::{
        aws::Reader,
        object::{field, integer, is_mapping, items},
    },
    parse::{
        collector::{Collector, quote},
        fields::{Fields, word},
        values::subnet,
        yaml::Node,
    },
    service::{PortSpan, ProtocolSlot},
    set::{Allow, Peer, Peers, Ports},
};

const WHAT: &str = "a rule of a security group";

impl Reader<'_> {
    /// Reads one item of `IpPermissions` or `IpPermissionsEgress`.
    pub(super) fn allow(&mut self, node: &Node, rule: String) -> Option<Allow> {
        let known = [
            "IpProtocol",
            "FromPort",
            "ToPort",
            "IpRanges",
            "Ipv6Ranges",
            "UserIdGroupPairs",
            "PrefixListIds",
        ];
        let fields = Fields::read(node, WHAT, &known, &mut self.problems)?;
        let ports = ports(&fields, &mut self.problems);
        let mut peers = Vec::new();
        for pair in items(&fields, "UserIdGroupPairs", &mut self.problems) {
            peers.extend(self.peer_group(pair));
        }
        for (list, cidr) in [("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")] {
            for range in items(&fields, list, &mut self.problems) {
                let known = [cidr, "Description"];
                let what = format!("an item of `{list}`");
                let Some(fields) = Fields::read(range, &what, &known, &mut self.problems) else {
                    continue;
                };
                let range = fields
                    .require(cidr, &what, &mut self.problems)
                    .and_then(|field| subnet(field.node, &mut self.problems));
                peers.extend(range.map(SubnetMatch::from).map(Peer::Subnet));
            }
        }
        for list in items(&fields, "PrefixListIds", &mut self.problems) {
            peers.extend(self.prefix_list(list));
        }
        Some(Allow {
            peers: Peers::Of(peers),
            ports: ports?,
            log: false,
            origin: self.origin(rule, node.place),
        })
    }

    fn prefix_list(&mut self, node: &Node) -> Vec<Peer> {
        if !is_mapping(node, "an item of `PrefixListIds`", &mut self.problems) {
            return Vec::new();
        }
        let Some(id) = field(node, "PrefixListId")
            .and_then(|id| word(id, "a prefix list's id", &mut self.problems))
        else {
            self.problems.report(
                node.place,
                "an item of `PrefixListIds` needs a field `PrefixListId`",
            );
            return Vec::new();
        };
        let Some(subnets) = self.prefix_lists.get(&id.text) else {
            self.problems.report_help(
                id.place,
                format!(
                    "`PrefixListIds` names {}, and no file says what it holds",
                    quote(&id.text)
                ),
                "give what `aws ec2 describe-prefix-lists` prints, or a file of that form: \
                 {\"PrefixLists\": [{\"PrefixListId\": \"pl-...\", \"Cidrs\": [\"...\"]}]}"
                    .to_owned(),
            );
            return Vec::new();
        };
        subnets
            .iter()
            .map(|subnet| Peer::Subnet((*subnet).into()))
            .collect()
    }
}

/// What `IpProtocol`, `FromPort` and `ToPort` say. Only TCP, UDP and ICMP have ports or types: of
/// any other protocol AWS allows everything, whatever the range says.
fn ports(fields: &Fields<'_>, problems: &mut Collector<'_>) -> Option<Ports> {
    let protocol = fields.require("IpProtocol", WHAT, problems)?;
    let protocol = word(protocol.node, "`IpProtocol`", problems)?;
    let number = match protocol.text.as_str() {
        "-1" => return Some(Ports::Any),
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        "icmpv6" => 58,
        number => match number.parse::<u8>() {
            Ok(number) => number,
            Err(_) => {
                problems.report_help(
                    protocol.place,
                    format!("there is no protocol {}", quote(&protocol.text)),
                    "it is tcp, udp, icmp, icmpv6, a number from 0 to 255, or -1 for all"
                        .to_owned(),
                );
                return None;
            }
        },
    };
    let slot = ProtocolSlot::of(number);
    let span = match slot {
        ProtocolSlot::Other => PortSpan {
            slot,
            first: number.into(),
            last: number.into(),
        },
        ProtocolSlot::Sctp => whole(slot),
        ProtocolSlot::Tcp | ProtocolSlot::Udp => port_range(slot, fields, problems)?,
        ProtocolSlot::Icmp | ProtocolSlot::Icmpv6 => types(slot, fields, problems)?,
    };
    Some(Ports::spans(vec![span]))
}

const fn whole(slot: ProtocolSlot) -> PortSpan {
    PortSpan {
        slot,
        first: 0,
        last: slot.last_key(),
    }
}

/// `FromPort` and `ToPort` as ports.
fn port_range(
    slot: ProtocolSlot,
    fields: &Fields<'_>,
    problems: &mut Collector<'_>,
) -> Option<PortSpan> {
    let mut port = |name| {
        let field = fields.require(name, WHAT, problems)?;
        let port = integer(field.node, &format!("`{name}`"), 0, 65_535, problems)?;
        Some((u16::try_from(port).ok()?, field.node.place))
    };
    let (first, last) = (port("FromPort"), port("ToPort"));
    let ((first, place), (last, _)) = (first?, last?);
    if (first, last) == (0, u16::MAX) {
        return Some(whole(slot));
    }
    if last == 0 {
        problems.report(
            place,
            "port 0 alone cannot be expressed: ports are 1 to 65535",
        );
        return None;
    }
    if first > last {
        problems.report(place, format!("the range {first} to {last} runs backwards"));
        return None;
    }
    Some(PortSpan {
        slot,
        first: first.max(1),
        last,
    })
}

/// `FromPort` and `ToPort` as an ICMP type and code, -1 for all.
fn types(
    slot: ProtocolSlot,
    fields: &Fields<'_>,
    problems: &mut Collector<'_>,
) -> Option<PortSpan> {
    let mut byte = |name| {
        let field = fields.require(name, WHAT, problems)?;
        integer(field.node, &format!("`{name}` of ICMP"), -1, 255, problems)
    };
    let (kind, code) = (byte("FromPort"), byte("ToPort"));
    // -1 is no byte.
    let (kind, code) = (u8::try_from(kind?).ok(), u8::try_from(code?).ok());
    let Some(kind) = kind else {
        return Some(whole(slot));
    };
    let of = |code: u8| u16::from(kind) << 8 | u16::from(code);
    Some(PortSpan {
        slot,
        first: of(code.unwrap_or(0)),
        last: of(code.unwrap_or(255)),
    })
}
