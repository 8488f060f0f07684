//! It takes effect on the host and on every peer, and cuts what is open.

use anyhow::{Result, ensure};
use lab::{Expected, Family, HostSpec, LONG, Lab, Rollout, Service, allowed, denied, wait_until};

use crate::policies::policy;

use Service::{Ping, Tcp, Udp};

const HOSTS: [HostSpec; 3] = [HostSpec::WEB, HostSpec::APP, HostSpec::DB];

const QUARANTINE: [&str; 4] = ["quarantine", "web-1", "--reason", "a test of it"];

/// What holds without quarantine.
fn open() -> [Expected; 5] {
    [
        allowed("web-1", "app-1", Tcp(8080)),
        allowed("app-1", "web-1", Udp(5353)),
        allowed("client-1", "web-1", Tcp(8080)),
        allowed("web-1", "client-1", Tcp(8080)),
        allowed("web-1", "db-1", Ping),
    ]
}

/// The same, cut.
fn cut() -> Vec<Expected> {
    open()
        .iter()
        .map(|open| denied(open.flows[0].from, open.flows[0].to, open.flows[0].service))
        .collect()
}

fn boot(lab: &mut Lab) -> Result<()> {
    for host in ["web-1", "app-1", "client-1"] {
        lab.serve(host, &[Tcp(8080), Udp(5353)])?;
    }
    lab.apply(&policy(&[
        "appliesTo: app, ingress: [{ from: [web], allow: [any] }]",
        "appliesTo: web, ingress: [{ allow: [any] }], egress: [{ allow: [any] }]",
    ]))?;
    lab.check(&open())
}

#[test]
fn nothing_in_nothing_out_and_what_is_open_is_cut() -> Result<()> {
    Lab::run(&HOSTS, |lab| {
        boot(lab)?;
        let to_peer = lab.busy("web-1", "app-1", 7000, Family::V6)?;
        let from_outside = lab.busy("client-1", "web-1", 7001, Family::V4)?;
        let between_others = lab.busy("app-1", "db-1", 7002, Family::V4)?;
        for connection in [&to_peer, &from_outside] {
            connection.expect_progress()?;
        }

        let mut rollout: Rollout = lab.operator().one(&QUARANTINE)?;
        rollout.confirmed.sort();
        ensure!(
            rollout.confirmed == ["app-1", "db-1", "web-1"],
            "{rollout:?}"
        );
        for connection in [&to_peer, &from_outside] {
            connection.expect_silence()?;
        }
        between_others.expect_progress()?;
        lab.check(&cut())?;

        // A policy, a restart and the end of the agent make no hole.
        lab.apply(&policy(&["appliesTo: web, ingress: [{ allow: [any] }]"]))?;
        lab.agent("web-1")?.daemon().kill_9()?;
        lab.check(&cut())?;
        lab.agent("web-1")?.daemon().start()?;
        lab.wait_connected("web-1")?;
        lab.check(&cut())?;
        let host = lab.host_status("web-1")?;
        ensure!(
            host.is_some_and(|host| host.quarantined),
            "the controller has forgotten"
        );
        for (host, peer) in [("web-1", None), ("app-1", Some("web-1"))] {
            lab.wait_denial("by quarantine", host, |denial| {
                denial.tier == "quarantine"
                    && peer.is_none_or(|p| denial.peer.as_deref() == Some(p))
            })?;
        }

        // A reboot without a controller: the kernel forgets, the disk does not.
        lab.controller().kill_9()?;
        lab.agent("web-1")?.daemon().kill_9()?;
        lab.agent("web-1")?.once("detach")?.fine()?;
        lab.agent("web-1")?.daemon().start()?;
        wait_until("quarantine after a reboot", LONG, || {
            Ok(lab.check(&cut()).is_ok())
        })?;
        lab.controller().start()?;
        for host in HOSTS {
            lab.wait_connected(host.place.name)?;
        }
        lab.check(&cut())?;

        lab.operator().one::<Rollout>(&["release", "web-1"])?;
        lab.check(&open())
    })
}

#[test]
fn the_peers_cut_off_a_host_whose_own_agent_is_gone() -> Result<()> {
    Lab::run(&HOSTS, |lab| {
        boot(lab)?;
        let agent = lab.agent("web-1")?;
        agent.daemon().kill_9()?;
        // The worst case: whoever owns the host has removed its enforcement.
        agent.once("detach")?.fine()?;
        wait_until("the controller to miss the agent", LONG, || {
            Ok(lab
                .host_status("web-1")?
                .is_some_and(|host| !host.connected))
        })?;
        let answer = lab.operator().run(&QUARANTINE)?;
        ensure!(
            answer.code == 1,
            "not confirmed by the host, and yet fine: {answer:?}"
        );
        lab.check(&[
            denied("web-1", "app-1", Tcp(8080)),
            denied("app-1", "web-1", Udp(5353)),
            denied("web-1", "db-1", Ping),
            allowed("client-1", "web-1", Tcp(8080)),
        ])?;
        // Back again, it cuts itself off.
        lab.agent("web-1")?.daemon().start()?;
        lab.wait_connected("web-1")?;
        lab.check(&cut())
    })
}
