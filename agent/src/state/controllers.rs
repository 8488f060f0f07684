//! Where the controllers are: their names resolved, and the last answer kept for when the resolver
//! cannot be asked, which a policy may well bring about.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use proto::DEFAULT_PORT;
use serde::{Deserialize, Serialize};
use tokio::{net::lookup_host, time::timeout};
use tracing::warn;

use super::{StateDir, StateError};
use crate::{
    config::{ControllerAddress, ControllerList},
    resolvers,
};

const FILE: &str = "controllers.json";
/// How long one name may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The configured controllers and what is known of them beside.
#[derive(Clone, Debug)]
pub struct Controllers {
    configured: ControllerList,
    kept: Kept,
    /// What is known is not on disk yet.
    is_unsaved: bool,
    /// A controller has said that it runs on this host.
    runs_here: bool,
}

/// What is kept for the next start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Kept {
    /// What each configured name last stood for.
    names: BTreeMap<String, BTreeSet<SocketAddr>>,
    /// Where the controllers said that they can be reached.
    announced: BTreeSet<SocketAddr>,
    /// The ports of this host on which a controller was found to listen.
    ports_here: BTreeSet<u16>,
    /// The resolvers of this host, when they were last known.
    resolvers: BTreeSet<IpAddr>,
}

/// What no policy may cut, so that this host and others reach the controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayToControllers {
    /// Every address that a controller may have, sorted, each once.
    pub addresses: Vec<SocketAddr>,
    /// The ports of this host on which a controller was found to listen.
    pub ports_here: BTreeSet<u16>,
    /// Who tells the addresses; empty where no controller is known by name.
    pub resolvers: BTreeSet<IpAddr>,
}

impl Controllers {
    /// The configured controllers with what the state directory remembers.
    #[must_use]
    pub fn load(configured: &ControllerList, state: &StateDir) -> Self {
        let kept = state.read(FILE).and_then(|content| {
            content.map_or(Ok(Kept::default()), |content| read(&content, state))
        });
        let mut kept = kept.unwrap_or_else(|error| {
            warn!(%error, "the controllers' last addresses are forgotten");
            Kept::default()
        });
        kept.names.retain(|name, _| {
            configured
                .iter()
                .any(|controller| controller.to_string() == *name)
        });
        Self {
            configured: configured.clone(),
            kept,
            is_unsaved: false,
            runs_here: false,
        }
    }

    /// Asks the resolver for each name; one that it cannot tell keeps its last addresses.
    pub async fn resolve(&mut self) {
        for controller in self.configured.clone().iter() {
            if controller.literal().is_some() {
                continue;
            }
            match resolve_one(controller).await {
                Ok(addresses) => self.change(|kept| {
                    kept.names.insert(controller.to_string(), addresses);
                }),
                Err(error) => {
                    warn!(%controller, error, "a controller's name cannot be resolved; its last addresses are used");
                }
            }
        }
    }

    /// Reads which resolvers this host asks; where none is configured now, the last ones stay.
    pub fn read_resolvers(&mut self) {
        let resolvers = resolvers::of_this_host();
        if !resolvers.is_empty() {
            self.change(|kept| kept.resolvers = resolvers);
        }
    }

    /// Takes what the controllers say of where they are; it takes the place of what they said before.
    pub fn announce(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let addresses = addresses.into_iter().collect();
        self.change(|kept| kept.announced = addresses);
    }

    /// Takes a controller's word for whether it runs on this host. If it does not, no port of this host is a
    /// controller's: whoever listens on one may relay to a controller and show its certificate.
    pub fn runs_here(&mut self, runs_here: bool) {
        self.runs_here = runs_here;
        if !runs_here {
            self.set_ports_here(BTreeSet::new());
        }
    }

    /// Whether the controller of the newest connection runs on this host. False: it does not, or none has said so
    /// since the agent's start.
    #[must_use]
    pub fn run_here(&self) -> bool {
        self.runs_here
    }

    /// Takes the ports of this host on which a controller listens.
    pub fn set_ports_here(&mut self, ports: BTreeSet<u16>) {
        self.change(|kept| kept.ports_here = ports);
    }

    fn change(&mut self, change: impl FnOnce(&mut Kept)) {
        let before = self.kept.clone();
        change(&mut self.kept);
        self.is_unsaved |= self.kept != before;
    }

    /// Keeps what is known for the next start, if it is not kept yet.
    ///
    /// # Errors
    /// When it cannot be written; the next call tries again.
    pub fn save(&mut self, state: &StateDir) -> Result<(), StateError> {
        if !self.is_unsaved {
            return Ok(());
        }
        let content = serde_json::to_vec(&self.kept).map_err(|error| damaged(state, &error))?;
        state.replace(FILE, &content)?;
        self.is_unsaved = false;
        Ok(())
    }

    /// Every address that a controller may have, sorted, each once.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let literal = self
            .configured
            .iter()
            .filter_map(ControllerAddress::literal);
        let resolved = self.kept.names.values().flatten().copied();
        literal
            .chain(resolved)
            .chain(self.kept.announced.iter().copied())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// The ports on which a controller of this host may listen.
    #[must_use]
    pub fn ports(&self) -> BTreeSet<u16> {
        let known = self.addresses().into_iter().map(|address| address.port());
        known.chain([DEFAULT_PORT]).collect()
    }

    /// The ports of this host on which a controller was found to listen.
    #[must_use]
    pub fn ports_here(&self) -> &BTreeSet<u16> {
        &self.kept.ports_here
    }

    /// What no policy may cut.
    #[must_use]
    pub fn way(&self) -> WayToControllers {
        let is_named = self.configured.iter().any(|it| it.literal().is_none());
        let resolvers = match is_named {
            true => self.kept.resolvers.clone(),
            false => BTreeSet::new(),
        };
        WayToControllers {
            addresses: self.addresses(),
            ports_here: self.kept.ports_here.clone(),
            resolvers,
        }
    }
}

/// Reads the file; one of an earlier version has the names alone.
fn read(content: &[u8], state: &StateDir) -> Result<Kept, StateError> {
    serde_json::from_slice(content).or_else(|error| {
        let names = serde_json::from_slice(content).map_err(|_| damaged(state, &error))?;
        Ok(Kept {
            names,
            ..Kept::default()
        })
    })
}

fn damaged(state: &StateDir, error: &serde_json::Error) -> StateError {
    StateError::Damaged {
        path: state.file(FILE),
        problem: error.to_string(),
        remedy: "it will be written again",
    }
}

async fn resolve_one(controller: &ControllerAddress) -> Result<BTreeSet<SocketAddr>, String> {
    let lookup = lookup_host((controller.host(), controller.port()));
    let addresses: BTreeSet<_> = timeout(PATIENCE, lookup)
        .await
        .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
        .map_err(|error| error.to_string())?
        .collect();
    if addresses.is_empty() {
        Err("it has no address".to_owned())
    } else {
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn list(addresses: &[&str]) -> ControllerList {
        let addresses: Vec<ControllerAddress> = addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        addresses.try_into().unwrap()
    }

    #[tokio::test]
    async fn a_name_that_no_longer_resolves_keeps_its_last_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        // RFC 6761: names below .invalid never resolve.
        let configured = list(&["10.0.0.1", "controller.invalid:7000"]);
        state
            .replace(
                FILE,
                br#"{"controller.invalid:7000":["10.0.0.2:7000"],"gone:1":["10.0.0.3:1"]}"#,
            )
            .unwrap();
        let mut controllers = Controllers::load(&configured, &state);
        controllers.resolve().await;
        assert!(!controllers.is_unsaved);
        let addresses: Vec<SocketAddr> = vec![
            "10.0.0.1:7443".parse().unwrap(),
            "10.0.0.2:7000".parse().unwrap(),
        ];
        assert_eq!(controllers.addresses(), addresses);
        controllers.set_ports_here([7443].into());
        controllers.save(&state).unwrap();
        let loaded = Controllers::load(&configured, &state);
        assert_eq!(loaded.addresses(), addresses);
        assert_eq!(loaded.kept, controllers.kept);
    }

    #[tokio::test]
    async fn announced_controllers_are_kept_until_they_announce_others() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let configured = list(&["10.0.0.1"]);
        let mut controllers = Controllers::load(&configured, &state);
        let [own, first, second] =
            ["10.0.0.1:7443", "10.0.0.8:7443", "[fd00::9]:443"].map(|it| it.parse().unwrap());
        for announced in [first, second] {
            controllers.announce([announced]);
            controllers.save(&state).unwrap();
            let loaded = Controllers::load(&configured, &state);
            assert_eq!(loaded.addresses(), [own, announced]);
        }
        controllers.announce([]);
        assert_eq!(controllers.way().addresses, [own]);
        assert_eq!(controllers.ports(), [7443].into());
    }

    #[test]
    fn resolvers_are_part_of_the_way_only_where_a_controller_is_known_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let resolvers: BTreeSet<IpAddr> = ["10.0.0.53".parse().unwrap()].into();
        for (address, expected) in [
            ("controller.example.net", resolvers.clone()),
            ("10.0.0.1", BTreeSet::new()),
        ] {
            let mut controllers = Controllers::load(&list(&[address]), &state);
            controllers.change(|kept| kept.resolvers.clone_from(&resolvers));
            assert_eq!(controllers.way().resolvers, expected, "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_is_resolved_with_its_port() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let mut controllers = Controllers::load(&list(&["localhost:7001"]), &state);
        controllers.resolve().await;
        assert!(controllers.is_unsaved);
        controllers.save(&state).unwrap();
        controllers.resolve().await;
        assert!(!controllers.is_unsaved, "the same answer is no change");
        assert!(
            controllers
                .addresses()
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 7001)
        );
        assert!(!controllers.addresses().is_empty());
    }
}
