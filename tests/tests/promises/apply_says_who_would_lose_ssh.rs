//! An apply that closes SSH to the operator who makes it is refused until the operator says that it is
//! meant; and one that protects nobody says so.

use anyhow::{Result, ensure};
use lab::{HostSpec, Lab, Service, allowed, denied};

use crate::policies::policy;

use Service::Tcp;

const HOSTS: [HostSpec; 2] = [HostSpec::WEB, HostSpec::APP];

#[test]
fn and_asks_first_and_says_when_nobody_is_protected() -> Result<()> {
    Lab::run_bare(&HOSTS, |lab| {
        // As the configuration of somebody who filled nothing in. That of app-1 names the operator.
        lab.agent("web-1")?.configure(|config| {
            config.remove("failsafe");
        })?;
        lab.enrol(&HOSTS)?;
        lab.serve("web-1", &[Tcp(22)])?;
        lab.serve("app-1", &[Tcp(22)])?;
        let ssh = |web: fn(&'static str, &'static str, Service) -> lab::Expected| {
            [
                web("controller", "web-1", Tcp(22)),
                allowed("controller", "app-1", Tcp(22)),
            ]
        };
        lab.check(&ssh(allowed))?;

        // The label of a segment fits nobody.
        let nobody = lab.write_policy(&policy(&["appliesTo: db, ingress: []"]))?;
        let nobody = nobody.display().to_string();
        let said = lab
            .operator()
            .run(&["policy", "apply", &nobody])?
            .fine()?
            .stdout;
        ensure!(
            said.contains("WARNING: no policy selects any host, so nothing is denied anywhere")
                && said.contains("(2 of 2 hosts): app-1, web-1\n"),
            "{said}"
        );

        let closing = lab.write_policy(&policy(&[
            "appliesTo: [web, app], ingress: [{ allow: [tcp/8080] }]",
        ]))?;
        let closing = closing.display().to_string();
        for arguments in [
            &["policy", "apply", "--dry-run", closing.as_str()][..],
            &["policy", "apply", closing.as_str()],
        ] {
            let refused = lab.operator().run(arguments)?.refused(
                77,
                &[
                    "web-1 closes tcp/22 to you at 10.66.9.10: policy-0/ingress",
                    "--allow-lockout",
                    "[failsafe]",
                    "nothing was changed: revision 1 stays in force",
                ],
            )?;
            ensure!(!refused.stdout.contains("app-1 closes"), "{refused:?}");
        }
        lab.check(&ssh(allowed))?;

        lab.operator()
            .run(&["policy", "apply", "--allow-lockout", &closing])?
            .fine()?;
        lab.check(&ssh(denied))?;
        // What is closed already is not asked about again.
        lab.operator().run(&["policy", "apply", &closing])?.fine()?;
        Ok(())
    })
}
