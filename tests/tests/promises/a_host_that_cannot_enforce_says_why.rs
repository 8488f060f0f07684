//! What is missing, and what to do about it, in one sentence and an exit code.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::{HostSpec, Lab, Place, Service, allowed, denied};

use crate::policies::policy;

use Service::Tcp;

const HOST: HostSpec = HostSpec {
    place: Place {
        name: "web-2",
        subnet: 1,
        number: 20,
    },
    labels: &[("tier", "web")],
};

/// Boots with a host that is enrolled and whose agent does not run.
fn run(scenario: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    Lab::run_bare(&[HOST], |lab| {
        let token = lab.create_token(&HOST)?;
        lab.agent("web-2")?.give_token(&token)?;
        lab.agent("web-2")?.once("enroll")?.fine()?;
        scenario(lab)
    })
}

#[test]
fn no_bpffs() -> Result<()> {
    run(|lab| {
        let plain = lab.directory().join("plain");
        fs::create_dir(&plain)?;
        let agent = lab.agent("web-2")?;
        agent.configure(|config| {
            config.insert("bpffs".to_owned(), plain.display().to_string().into());
        })?;
        agent
            .once("run")?
            .refused(69, &["mount -t bpf", &plain.display().to_string()])?;
        ensure!(
            fs::read_dir(&plain)?.next().is_none(),
            "files were left in a plain directory"
        );
        Ok(())
    })
}

#[test]
fn no_privileges() -> Result<()> {
    run(|lab| {
        let answer = lab.agent("web-2")?.once_behind(&with_only(&[]), "run")?;
        answer.refused(69, &["root"]).map(drop)
    })
}

/// What makes a program root with these capabilities and no others, as systemd does.
fn with_only(capabilities: &[&str]) -> Vec<String> {
    let mut bounding_set = "-all".to_owned();
    for capability in capabilities {
        let name = capability.trim_start_matches("CAP_").to_lowercase();
        bounding_set.push_str(&format!(",+{name}"));
    }
    vec![
        "setpriv".to_owned(),
        format!("--bounding-set={bounding_set}"),
        "--inh-caps=-all".to_owned(),
        "--no-new-privs".to_owned(),
    ]
}

/// The capabilities that the unit gives the agent are all that it needs, and it needs all of them.
#[test]
fn one_capability_less_than_its_unit_gives() -> Result<()> {
    let unit = include_str!("../../../deploy/systemd/bulkhead-agent.service");
    let capabilities: Vec<&str> = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .context("the unit bounds no capabilities")?
        .split_whitespace()
        .collect();
    ensure!(!capabilities.is_empty(), "the unit gives no capability");
    Lab::run_bare(&[HOST], |lab| {
        let token = lab.create_token(&HOST)?;
        let agent = lab.agent("web-2")?;
        agent.give_token(&token)?;
        agent.daemon().wrap(&with_only(&capabilities));
        agent.daemon().start()?;
        lab.wait_connected("web-2")?;
        lab.serve("web-2", &[Tcp(8080), Tcp(8081)])?;
        lab.apply(&policy(&[
            "appliesTo: web, ingress: [{ allow: [tcp/8080] }]",
        ]))?;
        lab.check(&[
            allowed("client-1", "web-2", Tcp(8080)),
            denied("client-1", "web-2", Tcp(8081)),
        ])?;
        lab.wait_denial("of a new flow", "web-2", |denial| denial.local_port == 8081)?;

        let agent = lab.agent("web-2")?;
        agent.daemon().terminate()?;
        agent
            .once_behind(&with_only(&capabilities), "detach")?
            .fine()?;
        for missing in &capabilities {
            let rest: Vec<&str> = capabilities
                .iter()
                .copied()
                .filter(|capability| capability != missing)
                .collect();
            agent
                .once_behind(&with_only(&rest), "run")?
                .refused(69, &[missing])?;
        }
        Ok(())
    })
}

#[test]
fn a_kernel_below_5_10() -> Result<()> {
    run(|lab| {
        let older = ["setarch", "--uname-2.6"].map(str::to_owned);
        let answer = lab.agent("web-2")?.once_behind(&older, "run")?;
        answer
            .refused(69, &["this host runs Linux 2.6.", "5.10", "upgrade"])
            .map(drop)
    })
}

#[test]
fn a_configuration_with_a_mistake() -> Result<()> {
    run(|lab| {
        let agent = lab.agent("web-2")?;
        agent.configure(|config| {
            config.insert("controler".to_owned(), "10.66.9.10:7443".into());
        })?;
        agent
            .once("run")?
            .refused(78, &["agent.toml", "controler"])?;
        agent.configure(|config| {
            config.remove("controler");
            config.insert(
                "controllers".to_owned(),
                toml::Value::from(vec!["10.66.9.10:0"]),
            );
        })?;
        agent
            .once("run")?
            .refused(78, &["agent.toml", "10.66.9.10:0"])
            .map(drop)
    })
}

#[test]
fn no_controller() -> Result<()> {
    Lab::run_bare(&[HOST], |lab| {
        let token = lab.create_token(&HOST)?;
        lab.controller().kill_9()?;
        let agent = lab.agent("web-2")?;
        agent.give_token(&token)?;
        agent
            .once("enroll")?
            .refused(69, &["10.66.9.10:7443"])
            .map(drop)
    })
}
