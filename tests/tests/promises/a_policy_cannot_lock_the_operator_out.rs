//! The failsafe lets operators in whatever a policy says, and the lifeline keeps the host's way to
//! its controller. Quarantine outranks the failsafe, and not the lifeline.

use anyhow::{Result, ensure};
use lab::{ADMIN, Expected, Family, HostSpec, Lab, Rollout, Service, allowed, denied};

use crate::policies::policy;

use Service::{Ping, Tcp};

const HOSTS: [HostSpec; 1] = [HostSpec::WEB];

/// The failsafe opens one port to one subnet, inward.
fn policed() -> [Expected; 6] {
    [
        allowed("admin-1", "web-1", Tcp(22)),
        denied("admin-1", "web-1", Tcp(80)),
        denied("admin-1", "web-1", Ping),
        denied("client-1", "web-1", Tcp(22)),
        denied("web-1", "admin-1", Tcp(22)),
        denied("web-1", "client-1", Tcp(80)),
    ]
}

#[test]
fn that_denies_everything_and_quarantine_can() -> Result<()> {
    Lab::run_bare(&HOSTS, |lab| {
        lab.agent("web-1")?.configure(|config| {
            let subnets: Vec<String> = Family::ALL.map(|family| ADMIN.subnet(family)).into();
            let failsafe = [("subnets".to_owned(), subnets.into())];
            config.insert(
                "failsafe".to_owned(),
                toml::Table::from_iter(failsafe).into(),
            );
        })?;
        lab.enrol(&HOSTS)?;
        let sessions = [
            lab.busy("admin-1", "web-1", 22, Family::V4)?,
            lab.busy("admin-1", "web-1", 22, Family::V6)?,
        ];
        let alive = || {
            sessions
                .iter()
                .try_for_each(|session| session.expect_progress())
        };
        alive()?;
        lab.serve("web-1", &[Tcp(22), Tcp(80)])?;
        lab.serve("admin-1", &[Tcp(22)])?;
        lab.serve("client-1", &[Tcp(80)])?;

        for body in [
            "appliesTo: web, egress: []",
            "appliesTo: web, ingress: []",
            "appliesTo: web, ingress: [], egress: []",
        ] {
            lab.apply(&policy(&[body]))?;
            alive()?;
        }
        lab.check(&policed())?;

        lab.operator()
            .one::<Rollout>(&["quarantine", "web-1", "--reason", "a test of it"])?;
        for session in &sessions {
            session.expect_silence()?;
        }
        lab.check(&[
            denied("admin-1", "web-1", Tcp(22)),
            denied("web-1", "admin-1", Tcp(22)),
        ])?;
        // The host still hears its controller.
        let released: Rollout = lab.operator().one(&["release", "web-1"])?;
        ensure!(released.confirmed == ["web-1"], "{released:?}");
        alive()?;
        lab.check(&policed())
    })
}
