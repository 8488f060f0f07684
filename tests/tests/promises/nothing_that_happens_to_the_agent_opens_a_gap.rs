//! Under every event, datagrams that are counted one by one all arrive, old flows and new ones, and of
//! those that are denied none does.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use lab::{Family, Hammer, HostSpec, LONG, Lab, Lockstep, Service, allowed, denied, wait_until};

use crate::policies::policy;

use Service::{Tcp, Udp};

const HOSTS: [HostSpec; 2] = [HostSpec::WEB, HostSpec::APP];

/// Two revisions that agree on all that is sent.
fn revision(number: u64) -> String {
    policy(&[&format!(
        "appliesTo: app, ingress: [{{ from: [web], allow: [tcp/8080, udp/5000-5999] }}, \
         {{ from: [{{ subnet: 10.99.{number}.0/24 }}], allow: [tcp/{number}] }}], egress: []"
    )])
}

/// What crosses app-1's interface all the time.
struct Traffic {
    flows: Vec<Lockstep>,
    hammer: Hammer,
}

impl Traffic {
    fn start(lab: &Lab) -> Result<Self> {
        Ok(Self {
            flows: vec![
                lab.lockstep("web-1", "app-1", 5104, Family::V4)?,
                lab.lockstep("web-1", "app-1", 5106, Family::V6)?,
                lab.pushed("web-1", "app-1", 5204, Family::V4)?,
                lab.pushed("web-1", "app-1", 5206, Family::V6)?,
            ],
            hammer: lab.hammer(&[
                allowed("web-1", "app-1", Tcp(8080)),
                allowed("web-1", "app-1", Udp(5353)),
                denied("web-1", "app-1", Tcp(8081)),
                denied("web-1", "app-1", Udp(6000)),
            ])?,
        })
    }

    /// It goes on.
    fn expect_progress(&self) -> Result<()> {
        self.flows
            .iter()
            .try_for_each(|flow| flow.expect_progress(50))?;
        let tried = self.hammer.tried();
        wait_until("the hammer to go on", LONG, || {
            Ok(self.hammer.tried() > tried + 50)
        })
    }

    /// Nothing was cut, and nothing let through.
    fn finish(self, lab: &Lab) -> Result<()> {
        for flow in self.flows {
            flow.finish()?;
        }
        let report = self.hammer.finish()?;
        ensure!(report.surprises == 0, "{report:#?}");
        ensure!(report.allowed > 50 && report.denied > 50, "{report:#?}");
        for service in [Tcp(8081), Udp(6000)] {
            let arrived = lab.servers("app-1")?.arrivals(service);
            ensure!(arrived == 0, "{arrived} flows got through to {service}");
        }
        Ok(())
    }
}

fn run(scenario: impl FnOnce(&mut Lab, &Traffic) -> Result<()>) -> Result<()> {
    Lab::run(&HOSTS, |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081), Udp(5353), Udp(6000)])?;
        lab.apply(&revision(1))?;
        let traffic = Traffic::start(lab)?;
        traffic.expect_progress()?;
        scenario(lab, &traffic)?;
        traffic.expect_progress()?;
        traffic.finish(lab)
    })
}

#[test]
fn kill_9_in_the_midst_of_applies() -> Result<()> {
    run(|lab, traffic| {
        let files = [
            lab.write_policy(&revision(1))?,
            lab.write_policy(&revision(2))?,
        ];
        for round in 0..12 {
            let apply = lab
                .operator()
                .command()
                .args(["policy", "apply"])
                .arg(&files[(round + 1) % 2])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn();
            let mut apply = apply.context("starting an apply")?;
            // Somewhere in it, each time elsewhere.
            std::thread::sleep(std::time::Duration::from_millis(7 * round as u64));
            let agent = lab.agent("app-1")?.daemon();
            agent.kill_9()?;
            agent.start()?;
            apply.wait()?;
            lab.wait_connected("app-1")?;
            traffic.expect_progress()?;
        }
        Ok(())
    })
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

#[test]
fn an_upgrade_to_another_map_layout() -> Result<()> {
    run(|lab, traffic| {
        for _ in 0..2 {
            let agent = lab.agent("app-1")?;
            agent.daemon().kill_9()?;
            let pins = agent.pins();
            // As an agent of another version would have left them.
            let [current] = &entries(&pins)?[..] else {
                bail!("more than one layout is pinned in {}", pins.display());
            };
            let older = pins.join("v99");
            fs::rename(current, &older).context("renaming the pins")?;
            traffic.expect_progress()?;
            agent.daemon().start()?;
            lab.wait_connected("app-1")?;
            traffic.expect_progress()?;
            ensure!(!older.exists(), "a stale copy stayed");
            let log = lab.agent("app-1")?.daemon().log()?;
            ensure!(
                log.contains("the place of the other version is taken"),
                "{log}"
            );
            // What took its place takes the next policy.
            lab.apply(&revision(3))?;
            lab.apply(&revision(1))?;
        }
        Ok(())
    })
}

#[test]
fn an_interface_that_goes_and_comes_back_under_another_index() -> Result<()> {
    Lab::run(&HOSTS, |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081)])?;
        lab.apply(&revision(1))?;
        let check = [
            allowed("web-1", "app-1", Tcp(8080)),
            denied("web-1", "app-1", Tcp(8081)),
        ];
        lab.check(&check)?;
        for _ in 0..2 {
            lab.unplug_for_good("app-1")?;
            lab.plug_in_anew("app-1")?;
            wait_until("the new interface to be policed", LONG, || {
                let status = lab.agent("app-1")?.once("status")?;
                Ok(status.code == 0 && status.stdout.contains("on eth0"))
            })?;
            lab.wait_connected("app-1")?;
            lab.check(&check)?;
        }
        let log = lab.agent("app-1")?.daemon().log()?;
        ensure!(log.contains("interfaces are policed"), "{log}");
        ensure!(log.contains("an interface is gone"), "{log}");
        Ok(())
    })
}
