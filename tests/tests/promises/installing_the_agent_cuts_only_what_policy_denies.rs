//! A connection that is older than the agent is judged as the one who opened it would be.

use anyhow::{Result, ensure};
use lab::{Family, HostSpec, Lab};

use crate::policies::policy;

const HOSTS: [HostSpec; 2] = [HostSpec::WEB, HostSpec::APP];

#[test]
fn also_where_the_end_that_was_called_is_the_first_to_speak() -> Result<()> {
    Lab::run_bare(&HOSTS, |lab| {
        let mut kept = Vec::new();
        let mut cut = Vec::new();
        for (family, port) in [(Family::V4, 7004), (Family::V6, 7006)] {
            kept.push(lab.idle("web-1", "app-1", port, family)?);
            cut.push(lab.idle("web-1", "app-1", port + 100, family)?);
        }
        lab.enrol(&HOSTS)?;
        // app-1 may open nothing, and nobody may call web-1: what app-1 says passes as an answer, on
        // both hosts, or not at all.
        lab.apply(&policy(&[
            "appliesTo: app, ingress: [{ from: [web], allow: [tcp/7000-7099] }], egress: []",
            "appliesTo: web, ingress: [], egress: [{ to: [app], allow: [tcp] }]",
        ]))?;
        for mut connection in kept {
            connection.expect_greeting()?;
            connection.talk()?.expect_progress()?;
        }
        for connection in cut {
            let connection = connection.talk()?;
            connection.expect_silence()?;
            ensure!(
                connection.received() == [0, 0],
                "a denied connection received {:?} bytes",
                connection.received()
            );
        }
        Ok(())
    })
}
