//! File and line, or the default that applied, and both ends by name.

use anyhow::{Context, Result, ensure};
use lab::{Denial, Family, HostSpec, LONG, Lab, Service, denied};

use Service::{Ping, Tcp, Udp};

const POLICY: &str = "\
apiVersion: bulkhead/v1
kind: Segment
name: web
match: { tier: web }
---
apiVersion: bulkhead/v1
kind: Segment
name: app
match: { tier: app }
---
apiVersion: bulkhead/v1
kind: Policy
name: app-ingress
appliesTo: app
ingress:
  - from: [web]
    allow: [tcp/8080]
---
apiVersion: bulkhead/v1
kind: Policy
name: web-egress
appliesTo: web
egress:
  - to: [app]
    allow: [tcp, icmp, icmpv6]
";

/// The line, from 1, of the first that is this text.
fn line_of(text: &str) -> Result<u32> {
    let index = POLICY.lines().position(|line| line == text);
    Ok(u32::try_from(index.with_context(|| format!("no line {text}"))?)? + 1)
}

#[test]
fn on_the_side_that_denied_in_both_families_and_for_each_protocol() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8081), Udp(5353)])?;
        let revision = lab.apply(POLICY)?;
        lab.check(&[
            denied("web-1", "app-1", Tcp(8081)),
            denied("web-1", "app-1", Ping),
            denied("web-1", "app-1", Udp(5353)),
            denied("client-1", "app-1", Tcp(8081)),
        ])?;
        let file = lab.directory().join("policy-1.yaml").display().to_string();
        for family in Family::ALL {
            let [web, app, client] =
                ["web-1", "app-1", "client-1"].map(|host| lab.address(host, family));
            let (web, app, client) = (web?, app?, client?);
            let icmp = if family == Family::V4 {
                "icmp"
            } else {
                "icmpv6"
            };

            // Denied where it arrives: the deny that being selected brings.
            let ingress = |denial: &Denial| {
                denial.direction == "ingress"
                    && denial.rule == "app-ingress/ingress"
                    && denial.reason == "policy"
                    && denial.tier == "policy"
                    && denial.local_address == app
            };
            let by_app = [
                lab.wait_denial("TCP from web-1", "app-1", |denial| {
                    ingress(denial)
                        && denial.peer_address == web
                        && denial.protocol == "tcp"
                        && denial.local_port == 8081
                        && denial.peer_port >= 1024
                        && denial.peer.as_deref() == Some("web-1")
                })?,
                lab.wait_denial("a ping from web-1", "app-1", |denial| {
                    ingress(denial)
                        && denial.peer_address == web
                        && denial.protocol == icmp
                        && denial.peer.as_deref() == Some("web-1")
                })?,
                lab.wait_denial("TCP from a host without an agent", "app-1", |denial| {
                    ingress(denial)
                        && denial.peer_address == client
                        && denial.local_port == 8081
                        && denial.peer.is_none()
                })?,
            ];
            // Denied where it was sent.
            let by_web = lab.wait_denial("a datagram to app-1", "web-1", |denial| {
                denial.direction == "egress"
                    && denial.rule == "web-egress/egress"
                    && denial.protocol == "udp"
                    && denial.local_address == web
                    && denial.local_port >= 1024
                    && denial.peer_address == app
                    && denial.peer_port == 5353
                    && denial.peer.as_deref() == Some("app-1")
            })?;
            for denial in &by_app {
                ensure!(denial.line == line_of("ingress:")?, "{denial:?}");
            }
            ensure!(by_web.line == line_of("egress:")?, "{by_web:?}");
            for denial in by_app.iter().chain([&by_web]) {
                ensure!(denial.file == file, "{denial:?}");
                ensure!(
                    denial.revision == revision && denial.packets >= 1,
                    "{denial:?}"
                );
                ensure!(!denial.staged, "{denial:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn as_it_happens_for_an_operator_who_follows() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8081)])?;
        lab.apply(POLICY)?;
        let mut follow = lab
            .operator()
            .follow(&["denials", "--follow", "--host", "app-1"])?;
        lab.check(&[denied("web-1", "app-1", Tcp(8081))])?;
        let denial: Denial = follow.next(LONG)?;
        ensure!(
            denial.host == "app-1" && denial.rule == "app-ingress/ingress",
            "{denial:?}"
        );
        Ok(())
    })
}
