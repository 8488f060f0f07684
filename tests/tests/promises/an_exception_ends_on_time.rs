//! What an exception allows is cut when it ends, by the hosts on their own.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use lab::{BusyConnection, Family, HostSpec, Lab, Service, allowed, denied};

use crate::policies::policy;

use Service::Tcp;

/// Time for an apply, for what is tried before the end, and for the controller to go away.
const LASTS: Duration = Duration::from_secs(30);
/// The end is in whole seconds; this much later nothing passes any more.
const MARGIN: Duration = Duration::from_secs(1);

/// `app` takes nothing from anybody, but for a while these ports from `web`.
fn with_exception(ends: Timestamp) -> String {
    policy(&["appliesTo: app, ingress: []"])
        + &format!(
            "---\n{{ apiVersion: bulkhead/v1, kind: Exception, name: debugging, owner: ann, \
             reason: CHG-1, expires: \"{ends}\", from: [web], to: [app], \
             ports: [tcp/7000-7999, tcp/8080] }}\n"
        )
}

#[test]
fn without_the_controller_and_to_the_second() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8080)])?;
        let ends = Timestamp::from_second((Timestamp::now() + LASTS).as_second())?;
        let text = with_exception(ends);
        lab.apply(&text)?;
        let mut connections = Vec::new();
        for (family, port) in [(Family::V4, 7004), (Family::V6, 7006)] {
            connections.push(lab.busy("web-1", "app-1", port, family)?);
        }
        lab.check(&[allowed("web-1", "app-1", Tcp(8080))])?;
        lab.controller().kill_9()?;
        for connection in &connections {
            connection.expect_progress()?;
        }
        ensure!(
            Timestamp::now() < ends,
            "the exception was to outlast what is tried before its end"
        );

        sleep_until(ends + MARGIN)?;
        let received: Vec<_> = connections.iter().map(BusyConnection::received).collect();
        for (connection, before) in connections.iter().zip(received) {
            connection.expect_silence()?;
            ensure!(
                connection.received() == before,
                "packets passed {MARGIN:?} after the end"
            );
        }
        lab.check(&[denied("web-1", "app-1", Tcp(8080))])?;
        // Nor does a start from the policy on disk bring it back.
        lab.agent("app-1")?.daemon().terminate()?;
        lab.agent("app-1")?.daemon().start()?;
        lab.check(&[denied("web-1", "app-1", Tcp(8080))])?;

        lab.controller().start()?;
        lab.wait_connected("app-1")?;
        let line = text.lines().position(|line| line.contains("policy-0"));
        let line = u32::try_from(line.context("the policy is in the text")? + 1)?;
        for (port, reason) in [(7004, "revoked"), (7006, "revoked"), (8080, "policy")] {
            let denial = lab.wait_denial(&format!("tcp/{port}, {reason}"), "app-1", |denial| {
                denial.local_port == port && denial.reason == reason
            })?;
            ensure!(
                (denial.tier.as_str(), denial.rule.as_str(), denial.line)
                    == ("policy", "policy-0/ingress", line)
                    && denial.peer.as_deref() == Some("web-1"),
                "{denial:?}"
            );
        }
        Ok(())
    })
}

fn sleep_until(moment: Timestamp) -> Result<()> {
    let left = Timestamp::now().duration_until(moment);
    thread::sleep(Duration::try_from(left).context("the moment has passed")?);
    Ok(())
}
