//! A policy switch is a single flip; nobody ever sees half of one.

mod mixture;

use anyhow::{Result, ensure};
use lab::{Expected, Family, HostSpec, LONG, Lab, Service, allowed, denied, wait_until};

use crate::policies::policy;

use Service::{Tcp, Udp};

const HOSTS: [HostSpec; 2] = [HostSpec::WEB, HostSpec::APP];

const FLIPS: u64 = 100;

/// Flows that are judged between two flips, at least: else a flip would go by unseen.
const FLOWS_PER_FLIP: u64 = 20;

/// Two revisions that agree on every flow which is tried, and on the numbers in the tables for none
/// of them: what stands before and behind the rules that count differs. So a packet that is judged
/// by the classes of one and the matrix of the other falls on a wrong cell.
fn revisions() -> [String; 2] {
    let by_identity = policy(&[
        "appliesTo: app, ingress: [\
           { from: [web], allow: [tcp/8080, udp/5353, udp/6004-6006] },\
           { from: [{ subnet: 10.99.1.0/24 }], allow: [tcp/60002, tcp/8081] },\
           { from: [{ subnet: 10.99.2.0/24 }], allow: [tcp/60003, udp/5354] },\
           { from: [{ subnet: 10.99.3.0/24 }], allow: [tcp/60001] }]",
        "appliesTo: web, egress: [\
           { to: [app], allow: [tcp/8080-8081, udp/5353-5354, udp/6004-6006] },\
           { to: [{ subnet: 10.99.1.0/24 }], allow: [tcp/60002] },\
           { to: [{ subnet: 10.99.2.0/24 }], allow: [tcp/60003] },\
           { to: [{ subnet: 10.99.3.0/24 }], allow: [tcp/60001] }]",
    ]);
    let by_subnet = policy(&[
        "appliesTo: app, ingress: [\
           { from: [{ subnet: 10.1.1.0/24 }], allow: [tcp/3, tcp/8081] },\
           { from: [{ subnet: 10.1.2.0/24 }], allow: [tcp/1, udp/5354] },\
           { from: [{ subnet: 10.1.3.0/24 }], allow: [tcp/2, tcp/8082-9000] },\
           { from: [{ subnet: 10.66.1.10/32 }], allow: [tcp/8080] },\
           { from: [{ subnet: 10.66.1.0/28 }], allow: [udp/5353, udp/6004] },\
           { from: [{ subnet: 'fd66:1::/64' }], allow: [tcp/8080, udp/5353, udp/6006] }]",
        "appliesTo: web, egress: [\
           { to: [{ subnet: 10.1.1.0/24 }], allow: [tcp/3] },\
           { to: [{ subnet: 10.1.2.0/24 }], allow: [tcp/1] },\
           { to: [{ subnet: 10.1.3.0/24 }], allow: [tcp/2] },\
           { to: [{ subnet: 10.66.2.0/24 }], allow: [udp/5353-6100, tcp/8000-9000] },\
           { to: [{ subnet: 'fd66:2::/32' }], allow: [tcp/8000-9000, udp/5000-7000] }]",
    ]);
    [by_identity, by_subnet]
}

/// What the hammer tries: the same under both revisions.
fn flows() -> [Expected; 4] {
    [
        allowed("web-1", "app-1", Tcp(8080)),
        allowed("web-1", "app-1", Udp(5353)),
        denied("web-1", "app-1", Tcp(8081)),
        denied("web-1", "app-1", Udp(5354)),
    ]
}

#[test]
fn a_hundred_flips_under_a_hammer_show_no_mixture() -> Result<()> {
    Lab::run(&HOSTS, |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081), Udp(5353), Udp(5354)])?;
        let revisions = revisions();
        let files = [
            lab.write_policy(&revisions[0])?,
            lab.write_policy(&revisions[1])?,
        ];
        let first = lab.apply_path(&files[0])?;
        let hammer = lab.hammer(&flows())?;
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
