//! ICMP errors about connections that policy allows pass, and no other ICMP does: real clients depend on them.

use anyhow::{Context, Result, ensure};
use lab::{Family, HostSpec, LONG, Lab, wait_until};

use crate::policies::policy;

/// More than the windows at the beginning of a connection.
const BYTES: usize = 400_000;

#[test]
fn a_smaller_link_is_found_by_a_server_that_may_open_nothing() -> Result<()> {
    Lab::run(&[HostSpec::APP], |lab| {
        lab.apply(&policy(&[
            "appliesTo: app, egress: [], ingress: [{ from: [\
             { subnet: 10.66.9.20/32 }, { subnet: 'fd66:9::20/128' }], allow: [tcp/8080] }]",
        ]))?;
        lab.narrow("client-1", 1300)?;
        let mut related = 0;
        for family in Family::ALL {
            let option = match family {
                Family::V4 => "-4",
                Family::V6 => "-6",
            };
            let serve = format!("head -c {BYTES} /dev/zero | nc.openbsd {option} -l -N 8080");
            let mut server = lab.namespace("app-1")?.command("sh");
            let mut server = server.args(["-c", &serve]).spawn()?;
            let to = lab.address("app-1", family)?.to_string();
            let mut received = 0;
            // Until it listens, the client is refused.
            let fetched = wait_until("the whole file", LONG, || {
                let mut client = lab.namespace("client-1")?.command("timeout");
                let client = client.args(["20", "nc.openbsd", "-d", &to, "8080"]);
                received = client.output().context("running nc.openbsd")?.stdout.len();
                Ok(received > 0)
            });
            // Ends with its pipe, if it did not end by itself.
            let _ = server.kill();
            server.wait()?;
            fetched?;
            ensure!(received == BYTES, "{family}: {received} bytes");
            let heard = lab.counted("app-1", "related")?;
            ensure!(heard > related, "{family}: no packet was too big");
            related = heard;
        }
        Ok(())
    })
}

#[test]
fn a_traceroute_sees_the_way_where_its_packets_may_leave() -> Result<()> {
    Lab::run(&[HostSpec::APP], |lab| {
        for (allowed, body) in [
            (
                true,
                "appliesTo: app, ingress: [], egress: [{ to: [{ subnet: 0.0.0.0/0 }, { subnet: '::/0' }], \
                 allow: [udp/33434-33534] }]",
            ),
            (false, "appliesTo: app, ingress: [], egress: []"),
        ] {
            lab.apply(&policy(&[body]))?;
            for family in Family::ALL {
                let to = lab.address("client-1", family)?.to_string();
                let mut traceroute = lab.namespace("app-1")?.command("traceroute");
                let output = traceroute
                    .args(["-n", "-q", "1", "-w", "2", "-m", "3", &to])
                    .output()
                    .context("running traceroute: install its package (`cargo xtask setup`)")?;
                let heard = String::from_utf8_lossy(&output.stdout).into_owned();
                let hops: Vec<_> = heard.lines().skip(1).collect();
                let router = lab.gateway("app-1", family)?.to_string();
                for (hop, address) in [router, to].iter().enumerate() {
                    let seen = hops
                        .get(hop)
                        .is_some_and(|line| line.contains(address.as_str()));
                    ensure!(seen == allowed, "{family}, {allowed}: {address}\n{heard}");
                }
            }
        }
        Ok(())
    })
}
