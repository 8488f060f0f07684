//! Programs, maps and links are pinned: no end of the agent lets a packet through or cuts one.

use anyhow::{Result, ensure};
use lab::{Expected, Family, HostSpec, LONG, Lab, Service, allowed, denied, wait_until};

use crate::policies::policy;

use Service::{Ping, Tcp};

const HOSTS: [HostSpec; 2] = [HostSpec::WEB, HostSpec::APP];

/// app-1 answers web-1 on these ports, and opens nothing: its replies pass on the word of the flow
/// table alone.
fn app_only_answers(ports: &str) -> String {
    policy(&[&format!(
        "appliesTo: app, ingress: [{{ from: [web], allow: [{ports}] }}], egress: []"
    )])
}

/// Boots, with a policy that allows some flows and denies others.
fn run(scenario: impl FnOnce(&mut Lab, &[Expected]) -> Result<()>) -> Result<()> {
    Lab::run(&HOSTS, |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081)])?;
        lab.apply(&app_only_answers(
            "tcp/8080, tcp/7000-7999, udp/5000-5999, icmp/8, icmpv6/128",
        ))?;
        let enforced = [
            allowed("web-1", "app-1", Tcp(8080)),
            allowed("web-1", "app-1", Ping),
            denied("web-1", "app-1", Tcp(8081)),
            denied("client-1", "app-1", Tcp(8080)),
            denied("client-1", "app-1", Ping),
        ];
        lab.check(&enforced)?;
        scenario(lab, &enforced)
    })
}

#[test]
fn kill_9_and_the_agent_that_comes_back_lose_no_packet() -> Result<()> {
    run(|lab, enforced| {
        let datagrams = [
            lab.lockstep("web-1", "app-1", 5004, Family::V4)?,
            lab.lockstep("web-1", "app-1", 5006, Family::V6)?,
            lab.pushed("web-1", "app-1", 5104, Family::V4)?,
            lab.pushed("web-1", "app-1", 5106, Family::V6)?,
        ];
        let connection = lab.busy("web-1", "app-1", 7000, Family::V6)?;
        let progress = || -> Result<()> {
            connection.expect_progress()?;
            datagrams
                .iter()
                .try_for_each(|flow| flow.expect_progress(200))
        };
        progress()?;
        for host in ["web-1", "app-1"] {
            lab.agent(host)?.daemon().kill_9()?;
        }
        progress()?;
        lab.check(enforced)?;
        for host in ["web-1", "app-1"] {
            lab.agent(host)?.daemon().start()?;
            lab.wait_connected(host)?;
            progress()?;
            // Again, with no time to settle.
            lab.agent(host)?.daemon().kill_9()?;
            lab.agent(host)?.daemon().start()?;
            lab.wait_connected(host)?;
        }
        progress()?;
        lab.check(enforced)?;
        // What came back works: it takes the next policy, and cuts.
        lab.apply(&app_only_answers("tcp/8080, udp/5000-5999"))?;
        connection.expect_silence()?;
        for flow in datagrams {
            let returned = flow.finish()?;
            ensure!(returned > 1000, "only {returned} datagrams were sent");
        }
        Ok(())
    })
}

#[test]
fn an_orderly_end_leaves_enforcement_and_detach_removes_it() -> Result<()> {
    run(|lab, enforced| {
        let status = lab.agent("app-1")?.daemon().terminate()?;
        ensure!(status.success(), "SIGTERM: {status}");
        lab.check(enforced)?;
        wait_until("the controller to miss the agent", LONG, || {
            Ok(lab
                .host_status("app-1")?
                .is_some_and(|host| !host.connected))
        })?;
        // The state is there to see without an agent.
        let status = lab.agent("app-1")?.once("status")?.fine()?;
        ensure!(!status.stdout.is_empty(), "status says nothing");

        lab.agent("app-1")?.once("detach")?.fine()?;
        lab.check(&[
            allowed("web-1", "app-1", Tcp(8081)),
            allowed("client-1", "app-1", Tcp(8080)),
            allowed("client-1", "app-1", Ping),
        ])?;
        lab.agent("app-1")?.once("detach")?.fine()?;

        lab.agent("app-1")?.daemon().start()?;
        lab.wait_connected("app-1")?;
        lab.check(enforced)
    })
}

#[test]
fn a_host_that_boots_without_its_controller_enforces_its_last_good_policy() -> Result<()> {
    run(|lab, enforced| {
        lab.controller().kill_9()?;
        let agent = lab.agent("app-1")?;
        agent.daemon().kill_9()?;
        // What a reboot does to the kernel; the disk stays.
        agent.once("detach")?.fine()?;
        agent.daemon().start()?;
        wait_until("the last good policy to be enforced", LONG, || {
            Ok(lab.check(enforced).is_ok())
        })
    })
}

#[test]
fn an_agent_that_was_away_catches_up() -> Result<()> {
    run(|lab, _| {
        lab.agent("app-1")?.daemon().kill_9()?;
        wait_until("the controller to miss the agent", LONG, || {
            Ok(lab
                .host_status("app-1")?
                .is_some_and(|host| !host.connected))
        })?;
        lab.apply(&policy(&[
            "appliesTo: app, ingress: [{ from: [web], allow: [tcp/8081] }]",
        ]))?;
        lab.check(&[allowed("web-1", "app-1", Tcp(8080))])?;
        lab.agent("app-1")?.daemon().start()?;
        lab.wait_connected("app-1")?;
        lab.check(&[
            denied("web-1", "app-1", Tcp(8080)),
            allowed("web-1", "app-1", Tcp(8081)),
        ])
    })
}
