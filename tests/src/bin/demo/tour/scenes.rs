//! What the tour shows, in order.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use lab::{
    ADMIN, BusyConnection, CLIENT, Denial, Expected, Family, Flow, HostSpec, LONG, Operator,
    Outcome, Place, Service, allowed, denied, wait_until,
};

use super::{HOSTS, Tour, tried};

use Service::{Ping, Tcp, Udp};

/// The policy of the tour, from the root of the repository.
const POLICY: &str = "examples/three-tier";

/// What web-1 may ask of app-1, and the words that allow it.
const ORDERS: Service = Tcp(9000);
const ORDERS_PORT: u16 = 9000;
const ORDERS_RULE: &str = "orders-api, ";

/// What anybody may ask of web-1.
const STOREFRONT: Service = Tcp(8080);

/// Who may appear in a flow.
const PLACES: [Place; 5] = [
    CLIENT,
    ADMIN,
    HostSpec::WEB.place,
    HostSpec::APP.place,
    HostSpec::DB.place,
];

/// The flows of the tour, and what the policy makes of them.
fn flows() -> Vec<Expected> {
    vec![
        allowed("client-1", "web-1", STOREFRONT),
        allowed("web-1", "app-1", ORDERS),
        allowed("app-1", "db-1", Tcp(5432)),
        allowed("app-1", "db-1", Ping),
        allowed("admin-1", "db-1", Tcp(22)),
        denied("client-1", "web-1", Tcp(22)),
        denied("client-1", "app-1", ORDERS),
        denied("client-1", "db-1", Ping),
        denied("web-1", "app-1", Udp(9000)),
        denied("web-1", "db-1", Tcp(5432)),
        denied("web-1", "db-1", Ping),
        denied("db-1", "client-1", Udp(53)),
    ]
}

impl Tour {
    pub(super) fn enrol(&mut self) -> Result<()> {
        let Self { lab, screen } = self;
        screen.step("controller", || {
            lab.operator().run(&["status"])?.fine()?;
            Ok((
                (),
                "10.66.9.10:7443, with a CA of its own; its store is SQLite".to_owned(),
            ))
        })?;
        for host in HOSTS {
            screen.step(host.place.name, || {
                lab.enrol(&[host])?;
                Ok(((), introduction(&host)))
            })?;
        }
        Ok(())
    }

    pub(super) fn apply_policy(&mut self) -> Result<()> {
        self.screen.heading("A policy for the three tiers");
        self.operate(&["policy", "apply", POLICY])
    }

    pub(super) fn try_everything(&mut self) -> Result<()> {
        self.screen.heading("Real servers, real clients");
        let flows = flows();
        let servers: BTreeSet<&str> = flows.iter().map(|expected| expected.flows[0].to).collect();
        for host in servers {
            let asked = flows.iter().filter(|expected| expected.flows[0].to == host);
            let services: BTreeSet<Service> =
                asked.map(|expected| expected.flows[0].service).collect();
            self.lab
                .serve(host, &services.into_iter().collect::<Vec<_>>())?;
        }
        self.screen.table();
        self.rows(&flows)
    }

    /// Each denied flow of the table must be in the list, with a file and a line.
    pub(super) fn list_denials(&mut self) -> Result<()> {
        self.screen.heading("Every denial names its rule");
        self.told_of(&flows(), "is told of every denied flow", |denial| {
            denial.file.starts_with(POLICY) && denial.line > 0
        })?;
        self.operate(&["denials"])
    }

    /// A row: whether the operator's tool lists a denial like this for every denied flow.
    fn told_of(
        &mut self,
        tried: &[Expected],
        what: &str,
        like: impl Fn(&Denial) -> bool,
    ) -> Result<()> {
        let Self { lab, screen } = self;
        screen.row(["operator", what, "yes"], || {
            let mut missing: Vec<Flow> = tried
                .iter()
                .filter(|expected| expected.outcome == Outcome::Denied)
                .flat_map(|expected| expected.flows)
                .collect();
            let told = wait_until("every denial to be listed", LONG, || {
                let mut denials: Vec<Denial> =
                    lab.operator().list(&["denials", "--limit", "100000"])?;
                denials.retain(&like);
                missing.retain(|flow| !denials.iter().any(|denial| tells_of(denial, flow)));
                Ok(missing.is_empty())
            });
            Ok(match (told, missing.first()) {
                (Ok(()), _) => "yes".to_owned(),
                (Err(_), Some(flow)) => format!("{} are missing, such as {flow}", missing.len()),
                (Err(error), None) => return Err(error),
            })
        })
    }

    pub(super) fn revoke(&mut self) -> Result<()> {
        self.screen
            .heading("Revoked means cut: a live connection loses its rule");
        self.lab.stop_serving("app-1");
        let connection = self.lab.busy("web-1", "app-1", ORDERS_PORT, Family::V6)?;
        self.connection(&connection, "alive")?;
        let without = self.policy_without_app_rule()?;
        self.operate(&["policy", "apply", &without.display().to_string()])?;
        self.connection(&connection, "cut")?;
        self.show_revoked(connection.client().port())?;
        self.operate(&["policy", "apply", POLICY])?;
        self.connection(&connection, "alive")
    }

    /// The denial of the connection's packets, as soon as it is there.
    fn show_revoked(&mut self, port: u16) -> Result<()> {
        let operator = self.lab.operator();
        wait_until("the denial of what was revoked", LONG, || {
            let denials: Vec<Denial> = operator.list(&["denials", "--limit", "2"])?;
            let is_it = |denial: &Denial| {
                denial.reason == "revoked" && [denial.local_port, denial.peer_port].contains(&port)
            };
            Ok(denials.iter().any(is_it))
        })?;
        self.operate(&["denials", "--limit", "2"])
    }

    /// A row about an open connection.
    fn connection(&mut self, connection: &BusyConnection, expected: &str) -> Result<()> {
        let tried = tried("app-1", ORDERS, "IPv6, open");
        self.screen.row(["web-1", &tried, expected], || {
            let came_true = match expected {
                "cut" => connection.expect_silence(),
                _ => connection.expect_progress(),
            };
            Ok(if came_true.is_ok() {
                expected
            } else {
                "not so"
            }
            .to_owned())
        })
    }

    /// Copies the policy, less what lets web-1 talk to app-1. Gives the path.
    fn policy_without_app_rule(&self) -> Result<PathBuf> {
        let copy = self.lab.directory().join("three-tier");
        fs::create_dir_all(&copy).context("copying the policy")?;
        let mut removed = 0;
        for entry in fs::read_dir(Path::new(Operator::DIRECTORY).join(POLICY))
            .context("reading the policy")?
        {
            let path = entry?.path();
            let text =
                fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            removed += text.matches(ORDERS_RULE).count();
            fs::write(
                copy.join(path.file_name().unwrap_or_default()),
                text.replace(ORDERS_RULE, ""),
            )?;
        }
        ensure!(removed > 0, "no rule in {POLICY} says {ORDERS_RULE}");
        Ok(copy)
    }

    pub(super) fn quarantine(&mut self) -> Result<()> {
        self.screen
            .heading("Quarantine: nothing reaches web-1, and it reaches nothing");
        // What the policy allows, so what stops it is the quarantine.
        let with_web = |outcome: fn(&'static str, &'static str, Service) -> Expected| {
            vec![
                outcome("client-1", "web-1", STOREFRONT),
                outcome("admin-1", "web-1", Tcp(22)),
                outcome("admin-1", "web-1", Ping),
                outcome("web-1", "app-1", ORDERS),
                outcome("web-1", "app-1", Ping),
            ]
        };
        let mut cut = with_web(denied);
        // What it denies as well: quarantine outranks it, as the denials tell.
        cut.push(denied("app-1", "web-1", STOREFRONT));
        cut.push(denied("web-1", "app-1", Udp(ORDERS_PORT)));
        cut.push(denied("web-1", "client-1", Udp(53)));
        self.lab.serve("app-1", &[ORDERS, Udp(ORDERS_PORT)])?;
        self.operate(&["quarantine", "web-1", "--reason", "the tour"])?;
        self.rows(&cut)?;
        self.told_of(&cut, "is told: by quarantine", |denial| {
            denial.tier == "quarantine"
        })?;
        self.operate(&["release", "web-1"])?;
        self.rows(&with_web(allowed))
    }
}

/// Whether a denial, of whichever end, is this flow's.
fn tells_of(denial: &Denial, flow: &Flow) -> bool {
    let place = |name| PLACES.iter().find(|place| place.name == name);
    let (Some(from), Some(to)) = (place(flow.from), place(flow.to)) else {
        return false;
    };
    let (source, target) = match denial.direction.as_str() {
        "ingress" => (
            denial.peer_address,
            (denial.local_address, denial.local_port),
        ),
        _ => (
            denial.local_address,
            (denial.peer_address, denial.peer_port),
        ),
    };
    let asked = match flow.service {
        Tcp(port) => denial.protocol == "tcp" && target.1 == port,
        Udp(port) => denial.protocol == "udp" && target.1 == port,
        Service::Sctp(port) => denial.protocol == "sctp" && target.1 == port,
        Ping => denial.protocol.starts_with("icmp"),
    };
    asked && source == from.address(flow.family) && target.0 == to.address(flow.family)
}

fn introduction(host: &HostSpec) -> String {
    let labels: Vec<_> = host
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let [v4, v6] = Family::ALL.map(|family| host.place.address(family));
    format!(
        "{v4}, {v6}; enrolled with a one-time token as {}",
        labels.join(" ")
    )
}
