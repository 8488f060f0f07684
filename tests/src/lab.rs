//! A lab: everything together, from boot to clean-up.

mod operate;
mod traffic;

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount};
use tempfile::TempDir;

use crate::{
    agent::Agent,
    controller::Controller,
    namespace::Namespace,
    network::{ADMIN, CLIENT, CONTROLLER, Family, Network, Place, Vlan},
    operator::Operator,
    programs::Programs,
    servers::Servers,
    sweep,
    wait::{LONG, wait_until},
};

/// A host with an agent.
#[derive(Clone, Copy, Debug)]
pub struct HostSpec {
    /// Its name and where it stands.
    pub place: Place,
    /// The labels that its enrolment token assigns.
    pub labels: &'static [(&'static str, &'static str)],
}

impl HostSpec {
    /// `web-1`, 10.66.1.10.
    pub const WEB: Self = Self {
        place: Place {
            name: "web-1",
            subnet: 1,
            number: 10,
        },
        labels: &[("tier", "web"), ("env", "prod")],
    };
    /// `app-1`, 10.66.2.10.
    pub const APP: Self = Self {
        place: Place {
            name: "app-1",
            subnet: 2,
            number: 10,
        },
        labels: &[("tier", "app"), ("env", "prod")],
    };
    /// `db-1`, 10.66.3.10.
    pub const DB: Self = Self {
        place: Place {
            name: "db-1",
            subnet: 3,
            number: 10,
        },
        labels: &[("tier", "db"), ("env", "prod")],
    };
}

/// What a lab is to consist of; the controller and the hosts without agents are always there.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The hosts with agents.
    pub hosts: &'a [HostSpec],
    /// What the names of namespaces begin with; none: something unique to this lab.
    pub prefix: Option<&'a str>,
}

/// A running lab. Dropping it ends its processes and removes what it made.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: users of a thing before the thing.
    servers: BTreeMap<&'static str, Servers>,
    agents: BTreeMap<&'static str, Agent>,
    controller: Controller,
    operator: Operator,
    _bpffs: Vec<Bpffs>,
    network: Network,
    places: Vec<Place>,
    directory: TempDir,
    policies: u32,
    failed: bool,
}

/// A mounted bpffs.
#[derive(Debug)]
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        mount("bpf", &path, "bpf", MountFlags::empty(), None)
            .with_context(|| format!("mounting a bpffs at {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        sweep::unmount_bpffs(&self.0);
    }
}

impl Lab {
    /// Makes the network and starts the controller; no agent runs yet.
    ///
    /// # Errors
    /// Without root, without the project's programs, or when a part does not come up.
    pub fn new(plan: Plan<'_>) -> Result<Self> {
        static SWEEP: Once = Once::new();
        static LABS: AtomicU32 = AtomicU32::new(1);
        ensure!(
            rustix::process::geteuid().is_root(),
            "the lab makes network namespaces and loads eBPF programs: run this as root"
        );
        let programs = Programs::find()?;
        let mut swept = Ok(());
        SWEEP.call_once(|| swept = sweep::sweep());
        swept?;

        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let unique = format!("bh{}x{number}-", process::id());
        let prefix = plan.prefix.unwrap_or(&unique);
        let directory = tempfile::Builder::new()
            .prefix(sweep::DIRECTORY)
            .tempdir()
            .context("making the lab's directory")?;
        sweep::claim(directory.path(), prefix)?;

        let mut places = vec![CONTROLLER, CLIENT, ADMIN];
        // A host with an agent may be the controller's.
        for HostSpec { place, .. } in plan.hosts {
            if !places.contains(place) {
                places.push(*place);
            }
        }
        let network = Network::new(prefix, &places)?;
        let mut bpffs = Vec::new();
        let mut agents = BTreeMap::new();
        for HostSpec { place, .. } in plan.hosts {
            let home = directory.path().join(place.name);
            bpffs.push(Bpffs::mount(home.join("bpf"))?);
            let namespace = network.host(place.name)?;
            let agent = Agent::new(&programs.agent, namespace, &home, place.name)?;
            agents.insert(place.name, agent);
        }
        let namespace = network.host(CONTROLLER.name)?;
        let home = directory.path().join(CONTROLLER.name);
        fs::create_dir_all(&home).context("making the controller's directory")?;
        let controller = Controller::new(&programs, namespace, &home)?;
        let operator = Operator::new(&programs.cli, namespace, &controller.operator_file());
        Ok(Self {
            servers: BTreeMap::new(),
            agents,
            controller,
            operator,
            _bpffs: bpffs,
            network,
            places,
            directory,
            policies: 0,
            failed: false,
        })
    }

    /// Boots a lab with these hosts, all enrolled and connected, and runs a scenario in it. If the
    /// scenario fails, prints the ends of all logs.
    ///
    /// # Errors
    /// When the lab does not boot, or what the scenario returns.
    pub fn run(hosts: &[HostSpec], scenario: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        Self::run_bare(hosts, |lab| {
            lab.enrol(hosts)?;
            scenario(lab)
        })
    }

    /// As [`Lab::run`], but no host is enrolled and no agent runs.
    ///
    /// # Errors
    /// As [`Lab::run`].
    pub fn run_bare(
        hosts: &[HostSpec],
        scenario: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let mut lab = Self::new(Plan {
            hosts,
            prefix: None,
        })?;
        let result = scenario(&mut lab);
        lab.failed = result.is_err();
        result
    }

    /// Enrols hosts, each with a one-time token of its own, and waits until they are connected.
    ///
    /// # Errors
    /// When one does not connect.
    pub fn enrol(&mut self, hosts: &[HostSpec]) -> Result<()> {
        for host in hosts {
            let token = self.create_token(host)?;
            let agent = self.agent(host.place.name)?;
            agent.give_token(&token)?;
            agent.daemon().start()?;
        }
        for HostSpec { place, .. } in hosts {
            self.wait_connected(place.name)?;
        }
        Ok(())
    }

    /// Waits until a host is connected, enforces what was compiled for it, and counts under both
    /// of its addresses.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn wait_connected(&mut self, name: &str) -> Result<()> {
        let addresses = [
            self.address(name, Family::V4)?,
            self.address(name, Family::V6)?,
        ];
        wait_until(&format!("{name} to be connected and in sync"), LONG, || {
            let agent = self.agent(name)?.daemon();
            ensure!(agent.is_running()?, "the agent ended:\n{}", agent.tail());
            Ok(self.host_status(name)?.is_some_and(|host| {
                host.connected
                    && host.in_sync
                    && addresses
                        .iter()
                        .all(|address| host.addresses.contains(address))
            }))
        })
    }

    /// Makes the way to a host narrow, behind the first router: what is larger than these bytes does not fit.
    ///
    /// # Errors
    /// When there is no such host, or the router refuses.
    pub fn narrow(&self, host: &str, bytes: u16) -> Result<()> {
        let place = self.places.iter().find(|place| place.name == host);
        let place = place.with_context(|| format!("this lab has no host {host}"))?;
        self.network.narrow(place, bytes)
    }

    /// Makes a VLAN between a host and the router.
    ///
    /// # Errors
    /// When there is no such host, or the kernel refuses.
    pub fn add_vlan(&self, host: &str, vlan: Vlan) -> Result<()> {
        let place = self.places.iter().find(|place| place.name == host);
        let place = place.with_context(|| format!("this lab has no host {host}"))?;
        self.network.add_vlan(place, vlan)
    }

    /// Removes a VLAN, at both ends.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_vlan(&self, host: &str, vlan: Vlan) -> Result<()> {
        self.network.remove_vlan(host, vlan)
    }

    /// Whether this kernel has VLANs.
    ///
    /// # Errors
    /// When it has, and makes none.
    pub fn kernel_has_vlans(&self) -> Result<bool> {
        self.network.kernel_has_vlans()
    }

    /// The router's namespace.
    #[must_use]
    pub fn router(&self) -> &Namespace {
        self.network.router()
    }

    /// The router as a host sees it.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn gateway(&self, host: &str, family: Family) -> Result<IpAddr> {
        let place = self.places.iter().find(|place| place.name == host);
        Ok(place
            .with_context(|| format!("this lab has no host {host}"))?
            .gateway(family))
    }

    /// A host's namespace.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn namespace(&self, host: &str) -> Result<&Namespace> {
        self.network.host(host)
    }

    /// A host's address.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn address(&self, host: &str, family: Family) -> Result<IpAddr> {
        let place = self.places.iter().find(|place| place.name == host);
        Ok(place
            .with_context(|| format!("this lab has no host {host}"))?
            .address(family))
    }

    /// Removes a host's interface.
    ///
    /// # Errors
    /// When there is no such host, or it has none.
    pub fn unplug_for_good(&self, host: &str) -> Result<()> {
        self.network.remove_cable(host)
    }

    /// Gives a host an interface again, with the addresses and routes of the one before.
    ///
    /// # Errors
    /// When there is no such host, or it has one.
    pub fn plug_in_anew(&self, host: &str) -> Result<()> {
        let place = self.places.iter().find(|place| place.name == host);
        let place = place.with_context(|| format!("this lab has no host {host}"))?;
        self.network.replace_cable(place)
    }

    /// A host's agent.
    ///
    /// # Errors
    /// When there is none.
    pub fn agent(&mut self, host: &str) -> Result<&mut Agent> {
        self.agents
            .get_mut(host)
            .with_context(|| format!("{host} has no agent"))
    }

    /// Marks the scenario as failed: the ends of all logs are printed when the lab is dropped.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// The controller.
    pub fn controller(&mut self) -> &mut Controller {
        &mut self.controller
    }

    /// The operator `admin`.
    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// The lab's own directory, removed with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.failed || thread::panicking() {
            eprintln!("{}", self.controller.tail());
            for agent in self.agents.values_mut() {
                eprintln!("{}", agent.daemon().tail());
            }
        }
    }
}
