//! The tour, scene by scene.

mod scenes;

use std::{env, path::Path, thread};

use anyhow::{Context, Result, anyhow};
use lab::{Expected, HostSpec, Lab, Plan};

use crate::{
    interrupt::{Interrupt, Interrupted},
    screen::{Screen, tried},
};

/// What the names of the demo's namespaces begin with.
const PREFIX: &str = "bulkhead-";

const HOSTS: [HostSpec; 3] = [HostSpec::WEB, HostSpec::APP, HostSpec::DB];

/// Runs the tour, and says whether everything was as expected. Then stays up, unless it is to run
/// once.
pub fn run(once: bool) -> Result<bool> {
    let interrupt = Interrupt::listen()?;
    let mut screen = Screen::new(interrupt.clone());
    let mut tour = Tour {
        lab: begin(&mut screen)?,
        screen,
    };
    if let Err(error) = tour.show() {
        if !error.is::<Interrupted>() {
            tour.lab.fail();
        }
        return Err(error);
    }
    let tally = tour.screen.tally();
    tour.screen.heading(&tally.to_string());
    if !once {
        tour.invite()?;
        interrupt.wait();
        tour.screen.line("cleaning up");
    }
    Ok(tally.is_good())
}

/// The lab, without agents.
fn begin(screen: &mut Screen) -> Result<Lab> {
    screen.heading("A router and three hosts, in network namespaces");
    screen.step("network", || {
        let lab = Lab::new(Plan {
            hosts: &HOSTS,
            prefix: Some(PREFIX),
        })?;
        Ok((
            lab,
            "a subnet for each of web-1, app-1, db-1; admin-1 and client-1 have no agent"
                .to_owned(),
        ))
    })
}

struct Tour {
    lab: Lab,
    screen: Screen,
}

impl Tour {
    fn show(&mut self) -> Result<()> {
        self.enrol()?;
        self.apply_policy()?;
        self.try_everything()?;
        self.list_denials()?;
        self.revoke()?;
        self.quarantine()
    }

    /// Runs the operator's tool, and shows the command and its answer.
    fn operate(&mut self, arguments: &[&str]) -> Result<()> {
        self.screen
            .command(&format!("bulkhead {}", in_words(arguments)));
        let answer = self.lab.operator().run(arguments)?.fine()?;
        for line in answer.stdout.lines() {
            self.screen.aside(line);
        }
        Ok(())
    }

    /// Tries all these flows at once, a row for each.
    fn rows(&mut self, all: &[Expected]) -> Result<()> {
        let Self { lab, screen } = self;
        let lab = &*lab;
        thread::scope(|scope| {
            let attempts: Vec<_> = all
                .iter()
                .flat_map(|expected| expected.flows.map(|flow| (flow, expected)))
                .map(|(flow, expected)| {
                    (
                        flow,
                        expected,
                        scope.spawn(move || lab.attempt(flow, expected.patience())),
                    )
                })
                .collect();
            for (flow, expected, attempt) in attempts {
                let tried = tried(flow.to, flow.service, flow.family);
                screen.row([flow.from, &tried, &expected.outcome.to_string()], || {
                    let outcome = attempt
                        .join()
                        .map_err(|_| anyhow!("an attempt panicked"))??;
                    Ok(outcome.to_string())
                })?;
            }
            Ok(())
        })
    }

    /// What to try in another terminal.
    fn invite(&mut self) -> Result<()> {
        let programs = env::current_exe().context("finding the running executable")?;
        let programs = programs.parent().unwrap_or(Path::new(".")).display();
        let file = self.lab.controller().operator_file();
        let screen = &self.screen;
        screen.heading("It stays up. Try, as root in another terminal");
        screen.command(&format!("export BULKHEAD_OPERATOR={}", file.display()));
        screen.command(&format!(
            "alias bulkhead='ip netns exec {PREFIX}controller {programs}/bulkhead'"
        ));
        for command in [
            "bulkhead hosts",
            "bulkhead denials --follow",
            "bulkhead quarantine db-1 --reason \"let us see\"",
            "bulkhead release db-1",
        ] {
            screen.command(command);
        }
        for command in [
            "web-1 ping -c 1 fd66:3::10           # denied",
            "web-1 nc -zvw 2 10.66.3.10 5432      # denied",
            "app-1 nc -zvw 2 10.66.3.10 5432      # allowed",
        ] {
            screen.command(&format!("ip netns exec {PREFIX}{command}"));
        }
        screen.line("Ctrl-C ends it and removes everything.");
        Ok(())
    }
}

/// A command line as a person would type it.
fn in_words(arguments: &[&str]) -> String {
    let quoted = |argument: &&str| {
        if argument.contains(' ') {
            format!("\"{argument}\"")
        } else {
            (*argument).to_owned()
        }
    };
    arguments.iter().map(quoted).collect::<Vec<_>>().join(" ")
}
