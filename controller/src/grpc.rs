//! The gRPC services: they tell who calls, and turn messages into calls of the controller.

use std::{net::IpAddr, sync::Arc};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Status};

use crate::{controller::Controller, error::Result};

pub mod agents;
pub mod operators;

/// What both services hold.
#[derive(Clone, Debug)]
pub struct Service {
    /// Decides.
    pub controller: Arc<Controller>,
    /// The tasks of calls and streams; waited for at the end.
    pub tasks: TaskTracker,
    /// Ends the streams.
    pub stop: CancellationToken,
}

impl Service {
    /// Runs a call to its end, even if its caller goes away in the middle: a decision is never
    /// left half made, in the store and not in memory.
    async fn finish<T, F>(&self, call: F) -> std::result::Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let done = self.tasks.spawn(call).await;
        let outcome =
            done.map_err(|error| Status::internal(format!("the call failed: {error}")))?;
        Ok(outcome?)
    }
}

/// Where a connection comes from; IPv4 written as IPv6 is IPv4.
fn source_of<T>(request: &Request<T>) -> std::result::Result<IpAddr, Status> {
    request
        .remote_addr()
        .map(|address| address.ip().to_canonical())
        .ok_or_else(|| Status::internal("the connection has no address"))
}
