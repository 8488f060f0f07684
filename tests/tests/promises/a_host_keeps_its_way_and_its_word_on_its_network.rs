//! A host's life on its network: interfaces that are not there, controllers that are known by name or that are
//! on this very host, addresses that change, pins that are removed. What is not enforced is said, and nothing cuts
//! the way to the controller.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{CONTROLLER, Family, HostSpec, LONG, Lab, Service, allowed, denied, wait_until};
use rustix::process::Signal;

use crate::policies::policy;

use Service::{Tcp, Udp};

/// Nothing goes in or out of web-1, but for what no policy cuts.
const NOTHING: &str = "appliesTo: web, ingress: [], egress: []";

/// Starts the agent of a host that has a token and is not connected yet.
fn enrol_by_running(lab: &mut Lab, host: &HostSpec) -> Result<()> {
    let token = lab.create_token(host)?;
    let agent = lab.agent(host.place.name)?;
    agent.give_token(&token)?;
    agent.daemon().start()
}

fn set_interfaces(lab: &mut Lab, host: &str, names: &[&str]) -> Result<()> {
    lab.agent(host)?.configure(|config| {
        config.insert("interfaces".to_owned(), toml::Value::from(names.to_vec()));
    })
}

fn set_controllers(lab: &mut Lab, host: &str, addresses: &[&str]) -> Result<()> {
    lab.agent(host)?.configure(|config| {
        let addresses = toml::Value::from(addresses.to_vec());
        config.insert("controllers".to_owned(), addresses);
    })
}

/// Has an agent see another file of this host's in the place of one of `/etc`.
fn behind_files(files: &[(&Path, &str)]) -> Vec<String> {
    let mounts: Vec<String> = files
        .iter()
        .map(|(file, place)| format!("mount --bind {} {place} && ", file.display()))
        .collect();
    let script = format!("{}exec \"$0\" \"$@\"", mounts.concat());
    vec!["sh".to_owned(), "-c".to_owned(), script]
}

#[test]
fn a_host_that_polices_nothing_says_so_and_never_counts_as_confirmed() -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB], |lab| {
        set_interfaces(lab, "web-1", &["ens3"])?;
        enrol_by_running(lab, &HostSpec::WEB)?;
        wait_until("web-1 to be connected", LONG, || {
            Ok(lab.host_status("web-1")?.is_some_and(|host| host.connected))
        })?;
        let path = lab.write_policy(&policy(&[NOTHING]))?;
        let path = path.display().to_string();
        let apply = ["policy", "apply", "--allow-lockout", &path];
        let answer = lab.operator().run(&apply)?;
        ensure!(answer.code != 0, "confirmed:\n{}", answer.stdout);
        ensure!(
            format!("{}{}", answer.stdout, answer.stderr).contains("ens3"),
            "{answer:?}"
        );
        lab.agent("web-1")?
            .once("status")?
            .refused(1, &["off: nothing is denied", "ens3 (does not exist)"])?;
        let in_sync = lab.host_status("web-1")?.map(|host| host.in_sync);
        ensure!(in_sync == Some(false), "{in_sync:?}");

        // The operator mends the configuration, and the agent reads it again.
        set_interfaces(lab, "web-1", &["eth0"])?;
        lab.serve("web-1", &[Tcp(8080)])?;
        lab.check(&[allowed("client-1", "web-1", Tcp(8080))])?;
        lab.agent("web-1")?.daemon().signal(Signal::HUP)?;
        lab.wait_connected("web-1")?;
        lab.check(&[denied("client-1", "web-1", Tcp(8080))])
    })
}

#[test]
fn signals_that_mean_nothing_end_nothing_and_a_mistake_in_the_configuration_changes_nothing()
-> Result<()> {
    Lab::run(&[HostSpec::WEB], |lab| {
        lab.serve("web-1", &[Tcp(8080), Tcp(2222)])?;
        lab.apply(&policy(&[NOTHING]))?;
        let agent = lab.agent("web-1")?;
        for signal in [Signal::USR1, Signal::USR2, Signal::ALARM] {
            agent.daemon().signal(signal)?;
        }
        agent.configure(|config| {
            config.insert("interfaces".to_owned(), "no list".into());
        })?;
        agent.daemon().signal(Signal::HUP)?;
        wait_until("the mistake to be logged", LONG, || {
            let daemon = agent.daemon();
            ensure!(daemon.is_running()?, "a signal ended the agent");
            Ok(daemon
                .log()?
                .contains("the configuration is not read again"))
        })?;
        lab.check(&[denied("client-1", "web-1", Tcp(2222))])?;
        // A failsafe that the operator adds is in force without a restart.
        let client = lab.address("client-1", Family::V4)?;
        let client6 = lab.address("client-1", Family::V6)?;
        set_interfaces(lab, "web-1", &["eth0"])?;
        lab.agent("web-1")?.configure(|config| {
            let mut failsafe = toml::Table::new();
            let subnets = vec![format!("{client}/32"), format!("{client6}/128")];
            failsafe.insert("subnets".to_owned(), subnets.into());
            failsafe.insert("tcp_ports".to_owned(), vec![2222].into());
            config.insert("failsafe".to_owned(), failsafe.into());
        })?;
        let daemon = lab.agent("web-1")?.daemon();
        daemon.signal(Signal::HUP)?;
        wait_until("the configuration to be read again", LONG, || {
            Ok(daemon.log()?.contains("the configuration is read again"))
        })?;
        lab.check(&[
            allowed("client-1", "web-1", Tcp(2222)),
            denied("client-1", "web-1", Tcp(8080)),
        ])
    })
}

#[test]
fn a_controller_by_name_is_found_after_a_restart_without_a_resolver_and_its_resolver_is_never_cut()
-> Result<()> {
    Lab::run_bare(&[HostSpec::WEB], |lab| {
        let (hosts, resolv) = (
            lab.directory().join("hosts"),
            lab.directory().join("resolv.conf"),
        );
        let address = CONTROLLER.address(Family::V4);
        fs::write(&hosts, format!("{address} controller.lab.test\n"))?;
        let resolvers = Family::ALL.map(|family| lab.address("client-1", family));
        let mut text = "options timeout:1 attempts:1\n".to_owned();
        for resolver in resolvers {
            text.push_str(&format!("nameserver {}\n", resolver?));
        }
        fs::write(&resolv, text)?;
        set_controllers(lab, "web-1", &["controller.lab.test:7443"])?;
        let files = [
            (hosts.as_path(), "/etc/hosts"),
            (resolv.as_path(), "/etc/resolv.conf"),
        ];
        lab.agent("web-1")?.daemon().wrap(&behind_files(&files));
        enrol_by_running(lab, &HostSpec::WEB)?;
        lab.wait_connected("web-1")?;
        lab.apply(&policy(&[NOTHING]))?;

        // Nobody knows the name any more, and policy allows nothing.
        fs::write(&hosts, "")?;
        let agent = lab.agent("web-1")?;
        agent.daemon().terminate()?;
        agent.daemon().start()?;
        lab.wait_connected("web-1")?;

        lab.serve("client-1", &[Udp(53), Tcp(53), Udp(5353)])?;
        let only_resolution = [
            allowed("web-1", "client-1", Udp(53)),
            allowed("web-1", "client-1", Tcp(53)),
            denied("web-1", "client-1", Udp(5353)),
        ];
        lab.check(&only_resolution)?;
        lab.operator()
            .run(&["quarantine", "web-1", "--reason", "what it may resolve"])?
            .fine()?;
        lab.check(&only_resolution)
    })
}

#[test]
fn a_controller_on_the_agents_own_host_is_reached_by_others_whatever_address_it_is_configured_by()
-> Result<()> {
    const HOST: HostSpec = HostSpec {
        place: CONTROLLER,
        labels: &[("tier", "web")],
    };
    Lab::run_bare(&[HOST, HostSpec::APP], |lab| {
        set_controllers(lab, "controller", &["127.0.0.1:7443"])?;
        lab.serve("controller", &[Tcp(8080)])?;
        lab.enrol(&[HOST, HostSpec::APP])?;
        // It is refused until the agent has reported that it keeps the controller's port open.
        wait_until("the policy to be applied", LONG, || {
            Ok(lab.apply(&policy(&[NOTHING])).is_ok())
        })?;
        for restart in [false, true] {
            if restart {
                // What was found is known before anybody listens.
                lab.agent("controller")?.daemon().terminate()?;
                lab.agent("controller")?.daemon().start()?;
                lab.wait_connected("controller")?;
            }
            lab.check(&[denied("app-1", "controller", Tcp(8080))])?;
            lab.agent("app-1")?.daemon().terminate()?;
            lab.agent("app-1")?.daemon().start()?;
            lab.wait_connected("app-1")?;
        }
        let rules = lab.agent("controller")?.once("rules")?.fine()?.stdout;
        let opened = rules
            .lines()
            .any(|line| line.contains("lifeline/controller") && line.contains("ingress"));
        ensure!(opened, "{rules}");
        // One that listens on the same port elsewhere is no controller.
        let rules = lab.agent("app-1")?.once("rules")?.fine()?.stdout;
        let opened = rules
            .lines()
            .any(|line| line.contains("lifeline/controller") && line.contains("ingress"));
        ensure!(!opened, "{rules}");
        Ok(())
    })
}

/// Twice as fast as a dead connection is noticed by itself.
const SOON: Duration = Duration::from_secs(7);

#[test]
fn a_host_that_is_renumbered_is_known_by_its_new_address_before_its_old_connection_is_given_up()
-> Result<()> {
    Lab::run(&[HostSpec::WEB], |lab| {
        let old = lab.address("web-1", Family::V4)?;
        let new: IpAddr = "10.66.1.77".parse()?;
        let gateway = lab.gateway("web-1", Family::V4)?;
        let namespace = lab.namespace("web-1")?.clone();
        let ip = |arguments: &str| -> Result<()> {
            let status = namespace
                .command("ip")
                .args(arguments.split_whitespace())
                .status()
                .context("running ip")?;
            ensure!(status.success(), "ip {arguments}");
            Ok(())
        };
        let begun = Instant::now();
        ip(&format!("addr del {old}/24 dev eth0"))?;
        ip(&format!("addr add {new}/24 dev eth0"))?;
        ip(&format!("route replace default via {gateway}"))?;
        wait_until("web-1 to be known by its new address", SOON, || {
            let host = lab.host_status("web-1")?.context("web-1 is gone")?;
            Ok(host.connected && host.addresses.contains(&new) && !host.addresses.contains(&old))
        })?;
        println!("known by its new address after {:?}", begun.elapsed());
        Ok(())
    })
}

#[test]
fn pins_that_are_removed_under_the_agent_are_made_again_and_the_controller_is_told() -> Result<()> {
    Lab::run(&[HostSpec::WEB], |lab| {
        lab.serve("web-1", &[Tcp(8080)])?;
        lab.apply(&policy(&[NOTHING]))?;
        let pins = lab.agent("web-1")?.pins();
        fs::remove_dir_all(&pins)?;
        lab.agent("web-1")?
            .once("status")?
            .refused(0, &["on eth0"])?;
        lab.check(&[denied("client-1", "web-1", Tcp(8080))])?;
        wait_until("the controller to be told", LONG, || {
            let hosts = lab.operator().run(&["hosts", "-o", "json"])?.fine()?;
            Ok(hosts.stdout.contains("pins of Bulkhead's maps and links"))
        })?;
        ensure!(pins.exists(), "no pins");
        // The next stop opens nothing.
        lab.agent("web-1")?.daemon().terminate()?;
        lab.check(&[denied("client-1", "web-1", Tcp(8080))])
    })
}

#[test]
fn a_host_that_is_detached_is_shown_as_detached_until_its_agent_runs_again() -> Result<()> {
    Lab::run(&[HostSpec::WEB], |lab| {
        lab.apply(&policy(&[NOTHING]))?;
        lab.agent("web-1")?.daemon().terminate()?;
        let told = lab.agent("web-1")?.once("detach")?.fine()?.stdout;
        ensure!(told.contains("the controller is told"), "{told}");
        let enforcement = |lab: &Lab| -> Result<String> {
            let hosts = lab.operator().run(&["hosts", "-o", "json"])?.fine()?;
            Ok(hosts.stdout)
        };
        ensure!(enforcement(lab)?.contains("\"detached\""));
        ensure!(lab.host_status("web-1")?.is_some_and(|host| !host.in_sync));
        lab.agent("web-1")?.daemon().start()?;
        lab.wait_connected("web-1")?;
        ensure!(!enforcement(lab)?.contains("\"detached\""));
        Ok(())
    })
}

#[test]
fn rules_are_listed_by_whatever_name_the_configuration_is_called() -> Result<()> {
    Lab::run(&[HostSpec::WEB], |lab| {
        lab.apply(&policy(&[NOTHING]))?;
        let config = lab.agent("web-1")?.config();
        let link = lab.directory().join("link.toml");
        std::os::unix::fs::symlink(&config, &link)?;
        let doubled = config
            .display()
            .to_string()
            .replace("/agent.toml", "//./agent.toml");
        for spelling in [config.as_path(), &link, Path::new(&doubled)] {
            let answer = lab.agent("web-1")?.once_by("rules", spelling)?;
            let rules = answer.fine()?.stdout;
            ensure!(
                rules.contains("policy-0"),
                "{}: {rules}",
                spelling.display()
            );
        }
        Ok(())
    })
}
