//! Servers, clients and traffic in a lab.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{
    lab::Lab,
    network::Family,
    probe::{self, Expected, Flow, Outcome, Service},
    servers::Servers,
    traffic::{BusyConnection, Hammer, Lockstep, Nail},
};

impl Lab {
    /// Starts echo servers on a host, beside those that it has.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn serve(&mut self, host: &'static str, services: &[Service]) -> Result<()> {
        let servers = Servers::start(self.namespace(host)?, services)?;
        if self.servers.insert(host, servers).is_some() {
            bail!("{host} has servers already: start all of them at once");
        }
        Ok(())
    }

    /// Ends the echo servers of a host.
    pub fn stop_serving(&mut self, host: &str) {
        self.servers.remove(host);
    }

    /// The servers of a host.
    ///
    /// # Errors
    /// When it has none.
    pub fn servers(&self, host: &str) -> Result<&Servers> {
        self.servers
            .get(host)
            .with_context(|| format!("{host} has no servers"))
    }

    /// Tries all these flows at once, and reports each that did not come out as expected.
    ///
    /// # Errors
    /// When one did not.
    pub fn check(&self, all: &[Expected]) -> Result<()> {
        let surprises: Vec<String> = thread::scope(|scope| {
            let mut attempts = Vec::new();
            for expected in all {
                for flow in expected.flows {
                    attempts.push(scope.spawn(move || {
                        let outcome = self.attempt(flow, expected.patience())?;
                        Ok((outcome != expected.outcome)
                            .then(|| format!("{flow}: {outcome}, not {}", expected.outcome)))
                    }));
                }
            }
            let results: Result<Vec<_>> = attempts
                .into_iter()
                .map(|attempt| attempt.join().map_err(|_| anyhow!("an attempt panicked"))?)
                .collect();
            results.map(|results| results.into_iter().flatten().collect())
        })?;
        ensure!(
            surprises.is_empty(),
            "not as expected:\n  {}",
            surprises.join("\n  ")
        );
        Ok(())
    }

    /// Tries one flow.
    ///
    /// # Errors
    /// When it cannot be tried at all.
    pub fn attempt(&self, flow: Flow, patience: Duration) -> Result<Outcome> {
        let Flow {
            from,
            to,
            service,
            family,
        } = flow;
        probe::attempt(
            self.namespace(from)?,
            self.address(to, family)?,
            service,
            patience,
        )
    }

    /// Opens a connection on which both ends talk without end.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn busy(&self, from: &str, to: &str, port: u16, family: Family) -> Result<BusyConnection> {
        let address = SocketAddr::new(self.address(to, family)?, port);
        BusyConnection::open(self.namespace(from)?, self.namespace(to)?, address)
    }

    /// Starts datagrams that are counted one by one, sent by the opener to a port where nobody
    /// listens yet and returned from there.
    ///
    /// # Errors
    /// When the flow cannot be opened.
    pub fn lockstep(&self, from: &str, to: &str, port: u16, family: Family) -> Result<Lockstep> {
        let address = SocketAddr::new(self.address(to, family)?, port);
        Lockstep::start(self.namespace(from)?, self.namespace(to)?, address, true)
    }

    /// As [`Lab::lockstep`], but once the flow is open the other end sends, and the opener returns.
    ///
    /// # Errors
    /// As [`Lab::lockstep`].
    pub fn pushed(&self, from: &str, to: &str, port: u16, family: Family) -> Result<Lockstep> {
        let address = SocketAddr::new(self.address(to, family)?, port);
        Lockstep::start(self.namespace(from)?, self.namespace(to)?, address, false)
    }

    /// Starts to open new flows without end, a thread for each of these.
    ///
    /// # Errors
    /// When one names a host that is not there.
    pub fn hammer(&self, all: &[Expected]) -> Result<Hammer> {
        let mut nails = Vec::new();
        for expected in all {
            for Flow {
                from,
                to,
                service,
                family,
            } in expected.flows
            {
                let port = match service {
                    Service::Tcp(port) | Service::Udp(port) => port,
                    Service::Ping => bail!("pings are not for hammers"),
                };
                nails.push(Nail {
                    from: self.namespace(from)?.clone(),
                    to: SocketAddr::new(self.address(to, family)?, port),
                    service,
                    expected: expected.outcome.clone(),
                });
            }
        }
        Ok(Hammer::start(nails))
    }
}
