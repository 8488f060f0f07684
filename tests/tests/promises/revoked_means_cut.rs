//! When policy stops allowing a connection, its next packet in either direction is dropped.

use anyhow::{Result, ensure};
use lab::{Family, HostSpec, Lab};

use crate::policies::policy;

const HOSTS: [HostSpec; 2] = [HostSpec::WEB, HostSpec::APP];

/// Opens connections on two ports over both families, revokes one port at one of the ends, and
/// expects its connections cut in both directions and the others untouched.
fn revoke(before: &[&str], after: &[&str], revoker: &str) -> Result<()> {
    Lab::run(&HOSTS, |lab| {
        lab.apply(&policy(before))?;
        let mut cut = Vec::new();
        let mut kept = Vec::new();
        for family in Family::ALL {
            cut.push(lab.busy("web-1", "app-1", revoked_port(family), family)?);
            kept.push(lab.busy("web-1", "app-1", kept_port(family), family)?);
        }
        for connection in cut.iter().chain(&kept) {
            connection.expect_progress()?;
        }
        lab.apply(&policy(after))?;
        for connection in &cut {
            connection.expect_silence()?;
            let port = connection.client().port();
            let denial = lab.wait_denial("the connection that was cut", revoker, |denial| {
                denial.reason == "revoked" && [denial.peer_port, denial.local_port].contains(&port)
            })?;
            ensure!(!denial.staged && denial.protocol == "tcp", "{denial:?}");
        }
        for connection in &kept {
            connection.expect_progress()?;
        }
        Ok(())
    })
}

// A listener takes its port in both families, so each family has ports of its own.
fn revoked_port(family: Family) -> u16 {
    match family {
        Family::V4 => 7004,
        Family::V6 => 7006,
    }
}

fn kept_port(family: Family) -> u16 {
    revoked_port(family) + 100
}

#[test]
fn at_the_host_that_accepted_the_connection() -> Result<()> {
    revoke(
        &["appliesTo: app, ingress: [{ from: [web], allow: [tcp/7000-7999] }]"],
        &["appliesTo: app, ingress: [{ from: [web], allow: [tcp/7100-7999] }]"],
        "app-1",
    )
}

#[test]
fn at_the_host_that_opened_it() -> Result<()> {
    revoke(
        &["appliesTo: web, egress: [{ to: [app], allow: [tcp/7000-7999] }]"],
        &["appliesTo: web, egress: [{ to: [app], allow: [tcp/7100-7999] }]"],
        "web-1",
    )
}

#[test]
fn for_datagrams_too_and_what_is_allowed_again_goes_on() -> Result<()> {
    Lab::run(&HOSTS, |lab| {
        let open = policy(&["appliesTo: app, ingress: [{ from: [web], allow: [udp, tcp] }]"]);
        let shut = policy(&["appliesTo: app, ingress: []"]);
        lab.apply(&open)?;
        let sent = lab.lockstep("web-1", "app-1", 5004, Family::V4)?;
        let pushed = lab.pushed("web-1", "app-1", 5006, Family::V6)?;
        let connection = lab.busy("web-1", "app-1", 7000, Family::V4)?;
        sent.expect_progress(100)?;
        pushed.expect_progress(100)?;
        connection.expect_progress()?;
        lab.apply(&shut)?;
        connection.expect_silence()?;
        for datagrams in [sent, pushed] {
            let lost = datagrams.finish();
            ensure!(lost.is_err(), "no datagram was lost: {lost:?}");
        }
        // TCP has kept what it could not deliver.
        lab.apply(&open)?;
        connection.expect_progress()
    })
}
