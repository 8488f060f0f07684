//! The laboratory itself is under test here, with no policy and no agent: what it calls allowed
//! gets through, what it calls denied does not, and nothing of it is left behind.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    ip,
    network::{CLIENT, CONTROLLER, Family, Network},
    probe::{Outcome, Service, attempt},
    servers::Servers,
    traffic::{Hammer, IdleConnection, Lockstep, Nail, Tap},
};

const SOON: Duration = Duration::from_secs(1);

/// Two hosts in one subnet and one in another.
fn network() -> Result<Network> {
    static NETWORKS: AtomicU32 = AtomicU32::new(1);
    let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("bh{}n{number}-", std::process::id());
    Network::new(&prefix, &[CONTROLLER, CLIENT, crate::HostSpec::WEB.place])
}

fn unplug(network: &Network, host: &str) -> Result<()> {
    ip::batch(Some(network.host(host)?.name()), "link set eth0 down")
}

#[test]
fn hosts_reach_each_other_over_both_families() -> Result<()> {
    let network = network()?;
    let services = [Service::Tcp(80), Service::Udp(80), Service::Ping];
    let _servers = Servers::start(network.host("web-1")?, &services)?;
    let _local = Servers::start(network.host("controller")?, &services)?;
    for place in [crate::HostSpec::WEB.place, CONTROLLER] {
        for (family, service) in Family::ALL.iter().flat_map(|f| services.map(|s| (*f, s))) {
            let client = network.host("client-1")?;
            let outcome = attempt(client, place.address(family), service, SOON * 5)?;
            ensure!(
                outcome == Outcome::Allowed,
                "{service} over {family}: {outcome}"
            );
        }
    }
    Ok(())
}

#[test]
fn silence_is_a_denial_and_a_refusal_is_not() -> Result<()> {
    let network = network()?;
    let client = network.host("client-1")?;
    let web = crate::HostSpec::WEB.place;
    for family in Family::ALL {
        for service in [Service::Tcp(80), Service::Udp(80)] {
            let outcome = attempt(client, web.address(family), service, SOON)?;
            ensure!(
                matches!(outcome, Outcome::Failed(_)),
                "{service} over {family}: {outcome}"
            );
        }
    }
    // Neighbours that are known already: a host that is gone must not be a refusal by the router.
    unplug(&network, "web-1")?;
    for family in Family::ALL {
        for service in [Service::Tcp(80), Service::Udp(80), Service::Ping] {
            let outcome = attempt(client, web.address(family), service, SOON)?;
            ensure!(
                outcome == Outcome::Denied,
                "{service} over {family}: {outcome}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_cut_connection_and_a_lost_datagram_are_noticed() -> Result<()> {
    let network = network()?;
    let (client, web) = (network.host("client-1")?, network.host("web-1")?);
    let address = |port| SocketAddr::new(crate::HostSpec::WEB.place.address(Family::V6), port);
    let busy = IdleConnection::open(client, web, address(8080))?.talk()?;
    let seen = Tap::start(web, busy.addresses())?;
    let sent = Lockstep::start(client, web, address(80), true)?;
    let pushed = Lockstep::start(client, web, address(81), false)?;
    busy.expect_progress()?;
    sent.expect_progress(100)?;
    pushed.expect_progress(100)?;
    seen.expect_more(0, 10)?;
    seen.expect_more(1, 10)?;
    unplug(&network, "web-1")?;
    busy.expect_silence()?;
    let quiet = seen.counts();
    busy.expect_silence()?;
    ensure!(
        seen.counts() == quiet,
        "packets on a cable that is unplugged"
    );
    for datagrams in [sent, pushed] {
        let lost = datagrams.finish();
        ensure!(lost.is_err(), "no datagram was missed: {lost:?}");
    }
    Ok(())
}

#[test]
fn a_hammer_notices_both_kinds_of_surprise() -> Result<()> {
    let network = network()?;
    let (client, web) = (network.host("client-1")?, network.host("web-1")?);
    let servers = Servers::start(web, &[Service::Tcp(80), Service::Udp(80)])?;
    let nail = |service, port, expected| Nail {
        from: client.clone(),
        to: SocketAddr::new(crate::HostSpec::WEB.place.address(Family::V4), port),
        service,
        expected,
    };
    let content = Hammer::start(vec![
        nail(Service::Tcp(80), 80, Outcome::Allowed),
        nail(Service::Udp(80), 80, Outcome::Allowed),
    ]);
    crate::wait_until("a thousand flows", crate::LONG, || {
        Ok(content.tried() > 1000)
    })?;
    let report = content.finish()?;
    ensure!(report.surprises == 0, "{report:?}");
    ensure!(
        servers.arrivals(Service::Tcp(80)) + servers.arrivals(Service::Udp(80)) == report.allowed
    );

    for nail in [
        nail(Service::Tcp(80), 80, Outcome::Denied),
        nail(Service::Tcp(81), 81, Outcome::Allowed),
        nail(Service::Udp(81), 81, Outcome::Allowed),
    ] {
        let surprised = Hammer::start(vec![nail]);
        crate::wait_until("ten flows", crate::LONG, || Ok(surprised.tried() > 10))?;
        let report = surprised.finish()?;
        ensure!(report.surprises > 10, "{report:?}");
    }
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let network = network()?;
    let names = ["web-1", "client-1"].map(|host| network.host(host).map(|n| n.name().to_owned()));
    drop(network);
    for name in names {
        let name = name?;
        ensure!(
            !Path::new("/run/netns").join(&name).exists(),
            "{name} is still there"
        );
    }
    Ok(())
}
