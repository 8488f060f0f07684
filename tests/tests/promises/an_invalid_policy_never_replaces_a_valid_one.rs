//! What is refused changes nothing, and says why.

use std::fmt::Write;

use anyhow::{Result, ensure};
use lab::{HostSpec, Lab, Service, allowed, denied};

use crate::policies::{app_takes_from_web, policy};

use Service::Tcp;

#[test]
fn mistakes_are_shown_and_the_old_policy_stays() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081)])?;
        let enforced = [
            allowed("web-1", "app-1", Tcp(8080)),
            denied("web-1", "app-1", Tcp(8081)),
        ];
        let revision = lab.apply(&app_takes_from_web("tcp/8080"))?;
        lab.check(&enforced)?;

        for (text, words) in [
            (
                policy(&["appliesTo: app, ingress: [{ from: [wbe], allow: [tcp/8081] }]"]),
                [".yaml:7:", "wbe", "^^^"],
            ),
            (
                policy(&["appliesTo: app, ingres: []"]),
                [".yaml:7:", "ingres", "^^^^^^"],
            ),
            (
                policy(&["appliesTo: app, ingress: [{ allow: [tcp/80810] }]"]),
                [".yaml:7:", "80810", "^"],
            ),
            (
                policy(&["appliesTo: app, ingress: [{ from: [{ subnet: 10.0.0.1/8 }] }]"]),
                [".yaml:7:", "10.0.0.1/8", "^"],
            ),
            (
                format!("{0}---\n{0}", policy(&[])),
                [".yaml:7:", "web", "^"],
            ),
            ("kind: [".to_owned(), [".yaml:1:", "kind", "^"]),
        ] {
            let path = lab.write_policy(&text)?;
            let apply = ["policy".as_ref(), "apply".as_ref(), path.as_os_str()];
            lab.operator().run(&apply)?.refused(1, &words)?;
        }
        expect_still(lab, revision)?;
        lab.check(&enforced)
    })
}

#[test]
fn one_that_would_not_fit_the_kernels_maps_is_refused_by_the_controller() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081)])?;
        let revision = lab.apply(&app_takes_from_web("tcp/8080"))?;
        let mut rules = String::new();
        for number in 0..17_000 {
            let (port, third) = (number % 60_000 + 1, number / 250);
            let fourth = number % 250;
            write!(
                rules,
                "{{ from: [{{ subnet: 10.200.{third}.{fourth}/32 }}], allow: [tcp/{port}] }},"
            )?;
        }
        let path = lab.write_policy(&policy(&[&format!("appliesTo: app, ingress: [{rules}]")]))?;
        let apply = ["policy".as_ref(), "apply".as_ref(), path.as_os_str()];
        lab.operator().run(&apply)?.refused(1, &["16384"])?;
        expect_still(lab, revision)?;
        lab.check(&[
            allowed("web-1", "app-1", Tcp(8080)),
            denied("web-1", "app-1", Tcp(8081)),
        ])
    })
}

/// All hosts are in sync with this revision, and the controller has no newer one.
fn expect_still(lab: &Lab, revision: u64) -> Result<()> {
    for name in ["web-1", "app-1"] {
        let host = lab.host_status(name)?;
        ensure!(
            host.as_ref()
                .is_some_and(|host| host.in_sync && host.applied_revision == revision),
            "not at revision {revision}: {host:?}"
        );
    }
    Ok(())
}
