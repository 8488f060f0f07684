//! What is missing, and what to do about it, in one sentence and an exit code.

use std::fs;

use anyhow::{Result, ensure};
use lab::{HostSpec, Lab, Place};

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
        let answer = lab.agent("web-2")?.once_without_privileges("run")?;
        answer.refused(69, &["root"]).map(drop)
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
