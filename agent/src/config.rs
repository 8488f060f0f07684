//! The agent's configuration file: TOML, strict, with defaults for all but the controllers.

mod flows;
mod values;

#[cfg(test)]
mod tests;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use self::values::WarmStart;
pub use self::{
    flows::{Behaviour, Events, Maps, Timeouts},
    values::{
        ControllerAddress, ControllerList, HookingChoice, InterfaceName, OtherEthertypes, Port,
        Seconds,
    },
};

/// Overrides `token_file`.
const TOKEN_FILE_VARIABLE: &str = "BULKHEAD_TOKEN_FILE";

/// Everything that an operator can set.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the controllers are; the agent uses one at a time.
    pub controllers: ControllerList,
    /// What must survive a reboot: the host's certificate, the last good policy, denials not sent yet.
    #[serde(default = "defaults::state_dir")]
    pub state_dir: PathBuf,
    /// Holds the enrolment token; read only while the host has no certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The name that the host asks for when it enrols.
    #[serde(default = "defaults::host_name")]
    pub host_name: String,
    /// The interfaces to police; empty: every Ethernet interface that is a device or has an address, but for
    /// bridges, links to containers and guests, and overlays of network plug-ins.
    #[serde(default)]
    pub interfaces: Vec<InterfaceName>,
    /// What becomes of packets that are neither IP nor ARP.
    #[serde(default)]
    pub other_ethertypes: OtherEthertypes,
    /// How the programs are hooked into interfaces.
    #[serde(default)]
    pub hooking: HookingChoice,
    /// Where the BPF file system is mounted.
    #[serde(default = "defaults::bpffs")]
    pub bpffs: PathBuf,
    /// The operator's way in.
    #[serde(default)]
    pub failsafe: Failsafe,
    /// Who may answer this host's DHCP client.
    #[serde(default)]
    pub dhcp: Dhcp,
    /// Seconds without a controller after which a policy that just came is rolled back; 0: never.
    #[serde(default = "defaults::rollback_after")]
    pub rollback_after: Seconds,
    /// Sizes of kernel maps.
    #[serde(default)]
    pub maps: Maps,
    /// How long flows are remembered.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How many denials are reported.
    #[serde(default)]
    pub events: Events,
    /// Seconds that a host without any policy yet learns its flows before it takes the first one.
    #[serde(default)]
    pub warm_start: WarmStart,
    /// Denials that wait for a controller.
    #[serde(default)]
    pub spool: SpoolSize,
}

/// What stays open into the host below every policy; quarantine alone cuts it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Failsafe {
    /// Where operators come from; empty: there is no failsafe.
    pub subnets: Vec<IpNet>,
    /// What they connect to.
    pub tcp_ports: Vec<Port>,
}

/// Who may answer this host's DHCP client, and be asked by it to renew a lease.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dhcp {
    /// Where answers come from, of both families: servers, or the relays that pass their answers on. Empty:
    /// whoever answers a request of this host, while it is open.
    pub servers: Vec<IpNet>,
}

/// Denials that wait for a controller.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolSize {
    /// Most disk space for them, in MiB; the oldest are dropped, and counted, beyond it.
    pub limit_mib: u16,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error(
        "cannot read the configuration file {}; name another with --config, or write one that holds at least `controllers = [\"ADDRESS:7443\"]`",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file says something that the agent does not understand.
    #[error("the configuration file {} is not valid: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, column, the line itself and what is wrong with it.
        problem: String,
    },
}

mod defaults {
    use std::path::PathBuf;

    pub(super) fn state_dir() -> PathBuf {
        "/var/lib/bulkhead-agent".into()
    }

    pub(super) fn bpffs() -> PathBuf {
        "/sys/fs/bpf".into()
    }

    pub(super) fn rollback_after() -> super::Seconds {
        super::Seconds::HALF_A_MINUTE
    }

    /// The name that the kernel has.
    pub(super) fn host_name() -> String {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    }
}

impl Config {
    /// Reads the file, and the variables that override it.
    ///
    /// # Errors
    /// When the file cannot be read, or says something that is not understood.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = Self::parse(&text).map_err(|problem| ConfigError::Invalid {
            path: path.to_owned(),
            problem,
        })?;
        if let Some(file) = env::var_os(TOKEN_FILE_VARIABLE).filter(|value| !value.is_empty()) {
            config.token_file = Some(file.into());
        }
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }

    /// What no single value can tell.
    fn check(&self) -> Result<(), String> {
        for (key, path) in [("state_dir", &self.state_dir), ("bpffs", &self.bpffs)] {
            if !path.is_absolute() {
                return Err(format!(
                    "`{key}` is {}; write a path that begins with /",
                    path.display()
                ));
            }
        }
        let failsafe = ("failsafe.subnets", &self.failsafe.subnets);
        for (key, subnets) in [failsafe, ("dhcp.servers", &self.dhcp.servers)] {
            if let Some(subnet) = subnets.iter().find(|subnet| subnet.trunc() != **subnet) {
                return Err(format!(
                    "`{key}` has {subnet}, which has bits set behind its prefix; write {}",
                    subnet.trunc()
                ));
            }
        }
        if self.host_name.is_empty() {
            return Err(
                "`host_name` is empty; write the name that the host enrols with".to_owned(),
            );
        }
        if self.spool.limit_mib == 0 {
            return Err("`spool.limit_mib` is 0; write 1 to 65535".to_owned());
        }
        Ok(())
    }

    /// Where the programs, maps and links of this layout are pinned.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        self.bpffs
            .join(format!("bulkhead/v{}", datapath::layout::VERSION))
    }

    /// What an operator should know before it is too late, once at the start.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        let Failsafe { subnets, tcp_ports } = &self.failsafe;
        (subnets.is_empty() || tcp_ports.is_empty()).then_some(
            "there is no failsafe: a policy that forgets the operators cuts them off from this host; set `failsafe.subnets` in the configuration file to where they come from, such as [\"10.9.0.0/24\"]",
        )
    }

    /// What the kernel programs do beside what policy says.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        Behaviour {
            timeouts: self.timeouts.seconds(),
            limits: self.events.limits(),
            warm_start: self.warm_start.duration(),
        }
    }

    /// Entries of each flow table on this host.
    #[must_use]
    pub fn flow_slots(&self) -> u32 {
        let memory = rustix::system::sysinfo();
        let unit = u64::from(memory.mem_unit.max(1));
        self.maps.flow_slots(memory.totalram.saturating_mul(unit))
    }

    /// How long the host waits for its controller after a new policy; none: it never goes back.
    #[must_use]
    pub fn rollback_after(&self) -> Option<Duration> {
        let seconds = self.rollback_after.number();
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// Most disk space for denials that wait, in bytes.
    #[must_use]
    pub fn spool_bytes(&self) -> u64 {
        u64::from(self.spool.limit_mib) << 20
    }
}

impl Default for Failsafe {
    fn default() -> Self {
        Self {
            subnets: Vec::new(),
            tcp_ports: vec![Port::SSH],
        }
    }
}

impl Default for SpoolSize {
    fn default() -> Self {
        Self { limit_mib: 64 }
    }
}
