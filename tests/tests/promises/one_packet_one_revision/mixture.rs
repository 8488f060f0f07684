//! Whether the hammer could see a mixture at all: computed from the tables of both revisions.

use anyhow::{Context, Result, ensure};
use lab::{Expected, Family, HostSpec, Outcome, Service};
use policy::{
    Action, Classes, Direction, Host, HostName, HostPolicy, IdentityTable, Inventory, PolicySet,
    Population, PortKey, ProtocolSlot, Revision, SourceFile, classify, compile, parse,
};

use super::{HOSTS, flows, revisions};

/// One host's tables of one revision.
struct Tables {
    policy: HostPolicy,
    classes: Classes,
}

fn tables(text: &str, host: &HostSpec) -> Result<Tables> {
    let file = SourceFile {
        path: "policy.yaml".to_owned(),
        content: text.to_owned(),
    };
    let set: PolicySet = parse(&[file])?;
    let hosts = HOSTS.map(|HostSpec { place, labels }| Host {
        name: HostName(place.name.to_owned()),
        addresses: Family::ALL.map(|family| place.address(family)).to_vec(),
        labels: labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        quarantined: false,
    });
    let inventory = Inventory {
        hosts: hosts.to_vec(),
    };
    let mut identities = IdentityTable::default();
    let population = Population::new(&set, &inventory, &mut identities);
    let host = inventory
        .host(host.place.name)
        .context("the host is in the inventory")?;
    let subject = set.subject(host, &mut identities);
    let policy = compile(&set, Revision(1), &population, &subject);
    let classes = classify(&policy)?;
    Ok(Tables { policy, classes })
}

/// Whether a lookup that takes the peer's class, the port's class and the cell from these tables
/// allows a flow; none when there is no such cell.
fn allows(
    [peer, port, cell]: [&Tables; 3],
    direction: Direction,
    flow: &Expected,
    family: Family,
) -> Option<bool> {
    let other = match direction {
        Direction::Ingress => HostSpec::WEB,
        Direction::Egress => HostSpec::APP,
    };
    let key = match flow.flows[0].service {
        Service::Tcp(key) => PortKey {
            slot: ProtocolSlot::Tcp,
            key,
        },
        Service::Udp(key) => PortKey {
            slot: ProtocolSlot::Udp,
            key,
        },
        Service::Sctp(key) => PortKey {
            slot: ProtocolSlot::Sctp,
            key,
        },
        Service::Ping => return None,
    };
    let (row, column) = (
        peer.classes.peer(other.place.address(family)),
        port.classes.port(direction, key),
    );
    let at = row.0 as usize * cell.classes.port_classes as usize + usize::from(column.0);
    let rule = cell.classes.matrix.get(at)?.enforced;
    Some(cell.policy.rules[rule.0 as usize].action == Action::Allow)
}

#[test]
fn would_be_seen_by_the_hammer() -> Result<()> {
    let texts = revisions();
    for (host, direction) in [
        (HostSpec::WEB, Direction::Egress),
        (HostSpec::APP, Direction::Ingress),
    ] {
        let [a, b] = [tables(&texts[0], &host)?, tables(&texts[1], &host)?];
        for pure in [&a, &b] {
            for (flow, family) in flows()
                .iter()
                .flat_map(|f| Family::ALL.map(|family| (f, family)))
            {
                // What app-1 denies, web-1 lets out, so that app-1's mistake would show.
                let expected = direction == Direction::Egress || flow.outcome == Outcome::Allowed;
                let allowed = allows([pure; 3], direction, flow, family);
                ensure!(
                    allowed == Some(expected),
                    "{} at {direction}: {allowed:?}",
                    flow.flows[0]
                );
            }
        }
        for mixture in [
            [&a, &b, &b],
            [&b, &a, &b],
            [&b, &b, &a],
            [&b, &a, &a],
            [&a, &b, &a],
            [&a, &a, &b],
        ] {
            let seen = flows().iter().any(|flow| {
                let expected = direction == Direction::Egress || flow.outcome == Outcome::Allowed;
                Family::ALL
                    .iter()
                    .any(|family| allows(mixture, direction, flow, *family) != Some(expected))
            });
            let of = mixture.map(|part| {
                if std::ptr::eq(part, &raw const a) {
                    'a'
                } else {
                    'b'
                }
            });
            ensure!(
                seen,
                "{host:?}: a mixture {of:?} of peers, ports and cells judges as each does"
            );
        }
    }
    Ok(())
}
