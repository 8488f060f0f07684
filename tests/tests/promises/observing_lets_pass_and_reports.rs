//! A policy in `observe` mode changes no verdict, and shows what it would deny.

use anyhow::{Result, ensure};
use lab::{Family, HostSpec, Lab, Service, allowed, denied};

use crate::policies::policy;

use Service::Tcp;

#[test]
fn what_it_would_deny_passes_and_is_reported_as_staged() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081), Tcp(8082)])?;
        let enforced = "appliesTo: app, ingress: [{ from: [web], allow: [tcp/8080-8081] }]";
        lab.apply(&policy(&[enforced]))?;
        lab.apply(&policy(&[
            enforced,
            "mode: observe, appliesTo: web, egress: [{ to: [app], allow: [tcp/8080] }]",
        ]))?;
        lab.check(&[
            allowed("web-1", "app-1", Tcp(8080)),
            allowed("web-1", "app-1", Tcp(8081)),
            // Observing one side weakens nothing on the other.
            denied("web-1", "app-1", Tcp(8082)),
        ])?;
        for family in Family::ALL {
            let app = lab.address("app-1", family)?;
            let staged = lab.wait_denial("what would be denied", "web-1", |denial| {
                denial.peer_address == app && denial.peer_port == 8081
            })?;
            ensure!(
                staged.staged && staged.rule == "policy-1/egress",
                "{staged:?}"
            );
        }
        let reported = lab.denials("web-1")?;
        ensure!(reported.iter().all(|denial| denial.staged), "{reported:#?}");
        ensure!(
            reported.iter().all(|denial| denial.peer_port != 8080),
            "{reported:#?}"
        );

        // The same policy, enforced.
        lab.apply(&policy(&[
            enforced,
            "appliesTo: web, egress: [{ to: [app], allow: [tcp/8080] }]",
        ]))?;
        lab.check(&[
            allowed("web-1", "app-1", Tcp(8080)),
            denied("web-1", "app-1", Tcp(8081)),
        ])
    })
}
