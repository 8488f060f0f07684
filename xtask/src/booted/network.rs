//! The machines' network: a bridge in a network namespace of the test's own, which is the operator's machine too.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::shell::Shell;
use crate::command;

/// Network and mount namespaces that last as long as this value, and everything in them with it.
pub struct Network {
    holder: Child,
    work: PathBuf,
}

/// A program that sends packets until it is told to stop.
pub struct Prober {
    child: Child,
    output: PathBuf,
}

impl Network {
    /// Makes the namespaces and the bridge; `address` (with its prefix length) is the operator's.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or this is not root.
    pub fn new(work: &Path, address: &str) -> Result<Self> {
        let mut command = outliving_nothing("unshare");
        command.args(["--net", "--mount", "sh", "-c", "echo; exec sleep infinity"]);
        let mut holder = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{}`", command::line(&command)))?;
        // It prints a line once it is in its namespaces.
        let mut ready = holder.stdout.take().context("no output of unshare")?;
        std::io::Read::read_exact(&mut ready, &mut [0])
            .context("making a network namespace: is this root?")?;
        let network = Self {
            holder,
            work: work.to_owned(),
        };
        network.run(&[
            "ip link set lo up",
            "ip link add br0 type bridge",
            "ip link set br0 up",
            &format!("ip address add {address} dev br0"),
        ])?;
        Ok(network)
    }

    /// Adds a port for a machine: a tap device of that name.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn add_port(&self, name: &str) -> Result<()> {
        self.run(&[
            &format!("ip tuntap add {name} mode tap"),
            &format!("ip link set {name} master br0 up"),
        ])
    }

    /// A command that runs in the namespaces, and ends when its parent does.
    pub fn command(&self, program: &str) -> Command {
        let mut command = outliving_nothing("nsenter");
        command
            .arg(format!("--target={}", self.holder.id()))
            .args(["--net", "--mount", program]);
        command
    }

    /// The operator's shell. `home` is the operator's, `programs` is its /usr/local/bin, and it begins in `checkout`.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn operator(
        &self,
        home: &Path,
        programs: &Path,
        checkout: &Path,
    ) -> Result<(Child, Shell)> {
        let mut command = self.command("bash");
        command
            .arg("--norc")
            .env_clear()
            .env("HOME", "/root")
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir(checkout)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command
            .spawn()
            .with_context(|| format!("starting `{}`", command::line(&command)))?;
        let input = child.stdin.take().context("no input of bash")?;
        let output = child.stdout.take().context("no output of bash")?;
        let log = self.work.join("operator.log");
        let mut shell = Shell::new("the operator's machine", input, output, &log)?;
        // nsenter has put it into the root directory of the mount namespace.
        for typed in [
            format!("cd '{}'", checkout.display()),
            format!(
                "mount --bind '{}' /root && mount --bind '{}' /usr/local/bin",
                home.display(),
                programs.display()
            ),
        ] {
            shell.succeed(&typed)?;
        }
        Ok((child, shell))
    }

    /// Starts a program that sends packets or reads them, with what it prints in a file.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(&self, name: &str, line: &str) -> Result<Prober> {
        let output = self.work.join(format!("{name}.log"));
        let file = File::create(&output).with_context(|| format!("making {}", output.display()))?;
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap_or_default());
        command
            .args(words)
            .stdin(Stdio::null())
            .stderr(file.try_clone().context("sharing the log")?)
            .stdout(file);
        let child = command
            .spawn()
            .with_context(|| format!("starting `{}`", command::line(&command)))?;
        Ok(Prober { child, output })
    }

    fn run(&self, lines: &[&str]) -> Result<()> {
        lines.iter().try_for_each(|line| {
            let mut words = line.split(' ');
            command::run(self.command(words.next().unwrap_or_default()).args(words))
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The namespaces end with the last process in them.
        end(&mut self.holder);
    }
}

impl Prober {
    /// Ends it; what it has printed.
    ///
    /// # Errors
    ///
    /// It has ended before by itself, or cannot be ended.
    pub fn stop(mut self) -> Result<String> {
        if let Some(status) = self.child.try_wait().context("looking after a prober")? {
            let printed = fs::read_to_string(&self.output).unwrap_or_default();
            bail!("a prober has ended by itself: {status}\n{printed}");
        }
        // At the first, programs that send print their totals. One that has no use for it may have been started with it
        // ignored, as whatever a shell starts in the background.
        for signal in ["-INT", "-TERM"] {
            // It may have ended at the first.
            if self
                .child
                .try_wait()
                .context("looking after a prober")?
                .is_none()
            {
                command::run(Command::new("kill").args([signal, &self.child.id().to_string()]))?;
                thread::sleep(Duration::from_secs(1));
            }
        }
        self.child.wait().context("waiting for a prober")?;
        fs::read_to_string(&self.output)
            .with_context(|| format!("reading {}", self.output.display()))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Kills a child and waits for it; one that has ended is left alone.
pub fn end(child: &mut Child) {
    // Both fail only when it has ended.
    let _ = child.kill();
    let _ = child.wait();
}

/// A program that the kernel ends with this one, however this one ends.
fn outliving_nothing(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}
