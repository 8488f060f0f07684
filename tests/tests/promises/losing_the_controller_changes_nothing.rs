//! Hosts enforce on their own, and nothing that they saw is lost.

use anyhow::{Result, ensure};
use lab::{Family, HostSpec, Lab, Service, allowed, denied};

use crate::policies::app_takes_from_web;

use Service::{Ping, Tcp};

#[test]
fn still_enforced_and_caught_up_after() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &[Tcp(8080), Tcp(8081), Tcp(8082)])?;
        lab.apply(&app_takes_from_web(
            "tcp/8080, tcp/7000-7999, icmp/8, icmpv6/128",
        ))?;
        let connection = lab.busy("web-1", "app-1", 7000, Family::V4)?;
        lab.controller().kill_9()?;
        lab.operator()
            .run(&["hosts"])?
            .refused(69, &["10.66.9.10:7443"])?;
        let enforced = [
            allowed("web-1", "app-1", Tcp(8080)),
            allowed("web-1", "app-1", Ping),
            denied("web-1", "app-1", Tcp(8081)),
            denied("client-1", "app-1", Tcp(8080)),
        ];
        lab.check(&enforced)?;
        // What was seen is on disk, also when the agent ends before anybody has asked for it.
        let status = lab.agent("app-1")?.daemon().terminate()?;
        ensure!(status.success(), "SIGTERM: {status}");
        lab.agent("app-1")?.daemon().start()?;
        lab.check(&enforced)?;
        connection.expect_progress()?;

        lab.controller().start()?;
        for host in ["web-1", "app-1"] {
            lab.wait_connected(host)?;
        }
        for family in Family::ALL {
            let web = lab.address("web-1", family)?;
            let denial =
                lab.wait_denial("seen while the controller was away", "app-1", |denial| {
                    denial.peer_address == web && denial.local_port == 8081
                })?;
            ensure!(denial.peer.as_deref() == Some("web-1"), "{denial:?}");
        }
        let lost = lab.host_status("app-1")?.map(|host| host.denials_lost);
        ensure!(lost == Some(0), "denials were lost: {lost:?}");

        connection.expect_progress()?;
        lab.apply(&app_takes_from_web("tcp/8082"))?;
        connection.expect_silence()?;
        lab.check(&[
            allowed("web-1", "app-1", Tcp(8082)),
            denied("web-1", "app-1", Tcp(8080)),
        ])
    })
}
