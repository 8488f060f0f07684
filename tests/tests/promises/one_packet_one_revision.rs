//! A policy switch is a single flip; nobody ever sees half of one.

use anyhow::{Result, ensure};
use lab::{Family, HostSpec, LONG, Lab, Service, allowed, denied, wait_until};

use crate::policies::policy;

use Service::{Tcp, Udp};

const FLIPS: u64 = 100;

/// Flows that are judged between two flips, at least: else a flip would go by unseen.
const FLOWS_PER_FLIP: u64 = 20;

/// Two revisions that agree on every flow which is tried, and on the tables for none of them: other
/// rules in another order make other classes. So a packet that is judged by the classes of one and
/// the matrix of the other falls on the wrong cell.
fn revisions() -> [String; 2] {
    let by_identity = policy(&[
        "appliesTo: app, ingress: [\
           { from: [web], allow: [tcp/8080, udp/5353, udp/6004-6006] }]",
        "appliesTo: web, egress: [\
           { to: [app], allow: [tcp/8080, tcp/8081, udp/5353, udp/5354, udp/6004-6006] }]",
    ]);
    let by_subnet = policy(&[
        "appliesTo: app, ingress: [\
           { from: [db], allow: [tcp/1-79, tcp/8081, udp/5354] },\
           { from: [{ subnet: 10.66.7.0/24 }], allow: [tcp/8081-8090] },\
           { from: [{ subnet: 10.66.7.64/26 }], allow: [udp/5000-5352, udp/5354-6000] },\
           { from: [{ subnet: 10.66.1.10/32 }], allow: [tcp/8080] },\
           { from: [{ subnet: 10.66.1.0/28 }], allow: [udp/5353] },\
           { from: [{ subnet: 'fd66:1::/64' }], allow: [tcp/8080, udp/5353, udp/6004-6006] }]",
        "appliesTo: web, egress: [\
           { to: [db], allow: [tcp/8080-8082] },\
           { to: [{ subnet: 10.66.2.0/24 }], allow: [udp/5353-6100, tcp/8000-9000] },\
           { to: [{ subnet: 'fd66:2::/32' }], allow: [any] }]",
    ]);
    [by_identity, by_subnet]
}

#[test]
fn a_hundred_flips_under_a_hammer_show_no_mixture() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081), Udp(5353), Udp(5354)])?;
        let revisions = revisions();
        let files = [
            lab.write_policy(&revisions[0])?,
            lab.write_policy(&revisions[1])?,
        ];
        let first = lab.apply_path(&files[0])?;
        let hammer = lab.hammer(&[
            allowed("web-1", "app-1", Tcp(8080)),
            allowed("web-1", "app-1", Udp(5353)),
            denied("web-1", "app-1", Tcp(8081)),
            denied("web-1", "app-1", Udp(5354)),
        ])?;
        // Open flows are judged again by each revision.
        let datagrams = [
            lab.lockstep("web-1", "app-1", 6004, Family::V4)?,
            lab.pushed("web-1", "app-1", 6006, Family::V6)?,
        ];
        let mut last = first;
        for flip in 1..=FLIPS {
            let tried = hammer.tried();
            last = lab.apply_path(&files[(flip % 2) as usize])?;
            wait_until("the hammer to go on", LONG, || {
                Ok(hammer.tried() >= tried + FLOWS_PER_FLIP)
            })?;
        }
        for flow in datagrams {
            flow.finish()?;
        }
        let report = hammer.finish()?;
        ensure!(
            last == first + FLIPS,
            "revision {last} is not {FLIPS} after {first}"
        );
        ensure!(report.surprises == 0, "{report:#?}");
        ensure!(
            report.allowed > FLIPS && report.denied > FLIPS,
            "{report:#?}"
        );
        let leaked = [Tcp(8081), Udp(5354)].map(|service| {
            lab.servers("app-1")
                .map(|servers| servers.arrivals(service))
        });
        for arrivals in leaked {
            let arrivals = arrivals?;
            ensure!(
                arrivals == 0,
                "{arrivals} flows got through that both revisions deny"
            );
        }
        Ok(())
    })
}
