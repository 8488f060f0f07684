//! How long the agent takes from its start until the host enforces its last good policy, as at a boot: nothing is in
//! the kernel. `cargo xtask bench datapath` runs this in emulated machines, whose clock counts instructions.

#![forbid(unsafe_code)]

use std::{
    env,
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lab::{HostSpec, Lab, Service::Tcp, allowed, denied};

const HOST: &str = "app-1";
const ROUNDS: u32 = 3;
/// A bound that only an agent that hangs exceeds.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    // Seconds that the kernel took from its start to its first program.
    let boot = env::var("KERNEL_BOOT").context("KERNEL_BOOT is not set")?;
    let boot: f64 = boot.parse().context("reading KERNEL_BOOT")?;
    let milliseconds = measure(&[HostSpec::APP], |lab| {
        lab.serve(HOST, &[Tcp(8080), Tcp(8081)])?;
        lab.apply(
            "{ apiVersion: bulkhead/v1, kind: Segment, name: app, match: { tier: app } }\n---\n\
             { apiVersion: bulkhead/v1, kind: Policy, name: app, appliesTo: app, ingress: [{ allow: [tcp/8080] }] }\n",
        )?;
        let socket = lab.directory().join("notify");
        let manager = UnixDatagram::bind(&socket).context("binding the notification socket")?;
        manager.set_read_timeout(Some(PATIENCE))?;
        let notify = format!("NOTIFY_SOCKET={}", socket.display());
        // The kernel's own clock of this machine: what each step took is in the log.
        let wrapper = ["env".to_owned(), notify, "RUST_LOG=debug".to_owned()];
        lab.agent(HOST)?.daemon().wrap(&wrapper);
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let agent = lab.agent(HOST)?;
            agent.daemon().kill_9()?;
            // What a reboot does to the kernel; the disk stays.
            agent.once("detach")?.fine()?;
            let started = Instant::now();
            agent.daemon().start()?;
            wait_ready(&manager)?;
            rounds.push(started.elapsed().as_secs_f64() * 1e3);
            lab.check(&[
                allowed("client-1", HOST, Tcp(8080)),
                denied("client-1", HOST, Tcp(8081)),
            ])?;
        }
        if env::var_os("STARTUP_LOG").is_some() {
            println!("{}", lab.agent(HOST)?.daemon().log()?);
        }
        rounds.sort_by(f64::total_cmp);
        Ok(rounds[rounds.len() / 2])
    })?;
    println!(
        "startup-measured {:.1} {milliseconds:.1} {ROUNDS}",
        boot * 1e3
    );
    Ok(())
}

/// Waits for the message that the service manager waits for.
fn wait_ready(manager: &UnixDatagram) -> Result<()> {
    let mut message = [0; 4096];
    loop {
        let length = manager
            .recv(&mut message)
            .context("waiting for the agent to be ready")?;
        if message[..length]
            .split(|byte| *byte == b'\n')
            .any(|line| line == b"READY=1")
        {
            return Ok(());
        }
    }
}

/// Boots a lab, and gives what the scenario gives.
fn measure<T>(hosts: &[HostSpec], scenario: impl FnOnce(&mut Lab) -> Result<T>) -> Result<T> {
    let mut measured = None;
    Lab::run(hosts, |lab| {
        measured = Some(scenario(lab)?);
        Ok(())
    })?;
    measured.context("nothing was measured")
}
