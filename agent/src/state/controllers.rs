//! Where the controllers are: their names resolved, and the last answer kept for when the resolver
//! cannot be asked, which a policy may well bring about.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use tokio::{net::lookup_host, time::timeout};
use tracing::warn;

use super::{StateDir, StateError};
use crate::config::{ControllerAddress, ControllerList};

const FILE: &str = "controllers.json";
/// How long one name may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The configured controllers and what their names last stood for.
#[derive(Clone, Debug)]
pub struct Controllers {
    configured: ControllerList,
    known: BTreeMap<String, BTreeSet<SocketAddr>>,
}

impl Controllers {
    /// The configured controllers with what the state directory remembers.
    #[must_use]
    pub fn load(configured: &ControllerList, state: &StateDir) -> Self {
        let known = state.read(FILE).and_then(|content| {
            content.map_or(Ok(BTreeMap::new()), |content| {
                serde_json::from_slice(&content).map_err(|error| StateError::Damaged {
                    path: state.file(FILE),
                    problem: error.to_string(),
                    remedy: "it will be written again",
                })
            })
        });
        let mut known: BTreeMap<String, BTreeSet<SocketAddr>> = known.unwrap_or_else(|error| {
            warn!(%error, "the controllers' last addresses are forgotten");
            BTreeMap::new()
        });
        known.retain(|name, _| {
            configured
                .iter()
                .any(|controller| controller.to_string() == *name)
        });
        Self {
            configured: configured.clone(),
            known,
        }
    }

    /// Asks the resolver for each name; one that it cannot tell keeps its last addresses.
    /// True when an address has changed.
    pub async fn resolve(&mut self) -> bool {
        let mut changed = false;
        for controller in self.configured.iter() {
            if controller.literal().is_some() {
                continue;
            }
            match resolve_one(controller).await {
                Ok(addresses) => {
                    changed |= self.known.get(&controller.to_string()) != Some(&addresses);
                    self.known.insert(controller.to_string(), addresses);
                }
                Err(error) => {
                    warn!(%controller, error, "a controller's name cannot be resolved; its last addresses are used");
                }
            }
        }
        changed
    }

    /// Keeps what is known for the next start.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, state: &StateDir) -> Result<(), StateError> {
        let content = serde_json::to_vec(&self.known).map_err(|error| StateError::Damaged {
            path: state.file(FILE),
            problem: error.to_string(),
            remedy: "it will be written again",
        })?;
        state.replace(FILE, &content)
    }

    /// Every address that a controller may have, sorted, each once.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let literal = self
            .configured
            .iter()
            .filter_map(ControllerAddress::literal);
        let resolved = self.known.values().flatten().copied();
        literal
            .chain(resolved)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
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
        assert!(!controllers.resolve().await);
        let addresses: Vec<SocketAddr> = vec![
            "10.0.0.1:7443".parse().unwrap(),
            "10.0.0.2:7000".parse().unwrap(),
        ];
        assert_eq!(controllers.addresses(), addresses);
        controllers.save(&state).unwrap();
        assert_eq!(
            Controllers::load(&configured, &state).addresses(),
            addresses
        );
    }

    #[tokio::test]
    async fn a_name_is_resolved_with_its_port() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let mut controllers = Controllers::load(&list(&["localhost:7001"]), &state);
        assert!(controllers.resolve().await);
        assert!(!controllers.resolve().await, "the same answer is no change");
        assert!(
            controllers
                .addresses()
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 7001)
        );
        assert!(!controllers.addresses().is_empty());
    }
}
