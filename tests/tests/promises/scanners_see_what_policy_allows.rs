//! The tools of those who look for a way in, and of those who look for what is wrong.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::{Family, HostSpec, Lab, Service};

use crate::policies::policy;

use Service::{Tcp, Udp};

/// Served and allowed, served and denied, neither.
const PORTS: [u16; 3] = [8080, 8081, 8082];
const BODY: &str = "appliesTo: app, egress: [], ingress: [\
    { from: [{ subnet: 10.66.9.20/32 }, { subnet: 'fd66:9::20/128' }], allow: [tcp/8080, udp/8080] }]";

/// What a tool prints.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| {
        let name = command.get_program().to_string_lossy().into_owned();
        format!("running {name}: install its package (`cargo xtask setup`)")
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The state that nmap reports for each of [`PORTS`].
fn scan(lab: &Lab, family: Family, options: &[&str]) -> Result<Vec<String>> {
    let mut nmap = lab.namespace("client-1")?.command("nmap");
    nmap.args(["-n", "-Pn", "--max-retries", "1", "-p", "8080,8081,8082"]);
    if family == Family::V6 {
        nmap.arg("-6");
    }
    let heard = run(nmap
        .args(options)
        .arg(lab.address("app-1", family)?.to_string()))?;
    PORTS
        .iter()
        .map(|port| {
            heard
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{port}/")))
                .and_then(|line| line.split_whitespace().nth(1))
                .map(ToOwned::to_owned)
                .with_context(|| format!("{options:?}: no word of {port}:\n{heard}"))
        })
        .collect()
}

#[test]
fn every_kind_of_scan() -> Result<()> {
    Lab::run(&[HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081), Udp(8080), Udp(8081)])?;
        lab.apply(&policy(&[BODY]))?;
        for family in Family::ALL {
            // Nothing tells a port that is denied from one that is not there.
            for (options, states) in [
                (&["-sS"][..], ["open", "filtered", "filtered"]),
                (&["-sT"], ["open", "filtered", "filtered"]),
                // A segment from nowhere is answered where its connection would be allowed.
                (&["-sA"], ["unfiltered", "filtered", "filtered"]),
                (&["-sF"], ["open|filtered"; 3]),
                (&["-sN"], ["open|filtered"; 3]),
                (&["-sX"], ["open|filtered"; 3]),
                (&["-sU"], ["open", "open|filtered", "open|filtered"]),
                // From the port of a server, as if it were an answer.
                (&["-sS", "-g", "53"], ["open", "filtered", "filtered"]),
            ] {
                let found = scan(lab, family, options)?;
                ensure!(found == states, "{family} {options:?}: {found:?}");
            }
        }
        for (protocol, port) in [("tcp", 8081), ("tcp", 8082), ("udp", 8081)] {
            lab.wait_denial("of the scan", "app-1", |denial| {
                denial.protocol == protocol
                    && denial.local_port == port
                    && denial.direction == "ingress"
                    && denial.file.ends_with(".yaml")
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_packet_that_claims_the_hosts_own_address() -> Result<()> {
    Lab::run(&[HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8080)])?;
        let to = lab.address("app-1", Family::V4)?.to_string();
        // Without any policy for it.
        let mut hping = lab.namespace("client-1")?.command("hping3");
        run(hping.args([
            "-n", "-q", "-S", "-p", "8080", "-c", "3", "--fast", "--spoof", &to, &to,
        ]))?;
        let denial = lab.wait_denial("of a forged address", "app-1", |denial| {
            denial.tier == "anti-spoofing"
        })?;
        ensure!(denial.peer_address.to_string() == to, "{denial:?}");
        let rules = lab.agent("app-1")?.once("rules")?.fine()?.stdout;
        let rule = rules.lines().find(|line| line.contains("own-addresses"));
        let cells: Vec<&str> = rule.unwrap_or_default().split_whitespace().collect();
        ensure!(
            cells.get(cells.len() - 2) == Some(&"3"),
            "the three packets are counted under their rule:\n{rules}"
        );
        Ok(())
    })
}

#[test]
fn every_probe_of_a_denied_port_is_reported_whatever_its_flags() -> Result<()> {
    Lab::run(&[HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081)])?;
        // What app-1 opens itself is open: an answer to it would pass.
        lab.apply(&policy(&["appliesTo: app, ingress: [{ from: [\
            { subnet: 10.66.9.20/32 }, { subnet: 'fd66:9::20/128' }], allow: [tcp/8080] }]"]))?;
        let mut probes = Vec::new();
        for (family, first) in [(Family::V4, 42_000), (Family::V6, 43_000)] {
            for (source, (option, state)) in (first..).zip([
                ("-sN", "open|filtered"),
                ("-sF", "open|filtered"),
                ("-sX", "open|filtered"),
                ("-sM", "open|filtered"),
                ("-sA", "filtered"),
            ]) {
                let port = source.to_string();
                let found = scan(lab, family, &[option, "-g", &port])?;
                ensure!(found[1..] == [state; 2], "{family} {option}: {found:?}");
                probes.push((source, 8081));
                probes.push((source, 8082));
            }
        }
        let to = lab.address("app-1", Family::V4)?.to_string();
        for (source, flags) in (44_000..).zip([
            &[][..],
            &["-F"],
            &["-P"],
            &["-U"],
            &["-F", "-P", "-U"],
            &["-S", "-F"],
            &["-S", "-R"],
            &["-S", "-A"],
            &["-R"],
            &["-A"],
            &["-X", "-Y"],
        ]) {
            let port = source.to_string();
            let mut hping = lab.namespace("client-1")?.command("hping3");
            hping.args(["-n", "-c", "1", "-p", "8081", "-s", &port, "-k"]);
            let heard = run(hping.args(flags).arg(&to))?;
            ensure!(!heard.contains("flags="), "{flags:?} is answered:\n{heard}");
            probes.push((source, 8081));
        }
        for (source, port) in probes {
            lab.wait_denial(
                &format!("from port {source} to {port}"),
                "app-1",
                |denial| {
                    denial.peer_port == source
                        && denial.local_port == port
                        && denial.protocol == "tcp"
                        && denial.direction == "ingress"
                        && denial.file.ends_with(".yaml")
                },
            )?;
        }
        Ok(())
    })
}
