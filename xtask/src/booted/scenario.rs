//! The life of a host, from its installation to its removal, as `docs/install-systemd.md` tells it.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    base::{Base, Suite},
    machine::{Machine, Settings},
    network::{Network, Prober, end},
    page::{self, Block},
    shell::{Done, Shell},
    work_directory,
};
use crate::{command, root};

/// The addresses of the page.
const CONTROLLER: &str = "10.0.0.1";
const HOST: &str = "10.0.1.11";
const OPERATOR: &str = "10.0.9.5";
/// Of the network that all three are in.
const PREFIX_LENGTH: &str = "/16";

/// A bound on what takes seconds, on a machine that is emulated and shares its processor.
const LONG: Duration = Duration::from_secs(240);

/// The three systems of the page, and the page.
struct World {
    blocks: VecDeque<Block>,
    /// Of the page about troubleshooting.
    troubleshooting: VecDeque<Block>,
    operator: Shell,
    operator_process: Child,
    controller: Machine,
    host: Machine,
    network: Network,
}

/// Runs the whole scenario.
///
/// # Errors
///
/// Something of it is not so.
pub fn run(host: &Suite, controller: &Suite) -> Result<()> {
    let work = work_directory(host);
    command::run(Command::new("rm").arg("-rf").arg(&work))?;
    fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    let mut world = World::new(&work, host, controller)?;
    world.install()?;
    world.agent_survives_what_ends_it()?;
    if host.agent_starts_slowly {
        world.reboot_is_never_open("slow start", SLOW_START)?;
        world.host.shell.succeed(
            "rm -r /etc/systemd/system/bulkhead-agent.service.d && systemctl daemon-reload",
        )?;
    } else {
        world.reboot_is_never_open("reboot", "true")?;
    }
    world.troubleshoot()?;
    world.upgrade()?;
    world.remove()?;
    world.end(&work)
}

impl World {
    fn new(work: &Path, host: &Suite, controller: &Suite) -> Result<Self> {
        let read = |page: &str| {
            let mut blocks = page::read(&root().join(page))?;
            blocks.retain(|block| block.system != "elsewhere");
            anyhow::Ok(VecDeque::from(blocks))
        };
        let blocks = read("docs/install-systemd.md")?;
        let troubleshooting = read("docs/troubleshooting.md")?;
        let (host_base, controller_base) = (Base::of(host)?, Base::of(controller)?);
        let network = Network::new(work, &format!("{OPERATOR}{PREFIX_LENGTH}"))?;
        let home = work.join("home");
        let operator_key =
            operator_home(&home, &[(HOST, &host_base), (CONTROLLER, &controller_base)])?;
        let start = |base: &Base, name, address: &str, separate_var| {
            let settings = Settings {
                name,
                address: &format!("{address}{PREFIX_LENGTH}"),
                operator_key: &operator_key,
                separate_var,
            };
            Machine::start(base, &network, work, &settings)
        };
        let mut controller = start(&controller_base, "controller", CONTROLLER, false)?;
        let mut host = start(&host_base, "web-1", HOST, true)?;
        let checkout = checkout(work)?;
        let programs = work.join("programs");
        fs::create_dir_all(&programs).context("making the operator's /usr/local/bin")?;
        let (operator_process, operator) = network.operator(&home, &programs, &checkout)?;
        controller.wait_for_boot()?;
        host.wait_for_boot()?;
        let mut world = Self {
            blocks,
            troubleshooting,
            operator,
            operator_process,
            controller,
            host,
            network,
        };
        for address in [CONTROLLER, HOST] {
            world
                .operator
                .until(&format!("ssh root@{address} true"), LONG)?;
        }
        Ok(world)
    }

    /// Types the blocks below a heading, in their order.
    fn type_section(&mut self, heading: &str) -> Result<()> {
        let mut blocks = 0;
        while self
            .blocks
            .front()
            .is_some_and(|block| block.heading == heading)
        {
            self.type_block(heading)?;
            blocks += 1;
        }
        ensure!(
            blocks > 0,
            "the page has no commands below `{heading}` at this place: next are those below {:?}",
            self.blocks.front().map(|block| &block.heading)
        );
        Ok(())
    }

    /// Types the next block, and compares what it prints where the page shows it. What the last command printed.
    fn type_block(&mut self, heading: &str) -> Result<String> {
        let block = self.blocks.pop_front().context("the page has ended")?;
        ensure!(
            block.heading == heading,
            "the page has no commands below `{heading}` at this place: next are those below `{}`",
            block.heading
        );
        self.type_commands(block)
    }

    fn type_commands(&mut self, block: Block) -> Result<String> {
        let Block {
            heading,
            system,
            commands,
        } = block;
        let mut last = String::new();
        for step in commands {
            let shell = match system.as_str() {
                "operator" => &mut self.operator,
                "controller" => &mut self.controller.shell,
                "host" => &mut self.host.shell,
                other => bail!("below `{heading}`: nobody types commands of {other:?}"),
            };
            let Done { printed, code } = shell.run(&step.command)?;
            ensure!(
                code == 0,
                "below `{heading}`, on {system}: `{}` ended with {code}, having printed:\n{printed}",
                step.command
            );
            if let Some(shown) = &step.prints {
                let lines: Vec<&str> = printed.lines().collect();
                ensure!(
                    page::is_shown(shown, &lines),
                    "the page says that `{}` prints:\n{}\nand it printed:\n{printed}",
                    step.command,
                    shown.join("\n")
                );
            }
            last = printed;
        }
        Ok(last)
    }

    fn install(&mut self) -> Result<()> {
        self.type_section("The controller")?;
        self.type_section("Each host")?;
        self.is_active("bulkhead-agent")?;
        // A person takes this long to read the page; the machines are slower than those of the page.
        self.wait_until_in_sync()?;
        let heading = "A first policy";
        self.type_block(heading)?;
        self.wait_until_in_sync()?;
        self.type_block(heading)?;
        let listens = "ss --listening --tcp --numeric | grep --quiet ':8081 '";
        self.host.shell.until(listens, LONG)?;
        self.type_section(heading)?;
        let denials = self.operator.succeed("bulkhead denials --since 5m")?;
        ensure!(
            denials.contains("web/ingress") && denials.contains("policies/web.yaml:"),
            "no denial names the rule:\n{denials}"
        );
        for (shell, unit) in [
            (&mut self.host.shell, "bulkhead-agent"),
            (&mut self.controller.shell, "bulkhead-controller"),
        ] {
            shell.succeed(&format!(
                "systemd-analyze security --threshold=25 --no-pager {unit}"
            ))?;
        }
        Ok(())
    }

    /// Whatever ends the agent, systemd starts it again, and what policy denies stays denied meanwhile.
    fn agent_survives_what_ends_it(&mut self) -> Result<()> {
        let probes = Probes::start(&self.network, "restarts")?;
        for (number, signal) in (1..).zip(["KILL", "STOP"]) {
            let shell = &mut self.host.shell;
            // One that is stopped misses its watchdog.
            shell.succeed(&format!(
                "systemctl kill --kill-whom=main --signal={signal} bulkhead-agent"
            ))?;
            shell.until(
                &format!(
                    "test \"$(systemctl show --property=NRestarts --value bulkhead-agent)\" = {number}"
                ),
                LONG,
            )?;
            self.is_active("bulkhead-agent")?;
        }
        for verb in ["reload", "stop", "start", "restart"] {
            self.host
                .shell
                .succeed(&format!("systemctl {verb} bulkhead-agent"))?;
        }
        let shell = &mut self.controller.shell;
        shell.succeed("systemctl kill --kill-whom=main --signal=KILL bulkhead-controller")?;
        shell.until(
            "test \"$(systemctl show --property=NRestarts --value bulkhead-controller)\" = 1",
            LONG,
        )?;
        for verb in ["reload", "stop", "start", "restart"] {
            shell.succeed(&format!("systemctl {verb} bulkhead-controller"))?;
        }
        probes.stop("while the agent was killed, hung, stopped, started and restarted")
    }

    /// Boots the host again while packets are sent to it and it sends some: none passes that policy denies, and those
    /// pass that it allows. `prepare` is typed before.
    fn reboot_is_never_open(&mut self, name: &str, prepare: &str) -> Result<()> {
        self.host.shell.succeed(prepare)?;
        self.host.shell.succeed(BEACON)?;
        let probes = Probes::start(&self.network, name)?;
        self.host.reboot()?;
        self.operator
            .until(&format!("ssh root@{HOST} true"), LONG)?;
        self.is_active("bulkhead-agent")?;
        self.is_active("network-pre.target")?;
        let [agent, network] = ["bulkhead-agent", "network-pre.target"].map(|unit| {
            let time = self.host.shell.succeed(&format!(
                "systemctl show --property=ActiveEnterTimestampMonotonic --value {unit}"
            ))?;
            time.trim()
                .parse::<u64>()
                .with_context(|| format!("reading when {unit} was ready: {time:?}"))
        });
        let (agent, network) = (agent?, network?);
        ensure!(
            0 < agent && agent < network,
            "{name}: the agent was ready at {agent} us and network-pre.target at {network} us"
        );
        // Time for packets of both kinds on the network that is now up.
        self.operator.succeed("sleep 3")?;
        probes.stop(name)?;
        let cycles = self
            .host
            .shell
            .succeed("journalctl --boot --no-pager --grep 'ordering cycle' --quiet || true")?;
        ensure!(cycles.is_empty(), "{name}: {cycles}");
        self.host.shell.succeed(
            "systemctl disable --now beacon && rm /etc/systemd/system/beacon.service && systemctl daemon-reload",
        )?;
        Ok(())
    }

    /// The page about troubleshooting ends with the way out.
    fn troubleshoot(&mut self) -> Result<()> {
        for block in std::mem::take(&mut self.troubleshooting) {
            self.type_commands(block)?;
        }
        self.operator.succeed(&format!("ping -c 1 -W 5 {HOST}"))?;
        self.host.shell.succeed("systemctl start bulkhead-agent")?;
        self.is_active("bulkhead-agent")
    }

    fn upgrade(&mut self) -> Result<()> {
        let probes = Probes::start(&self.network, "upgrade")?;
        self.type_section("Upgrading")?;
        self.is_active("bulkhead-agent")?;
        self.wait_until_in_sync()?;
        probes.stop("upgrade")
    }

    fn remove(&mut self) -> Result<()> {
        let heading = "Ending enforcement, removing";
        self.type_block(heading)?;
        // Nothing is denied any more.
        self.operator.succeed(&format!("ping -c 1 -W 5 {HOST}"))?;
        self.type_section(heading)?;
        for (shell, left) in [
            (&mut self.host.shell, "bulkhead"),
            (&mut self.controller.shell, "bulkhead"),
        ] {
            // The journal's lines stay, as those of any unit.
            let found = shell.succeed(&format!(
                "find / -xdev -iname '*{left}*' -not -path '/var/log/*'; \
                 find /sys/fs/bpf /var /run -iname '*{left}*' -not -path '/var/log/*'; \
                 systemctl list-units --all --no-legend --plain '*{left}*'; getent passwd {left} || true"
            ))?;
            ensure!(found.is_empty(), "removing has left:\n{found}");
        }
        let programs = self
            .host
            .shell
            .succeed("tc filter show dev eth0 ingress; tc filter show dev eth0 egress")?;
        ensure!(
            programs.is_empty(),
            "programs are still attached: {programs}"
        );
        Ok(())
    }

    fn end(mut self, work: &Path) -> Result<()> {
        if let Some(block) = self.blocks.front() {
            bail!(
                "the commands below `{}` for {} are not part of the scenario",
                block.heading,
                block.system
            );
        }
        end(&mut self.operator_process);
        drop(self);
        command::run(
            Command::new("sh")
                .args(["-c", "rm -- *.disk"])
                .current_dir(work),
        )
    }

    /// The controller says that the host enforces what it was sent last.
    fn wait_until_in_sync(&mut self) -> Result<()> {
        let in_sync =
            "bulkhead hosts -o json | grep '\"name\":\"web-1\"' | grep '\"in_sync\":true'";
        self.operator.until(in_sync, LONG).map(drop)
    }

    fn is_active(&mut self, unit: &str) -> Result<()> {
        self.host
            .shell
            .until(&format!("systemctl is-active {unit}"), LONG)
            .map(drop)
    }
}

/// Longer than systemd waited for the agent by an earlier unit.
const SLOW_START: &str = "mkdir -p /etc/systemd/system/bulkhead-agent.service.d && \
     printf '[Service]\\nExecStartPre=/bin/sleep 45\\n' > /etc/systemd/system/bulkhead-agent.service.d/slow.conf";

/// A unit of the test's own on the host, which sends from early in the boot on what policy allows, and what it does not.
const BEACON: &str = "cat > /etc/systemd/system/beacon.service <<'END'
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/bash -c 'while :; do echo allowed >/dev/udp/10.0.9.5/514; echo denied >/dev/udp/10.0.9.5/9999; sleep 0.2; done'
[Install]
WantedBy=sysinit.target
END
systemctl daemon-reload && systemctl enable --now beacon";

/// Packets from outside without a pause, and who reads what comes out.
struct Probes {
    /// With how many answers policy means there to be.
    senders: [(&'static str, Prober, bool); 3],
    readers: Option<[(&'static str, Prober, bool); 2]>,
}

impl Probes {
    fn start(network: &Network, name: &str) -> Result<Self> {
        let name = name.replace(' ', "-");
        let sender = |what: &'static str, line: &str, may: bool| {
            let prober = network.start(&format!("{name}-{what}"), &format!("{line} {HOST}"))?;
            anyhow::Ok((what, prober, may))
        };
        let reader = |what: &'static str, port: u16, may: bool| {
            let prober = network.start(&format!("{name}-{what}"), &format!("nc -nluk {port}"))?;
            anyhow::Ok((what, prober, may))
        };
        Ok(Self {
            senders: [
                sender("tcp-8080", "hping3 -q -n -S -p 8080 -i u200000", true)?,
                sender("tcp-8081", "hping3 -q -n -S -p 8081 -i u200000", false)?,
                sender("ping", "ping -n -q -i 0.2", false)?,
            ],
            readers: match name.as_str() {
                "reboot" | "slow-start" => Some([
                    reader("udp-514", 514, true)?,
                    reader("udp-9999", 9999, false)?,
                ]),
                _ => None,
            },
        })
    }

    fn stop(self, when: &str) -> Result<()> {
        for (what, prober, may) in self.senders {
            let printed = prober.stop()?;
            let answers = received(&printed)
                .with_context(|| format!("reading what the prober of {what} says:\n{printed}"))?;
            ensure!(
                (answers > 0) == may,
                "{when}: {what} had {answers} answers:\n{printed}"
            );
        }
        for (what, prober, may) in self.readers.into_iter().flatten() {
            let came = prober.stop()?;
            let lines = came.lines().count();
            ensure!(
                (lines > 0) == may,
                "{when}: {lines} packets to {what} came out of the host"
            );
        }
        Ok(())
    }
}

/// `N packets received` or `N received`, as hping3 and ping say at their end.
fn received(printed: &str) -> Option<u64> {
    printed
        .split([',', '\n'])
        .find(|part| part.trim_end().ends_with("received"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The operator's home directory, with an SSH key, and the keys of the machines; the public key.
fn operator_home(home: &Path, machines: &[(&str, &Base)]) -> Result<String> {
    let ssh = home.join(".ssh");
    fs::create_dir_all(&ssh).with_context(|| format!("making {}", ssh.display()))?;
    let known = machines
        .iter()
        .map(|(address, base)| Ok(format!("{address} {}\n", base.ssh_host_key()?)))
        .collect::<Result<String>>()?;
    fs::write(ssh.join("known_hosts"), known).context("writing known_hosts")?;
    // Without a terminal ssh would ask nobody.
    fs::write(ssh.join("config"), "BatchMode yes\n").context("writing the SSH configuration")?;
    let key = ssh.join("id_ed25519");
    command::run(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f"])
            .arg(&key),
    )?;
    fs::read_to_string(key.with_extension("pub"))
        .context("reading the operator's public key")
        .map(|key| key.trim().to_owned())
}

/// What a checkout has after `cargo xtask build --release`. These programs are not optimised, and stripped.
fn checkout(work: &Path) -> Result<PathBuf> {
    let checkout = work.join("checkout");
    let programs = checkout.join("target/release");
    fs::create_dir_all(&programs).with_context(|| format!("making {}", programs.display()))?;
    command::run(
        Command::new("cp")
            .arg("-r")
            .arg(root().join("deploy"))
            .arg(&checkout),
    )?;
    let built = std::env::current_exe().context("finding target/debug")?;
    for name in ["bulkhead", "bulkhead-agent", "bulkhead-controller"] {
        let program = built.with_file_name(name);
        command::run(
            Command::new("strip")
                .arg("-o")
                .arg(programs.join(name))
                .arg(&program),
        )?;
    }
    Ok(checkout)
}
