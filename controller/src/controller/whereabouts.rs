//! Where the controller is, for agents and for the guards.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::{Controller, blocking};
use crate::{error::Result, own, state::State};

impl Controller {
    /// Notes the port on which the controller listens.
    pub async fn listens_on(&self, port: u16) {
        self.lock().await.own.port = port;
    }

    /// Tells every agent, now and when it connects, where the controller is.
    pub fn announce(&self, addresses: Vec<SocketAddr>) {
        self.announced.send_if_modified(|announced| {
            let changes = announced.as_ref() != Some(&addresses);
            if changes {
                tracing::info!(?addresses, "agents are told where the controller is");
                *announced = Some(addresses);
            }
            changes
        });
    }

    /// Brings up to date which addresses are the controller's own.
    pub(super) async fn look_at_this_machine(&self, state: &mut State) -> Result<()> {
        let mut addresses =
            blocking("reading this machine's addresses", own::of_this_machine).await?;
        let announced = self.announced.borrow();
        let announced: BTreeSet<IpAddr> = announced.iter().flatten().map(SocketAddr::ip).collect();
        addresses.extend(&announced);
        state.own.addresses = addresses;
        state.own.announced = announced;
        Ok(())
    }
}
