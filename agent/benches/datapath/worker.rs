//! A process in the server's namespace that holds what judges there, and does as it is told by lines.
//! It has a process to itself so that what it weighs is an agent's.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _, stdin, stdout},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_agent::{
    enforcer::{Enforcer, EnforcerOptions},
    local_tiers::LocalTiers,
};
use datapath::Direction;
use etherparse::PacketBuilder;
use policy::{HostPolicy, Timestamp};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::{
    network::{End, INTERFACE, Pair},
    programs::{EMPTY, LIMIT, Programs, map_bytes},
    workload::{CLIENTS, EXACT, PORT, SERVER, STRANGERS, Workload},
};

/// The first argument of such a process; the kind and the number of rules come next.
pub const ARGUMENT: &str = "--worker";
/// Runs of a program in one `BPF_PROG_TEST_RUN`.
const REPEAT: u32 = 500_000;

/// The other end of the lines.
pub struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    pub fn start(pair: &Pair, kind: &str, rules: usize) -> Result<Self> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &pair.namespace(End::Server)])
            .arg(env::current_exe()?)
            .args([ARGUMENT, kind, &rules.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a worker")?;
        let output = child.stdout.take().context("a worker without output")?;
        let mut worker = Self {
            input: child.stdin.take(),
            output: BufReader::new(output),
            child,
        };
        worker
            .answer()
            .with_context(|| format!("starting `{kind}` with {rules} rules"))?;
        Ok(worker)
    }

    /// Sends a line and waits for the number that answers it.
    pub fn ask(&mut self, what: &str) -> Result<f64> {
        let input = self.input.as_mut().context("the worker has ended")?;
        writeln!(input, "{what}").context("telling a worker")?;
        self.answer()
            .with_context(|| format!("asking a worker to {what}"))
    }

    fn answer(&mut self) -> Result<f64> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let number = line.trim().parse();
        number.with_context(|| format!("the worker said {line:?}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends with its input.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// What such a process does.
pub fn main(kind: &str, rules: usize) -> Result<()> {
    if kind == "bulkhead" {
        return agent(rules);
    }
    let names = if kind == "empty" { EMPTY } else { LIMIT };
    let mut programs = Programs::attach(names, INTERFACE)?;
    let clients = (0..1 << 15).map(|host| (u32::from(CLIENTS) + host).into());
    programs.allow(clients.chain([EXACT]).map(|address| (address, PORT)))?;
    serve(|what| match what {
        "established" => time(|repeat| programs.time(true, &frame(true), repeat)),
        "egress" => time(|repeat| programs.time(false, &frame(false), repeat)),
        "denied" => time(|repeat| programs.time(true, &stranger(), repeat)),
        _ => bail!("`{what}` is asked of agents"),
    })
}

/// Once to make the flow, then for long.
fn time(mut run: impl FnMut(u32) -> Result<f64>) -> Result<f64> {
    run(1)?;
    run(REPEAT)
}

fn serve(mut act: impl FnMut(&str) -> Result<f64>) -> Result<()> {
    println!("0");
    for line in stdin().lock().lines() {
        println!("{}", act(&line?)?);
        stdout().flush()?;
    }
    Ok(())
}

/// A datagram between an allowed client and the server.
fn frame(ingress: bool) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let (here, there) = (SERVER.octets(), EXACT.octets());
    let datagram = if ingress {
        link.ipv4(there, here, 64).udp(40_000, PORT)
    } else {
        link.ipv4(here, there, 64).udp(PORT, 40_000)
    };
    written(datagram)
}

/// One of somebody whom no rule knows.
fn stranger() -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let network = link.ipv4(STRANGERS.octets(), SERVER.octets(), 64);
    written(network.udp(40_000, PORT))
}

fn written(datagram: etherparse::PacketBuilderStep<etherparse::UdpHeader>) -> Vec<u8> {
    let mut frame = Vec::new();
    // Nothing fails that writes to memory.
    let _ = datagram.write(&mut frame, &[0; 18]);
    frame
}

fn agent(rules: usize) -> Result<()> {
    let directory = tempfile::tempdir()?;
    // `ip netns exec` has given this process mounts of its own.
    mount(
        "bpf",
        directory.path(),
        "bpf",
        MountFlags::empty(),
        None::<&std::ffi::CStr>,
    )
    .context("mounting a BPF file system")?;
    let served = serve_agent(directory.path(), rules);
    let _ = unmount(directory.path(), UnmountFlags::DETACH);
    served
}

fn serve_agent(bpffs: &std::path::Path, rules: usize) -> Result<()> {
    let pin_dir = bpffs.join("bulkhead").join("v1");
    let mut enforcer = Enforcer::open(EnforcerOptions {
        pin_dir: pin_dir.clone(),
        interfaces: vec![INTERFACE.to_owned()],
        flows: 131_072,
        behaviour: bulkhead_agent::Behaviour::default(),
        hooking: bulkhead_agent::HookingChoice::Automatic,
    })?;
    let mut policy = Workload::new(rules).policy(1);
    policy.check().context("the policy of this bench")?;
    let mut applied = 0_u64;
    apply(&mut enforcer, &mut policy, &mut applied)?;
    ensure!(!enforcer.attach()?.is_empty(), "no interface was taken");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()?;
    let mut reading = None;
    serve(|what| match what {
        "established" => {
            time(|repeat| judge(&mut enforcer, Direction::Ingress, &frame(true), repeat))
        }
        "egress" => time(|repeat| judge(&mut enforcer, Direction::Egress, &frame(false), repeat)),
        "denied" => time(|repeat| judge(&mut enforcer, Direction::Ingress, &stranger(), repeat)),
        // From a policy that has nothing of it.
        "apply" => {
            let mut other = Workload::new(10).policy(1);
            apply(&mut enforcer, &mut other, &mut applied)?;
            apply(&mut enforcer, &mut policy, &mut applied)
        }
        "address" => {
            Workload::change_address(&mut policy);
            apply(&mut enforcer, &mut policy, &mut applied)
        }
        "memory" => Ok((map_bytes(&pin_dir)? + resident()?) as f64 / f64::from(1 << 20)),
        "maps" => Ok(map_bytes(&pin_dir)? as f64 / f64::from(1 << 20)),
        "read" => {
            let mut denials = enforcer.denials()?;
            reading = Some(runtime.spawn(async move {
                while let Some(batch) = denials.next().await {
                    drop(batch);
                }
            }));
            Ok(0.0)
        }
        "read no more" => {
            if let Some(task) = reading.take() {
                task.abort();
            }
            Ok(0.0)
        }
        _ => bail!("nobody knows how to `{what}`"),
    })
}

fn judge(enforcer: &mut Enforcer, at: Direction, frame: &[u8], repeat: u32) -> Result<f64> {
    let (_, time) = enforcer.time_packet(at, frame, repeat)?;
    Ok(time.as_nanos() as f64)
}

/// Milliseconds until a policy is live in the kernel.
fn apply(enforcer: &mut Enforcer, policy: &mut HostPolicy, applied: &mut u64) -> Result<f64> {
    *applied += 1;
    policy.revision.0 = *applied;
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&applied.to_be_bytes());
    let start = Instant::now();
    enforcer.apply(policy, digest, &LocalTiers::default(), Timestamp(0))?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Bytes of this process that are in memory.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes = kilobytes.context("/proc/self/status has no VmRSS")?;
    Ok(kilobytes.trim().parse::<u64>()? * 1024)
}
