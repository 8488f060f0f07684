//! The agent comes to a host on which connections live, of which it has seen no beginning.

use anyhow::{Result, ensure};
use lab::{Family, HostSpec, LONG, Lab, wait_until};

use crate::policies::policy;

const HOSTS: [HostSpec; 2] = [HostSpec::WEB, HostSpec::APP];
/// Datagrams that come back prove a flow alive.
const SOME: u64 = 50;

#[test]
fn what_policy_allows_goes_on_also_where_only_answers_are_seen_and_the_rest_is_cut() -> Result<()> {
    Lab::run_bare(&HOSTS, |lab| {
        // web-1 has opened them; since then app-1 speaks and web-1 answers. To whoever sees them only
        // now, app-1 opens them, which it may not.
        let kept = [
            lab.pushed("web-1", "app-1", 5104, Family::V4)?,
            lab.pushed("web-1", "app-1", 5106, Family::V6)?,
        ];
        let cut = [
            lab.pushed("web-1", "app-1", 6104, Family::V4)?,
            lab.pushed("web-1", "app-1", 6106, Family::V6)?,
        ];
        let connection = lab.idle("web-1", "app-1", 7004, Family::V4)?;
        for host in HOSTS {
            lab.agent(host.place.name)?.configure(|config| {
                config.insert("warm_start".into(), 8.into());
            })?;
        }
        lab.apply(&policy(&[
            "appliesTo: app, ingress: [{ from: [web], allow: [udp/5000-5999, tcp/7004] }], egress: []",
            "appliesTo: web, ingress: [], egress: [{ to: [app], allow: [udp/5000-5999, tcp/7004] }]",
        ]))?;
        for host in HOSTS {
            let token = lab.create_token(&host)?;
            let agent = lab.agent(host.place.name)?;
            agent.give_token(&token)?;
            agent.daemon().start()?;
        }
        wait_until("app-1 to say that it learns", LONG, || {
            let status = lab.agent("app-1")?.once("status")?;
            Ok(status.stdout.contains("warm start"))
        })?;
        for flow in &cut {
            flow.expect_progress(SOME)?;
        }
        let flows = lab.agent("app-1")?.once("flows")?;
        ensure!(flows.code == 0, "{flows:?}");
        for port in [5104, 5106, 6104, 6106] {
            let line = flows
                .stdout
                .lines()
                .find(|line| line.contains(&format!(":{port} ")));
            ensure!(
                line.is_some_and(|line| line.starts_with("udp ") && line.contains("remote")),
                "the flow to {port} was opened by the remote end:\n{}",
                flows.stdout
            );
        }
        for host in HOSTS {
            lab.wait_connected(host.place.name)?;
        }
        for flow in &kept {
            flow.expect_progress(SOME)?;
        }
        for flow in kept {
            ensure!(flow.finish()? > SOME, "none was lost, from first to last");
        }
        for flow in cut {
            ensure!(flow.finish().is_err(), "a flow that is denied goes on");
        }
        connection.talk()?.expect_progress()?;
        let status = lab.agent("app-1")?.once("status")?;
        ensure!(!status.stdout.contains("warm start"), "{}", status.stdout);
        Ok(())
    })
}
