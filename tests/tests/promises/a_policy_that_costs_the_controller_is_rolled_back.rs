//! The lifeline knows the controllers' addresses, and not what lies on the way: here a relay of the host
//! itself, whose own connection a policy cuts. The host goes back on its own, and says so.

use anyhow::{Context, Result, ensure};
use lab::{
    Controller, Family, HostSpec, HostStatus, LONG, Lab, Relay, Service, allowed, denied, wait_for,
    wait_until,
};

use crate::policies::policy;

use Service::Tcp;

const HOSTS: [HostSpec; 1] = [HostSpec::WEB];

/// In seconds.
const ROLLBACK_AFTER: u32 = 5;

/// web-1 takes these, and opens nothing but the way of the relay, where it may.
fn revision(ports: &str, way_out: &str) -> String {
    policy(&[&format!(
        "appliesTo: web, ingress: [{{ allow: [{ports}] }}], egress: [{way_out}]"
    )])
}

const WAY_OUT: &str = "{ allow: [tcp/7443] }";

/// Boots a host that reaches its controller by a relay, with a policy that lets it.
fn run(scenario: impl FnOnce(&mut Lab, Relay) -> Result<()>) -> Result<()> {
    Lab::run_bare(&HOSTS, |lab| {
        // No lifeline to the controller itself: the host knows its relay alone.
        lab.controller().announce(&[])?;
        let relay = lab.relay("web-1", Controller::address(Family::V4))?;
        let controllers = vec![relay.address().to_string()];
        lab.agent("web-1")?.configure(|config| {
            config.insert("controllers".to_owned(), controllers.into());
            config.insert("rollback_after".to_owned(), ROLLBACK_AFTER.into());
        })?;
        lab.enrol(&HOSTS)?;
        lab.serve("web-1", &[Tcp(8080), Tcp(8081)])?;
        lab.apply(&revision("tcp/8080", WAY_OUT))?;
        scenario(lab, relay)
    })
}

fn host(lab: &Lab) -> Result<HostStatus> {
    lab.host_status("web-1")?.context("the host is not known")
}

#[test]
fn and_its_revision_is_not_taken_again_until_a_newer_one_comes() -> Result<()> {
    run(|lab, _relay| {
        let before = [
            allowed("client-1", "web-1", Tcp(8080)),
            denied("client-1", "web-1", Tcp(8081)),
        ];
        lab.check(&before)?;
        let good = host(lab)?.applied_revision;
        let file = lab.write_policy(&revision("tcp/8081", ""))?;
        let apply = ["policy".as_ref(), "apply".as_ref(), file.as_os_str()];
        // It waits for the host for a while, and then it is for `hosts` to say.
        let _ = lab.operator().run(&apply)?;
        let told = wait_for("the host to say that it went back", LONG, || {
            let host = host(lab)?;
            Ok(host.refusal.clone().map(|refusal| (host, refusal)))
        })?;
        let (status, refusal) = told;
        ensure!(
            refusal.contains("could not reach its controller"),
            "{refusal}"
        );
        ensure!(
            !status.in_sync && status.applied_revision == good,
            "{status:?}"
        );
        lab.check(&before)?;

        // It comes back, and is offered the same revision again.
        for _ in 0..2 {
            lab.agent("web-1")?.daemon().kill_9()?;
            lab.agent("web-1")?.daemon().start()?;
            wait_until("the host to be back and to refuse", LONG, || {
                let host = host(lab)?;
                Ok(host.connected && host.refusal.is_some())
            })?;
            lab.check(&before)?;
        }
        let status = lab.agent("web-1")?.once("status")?.fine()?;
        ensure!(status.stdout.contains("rolled back"), "{}", status.stdout);
        let log = lab.agent("web-1")?.daemon().log()?;
        ensure!(log.contains("the host enforces the policy before"), "{log}");

        lab.apply(&revision("tcp/8081", WAY_OUT))?;
        lab.check(&[
            denied("client-1", "web-1", Tcp(8080)),
            allowed("client-1", "web-1", Tcp(8081)),
        ])?;
        let status = lab.agent("web-1")?.once("status")?.fine()?;
        ensure!(!status.stdout.contains("rolled back"), "{}", status.stdout);
        ensure!(host(lab)?.refusal.is_none());
        Ok(())
    })
}

/// The way is open until long after the flip; then the controller is gone, and only that.
#[test]
fn and_a_controller_that_is_down_rolls_nothing_back() -> Result<()> {
    run(|lab, relay| {
        lab.controller().kill_9()?;
        drop(relay);
        let log = |lab: &mut Lab| lab.agent("web-1")?.daemon().log();
        // Longer than the agent would wait: an attempt comes every few seconds.
        let attempts = |log: &str| log.matches("no controller").count();
        let begun = std::time::Instant::now();
        wait_until("the agent to miss its controller long enough", LONG, || {
            let patience = std::time::Duration::from_secs(u64::from(ROLLBACK_AFTER) + 3);
            Ok(begun.elapsed() > patience && attempts(&log(lab)?) >= 2)
        })?;
        let log = log(lab)?;
        ensure!(!log.contains("rolled back"), "{log}");
        lab.check(&[
            allowed("client-1", "web-1", Tcp(8080)),
            denied("client-1", "web-1", Tcp(8081)),
        ])
    })
}
