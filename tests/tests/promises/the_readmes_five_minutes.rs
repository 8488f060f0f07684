//! The README's five minutes, typed as they stand there: they end with a connection that passes and one
//! that is denied, and whoever typed them can still log in.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::symlink, process::CommandExt as _},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use lab::{Family, HostSpec, LONG, Lab, Namespace, Operator, Programs, Service};
use rustix::process::{Pid, Signal, kill_process_group};

/// The controller's machine of the page. The lab's own controller has another.
const CONTROLLER: &str = "admin-1";
const HOST: &str = "web-1";

/// A shell as root on one machine: its `/var/lib` and its BPF file system are its own. Dropping it ends
/// whatever was started in it.
struct Machine {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Machine {
    fn start(namespace: &Namespace, directory: &Path, path: &Path) -> Result<Self> {
        let mut child = namespace
            .command("bash")
            .current_dir(directory)
            .env_remove("SSH_CONNECTION")
            .env_remove("BULKHEAD_OPERATOR")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("starting a shell")?;
        let input = child.stdin.take().context("a shell without input")?;
        let output = child.stdout.take().context("a shell without output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut machine = Self {
            child,
            input,
            lines,
        };
        // `ip netns exec` has given it a mount namespace of its own.
        machine.run(&format!(
            "exec 2>&1; set -e; mount -t tmpfs tmpfs /var/lib; mount -t bpf bpf /sys/fs/bpf; set +e; \
             export PATH={}:$PATH",
            path.display()
        ))?;
        Ok(machine)
    }

    /// Types some lines, and gives what they print. The last one has to succeed.
    fn run(&mut self, text: &str) -> Result<String> {
        writeln!(self.input, "{text}\necho \"@@ended $?\"").context("typing")?;
        let mut printed = String::new();
        loop {
            let line = self
                .lines
                .recv_timeout(LONG)
                .with_context(|| format!("typed {text}\nprinted {printed}"))?;
            if let Some(code) = line.strip_prefix("@@ended ") {
                ensure!(code == "0", "exit code {code} of {text}\n{printed}");
                return Ok(printed);
            }
            printed.push_str(&line);
            printed.push('\n');
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The blocks of a section, each with the machine where it is typed.
fn blocks(page: &str, section: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = page
        .lines()
        .skip_while(|line| *line != section)
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    while let Some(line) = lines.next() {
        if let Some(machine) = line.strip_prefix("```sh ") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((machine.to_owned(), text.join("\n")));
        }
    }
    blocks
}

/// What `token create` says to type on the host, but for the unit, which is not installed.
fn commands_for_the_host(printed: &str) -> Result<String> {
    let token = printed
        .lines()
        .find(|line| line.starts_with("bulkhead1."))
        .context("no token was printed")?;
    let (_, rest) = printed
        .split_once("as root:\n")
        .context("nothing is said to be typed on the host")?;
    let commands = rest
        .lines()
        .take_while(|line| !line.starts_with("NOTE"))
        .map(str::trim_start)
        .filter(|line| !line.starts_with("systemctl "))
        .map(|line| match line.split_once("cat > ") {
            // The person at the keyboard pastes.
            Some((before, after)) if line.contains("paste the token") => {
                format!("{before}echo {token} > {after}")
            }
            _ => line.to_owned(),
        });
    Ok(commands.collect::<Vec<_>>().join("\n"))
}

#[test]
fn end_with_a_connection_that_passes_and_one_that_is_denied() -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB], |lab| {
        let page = fs::read_to_string(Path::new(Operator::DIRECTORY).join("README.md"))?;
        let blocks = blocks(&page, "## Five minutes with your own hosts");
        let programs = Programs::find()?;
        let binaries = programs.cli.parent().context("a program has a directory")?;

        let checkout = lab.directory().join("checkout");
        fs::create_dir_all(checkout.join("target"))?;
        symlink(binaries, checkout.join("target/release"))?;
        symlink(
            Path::new(Operator::DIRECTORY)
                .join("examples")
                .canonicalize()?,
            checkout.join("examples"),
        )?;
        let home = lab.directory().join("home");
        fs::create_dir_all(&home)?;
        let etc = lab.directory().join("etc-bulkhead").display().to_string();
        let addresses = [
            ("10.0.0.1", lab.address(CONTROLLER, Family::V4)?),
            ("10.0.0.2", lab.address(HOST, Family::V4)?),
        ];
        let here = |text: &str| {
            let text = text.replace("/etc/bulkhead", &etc);
            addresses.iter().fold(text, |text, (written, here)| {
                text.replace(written, &here.to_string())
            })
        };

        // The page finds the programs by its own lines at the controller, and in /usr/local/bin at the host.
        let nowhere = Path::new("/usr/bin");
        let mut controller = Machine::start(lab.namespace(CONTROLLER)?, &checkout, nowhere)?;
        let mut host = Machine::start(lab.namespace(HOST)?, &home, binaries)?;
        let mut printed = Vec::new();
        for (machine, text) in blocks {
            match machine.as_str() {
                "elsewhere" => {}
                "controller" => {
                    let said = controller.run(&here(&text))?;
                    if said.contains("as root:\n") {
                        host.run(&here(&commands_for_the_host(&said)?))?;
                    }
                    printed.push(said);
                }
                "web-1" => {
                    host.run(&here(&text))?;
                }
                other => bail!("the page has a block for `{other}`"),
            }
        }
        let [_, last] = printed.as_slice() else {
            bail!("{} blocks are for the controller", printed.len());
        };
        for expected in [
            "confirmed by 1 of 1 connected host: web-1\n",
            "\npasses\n",
            "\ndenied\n",
            "tcp/8081",
            "examples/first-policy/web.yaml:",
        ] {
            if !last.contains(expected) {
                let log = fs::read_to_string(home.join("agent.log"))?;
                bail!("no {expected:?} in\n{last}\nthe agent's log:\n{log}");
            }
        }
        ensure!(!last.contains("WARNING"), "{last}");
        ensure!(!last.contains("open, as no policy"), "{last}");

        // The failsafe that was printed lets the operator in.
        lab.serve(HOST, &[Service::Tcp(22)])?;
        controller.run(&here("nc -zw 20 10.0.0.2 22"))?;
        Ok(())
    })
}
