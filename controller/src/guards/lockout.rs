//! Which hosts an apply closes to the operator who makes it.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use policy::{Action, Direction, HostName, Origin, PortKey, ProtocolSlot, Timestamp};
use proto::{convert::address_to_bytes, host_report::HostReport, v1};

use super::{names, runs_controller};
use crate::{compiled::Compiled, model::Host, publish::Publication, state::State};

/// Where operators come in when a host has no failsafe that says otherwise.
const SSH: u16 = 22;

/// A way of an operator to a host that is open now and that a new policy closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostAccess {
    /// The host.
    pub host: HostName,
    /// Where the operator works.
    pub source: IpAddr,
    /// The TCP port.
    pub port: u16,
    /// What denies it.
    pub origin: Arc<Origin>,
    /// At which end: ingress at the host itself, egress at the host where the operator works.
    pub direction: Direction,
    /// The host has not reported its failsafe.
    pub failsafe_unknown: bool,
}

impl From<&LostAccess> for v1::LostAccess {
    fn from(lost: &LostAccess) -> Self {
        let LostAccess {
            host,
            source,
            port,
            origin,
            direction,
            failsafe_unknown,
        } = lost;
        Self {
            host: host.0.clone(),
            operator_address: address_to_bytes(*source),
            port: u32::from(*port),
            origin: Some(v1::Origin::from(origin.as_ref())),
            direction: v1::Direction::from(*direction).into(),
            failsafe_unknown: *failsafe_unknown,
        }
    }
}

/// The ways from `sources` that `candidate` closes, by host. Each host is asked about the TCP ports of
/// its failsafe, or 22. A host in quarantine is left out: it is closed already, and stays so.
pub fn lost_access(
    state: &State,
    candidate: &Compiled,
    sources: &BTreeSet<IpAddr>,
    now: Timestamp,
) -> Vec<LostAccess> {
    let mut asked = Asked {
        now,
        known: HashMap::new(),
    };
    let mut hosts: Vec<&Host> = state
        .hosts()
        .filter(|host| host.quarantine.is_none())
        .collect();
    hosts.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    let mut lost = Vec::new();
    for host in hosts {
        let Some(after) = candidate.publication(&host.name) else {
            continue;
        };
        let before = state.publisher.current(host.id);
        for &source in sources {
            let reachable: Vec<IpAddr> = host
                .addresses
                .iter()
                .copied()
                .filter(|address| address.is_ipv4() == source.is_ipv4())
                .collect();
            // Within one machine nothing is policed.
            let is_itself = host.addresses.contains(&source)
                || (state.own.addresses.contains(&source) && runs_controller(state, host));
            if is_itself || reachable.is_empty() {
                continue;
            }
            let at_work = state.owner(source);
            let at_work_before = at_work.and_then(|it| state.publisher.current(it.id));
            let at_work_after = at_work.and_then(|it| candidate.publication(&it.name));
            for port in ports(host) {
                // A failsafe keeps the host's own side open, whatever a policy says.
                let is_kept = is_failsafe(host, source, port);
                let mut closed =
                    |own: Option<&Arc<Publication>>, at_work: Option<&Arc<Publication>>| {
                        let ingress = own.filter(|_| !is_kept).and_then(|own| {
                            let denied = asked.denial(own, Direction::Ingress, source, port)?;
                            Some((denied, Direction::Ingress))
                        });
                        ingress.or_else(|| {
                            let at_work = at_work?;
                            // One address that is open is a way.
                            let mut denials = reachable
                                .iter()
                                .map(|peer| asked.denial(at_work, Direction::Egress, *peer, port));
                            let first = denials.next()??;
                            denials
                                .all(|it| it.is_some())
                                .then_some((first, Direction::Egress))
                        })
                    };
                if closed(before.as_ref(), at_work_before.as_ref()).is_some() {
                    continue;
                }
                if let Some((origin, direction)) = closed(Some(after), at_work_after) {
                    lost.push(LostAccess {
                        host: host.name.clone(),
                        source,
                        port,
                        origin,
                        direction,
                        failsafe_unknown: direction == Direction::Ingress
                            && host.report.host.is_none(),
                    });
                }
            }
        }
    }
    lost
}

/// Why an apply that closes these ways is refused; none where each may be open all the same, because
/// its host has not said what its failsafe is.
pub fn refusal(lost: &[LostAccess]) -> Option<String> {
    let certain: Vec<&LostAccess> = lost.iter().filter(|it| !it.failsafe_unknown).collect();
    let first = certain.first()?;
    let hosts: BTreeSet<&str> = certain.iter().map(|it| it.host.0.as_str()).collect();
    let sources: BTreeSet<String> = certain.iter().map(|it| it.source.to_string()).collect();
    let sources = names(sources.iter().map(String::as_str));
    let verb = if hosts.len() == 1 { "does" } else { "do" };
    Some(format!(
        "{} would not let you in any more on tcp/{} from {sources}, and {verb} so now. Allow it in the \
         policy, or put your subnet under [failsafe] in the agent's configuration there and reload the \
         agent; or say that it is meant with --allow-lockout",
        names(hosts),
        first.port,
    ))
}

fn failsafe(host: &Host) -> Option<&HostReport> {
    host.report.host.as_ref().filter(|report| {
        !report.failsafe_subnets.is_empty() && !report.failsafe_tcp_ports.is_empty()
    })
}

/// Where operators come in.
fn ports(host: &Host) -> Vec<u16> {
    failsafe(host).map_or(vec![SSH], |report| report.failsafe_tcp_ports.clone())
}

fn is_failsafe(host: &Host, source: IpAddr, port: u16) -> bool {
    failsafe(host).is_some_and(|report| {
        report.failsafe_tcp_ports.contains(&port)
            && report
                .failsafe_subnets
                .iter()
                .any(|subnet| subnet.contains(&source))
    })
}

/// Verdicts that were asked for: hosts share publications.
struct Asked {
    now: Timestamp,
    known: HashMap<(*const Publication, Direction, IpAddr, u16), Option<Arc<Origin>>>,
}

impl Asked {
    /// What denies the flow; none: it is allowed.
    fn denial(
        &mut self,
        publication: &Arc<Publication>,
        direction: Direction,
        peer: IpAddr,
        port: u16,
    ) -> Option<Arc<Origin>> {
        let key = (Arc::as_ptr(publication), direction, peer, port);
        let now = self.now;
        self.known
            .entry(key)
            .or_insert_with(|| denial(publication, direction, peer, port, now))
            .clone()
    }
}

/// What of a policy denies a TCP flow; none: it is allowed.
pub(super) fn denial(
    publication: &Publication,
    direction: Direction,
    peer: IpAddr,
    port: u16,
    now: Timestamp,
) -> Option<Arc<Origin>> {
    let port = PortKey {
        slot: ProtocolSlot::Tcp,
        key: port,
    };
    publication
        .policy
        .decide(direction, peer, port, now)
        .filter(|rule| rule.action == Action::Deny)
        .map(|rule| Arc::clone(&rule.origin))
}
