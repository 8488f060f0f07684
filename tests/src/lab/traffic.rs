//! Servers, clients and traffic in a lab.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{
    lab::Lab,
    network::Family,
    operator::Answer,
    probe::{self, Expected, Flow, Outcome, Service},
    relay::Relay,
    servers::Servers,
    traffic::{BusyConnection, Hammer, IdleConnection, Lockstep, Nail, Tap},
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

    /// Tries all these flows at once, and reports each that did not come out as expected. Of a
    /// denied one nothing may arrive at the server either, if there is one; so nothing else may use
    /// these ports meanwhile.
    ///
    /// # Errors
    /// When one did not, or a server saw more than what was allowed.
    pub fn check(&self, all: &[Expected]) -> Result<()> {
        let before = self.arrivals(all);
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
        let after = self.arrivals(all);
        for ((host, service), before) in before {
            let flows = all.iter().filter(|expected| {
                expected.outcome == Outcome::Allowed
                    && expected.flows[0].to == host
                    && expected.flows[0].service == service
            });
            let expected = flows
                .map(|expected| expected.flows.len() as u64)
                .sum::<u64>();
            let arrived = after
                .get(&(host, service))
                .map_or(0, |after| after - before);
            ensure!(
                arrived == expected,
                "{arrived} flows arrived at {service} of {host}, and {expected} were allowed"
            );
        }
        Ok(())
    }

    /// What the servers that these flows go to have seen so far.
    fn arrivals(&self, all: &[Expected]) -> BTreeMap<(&'static str, Service), u64> {
        let asked = all.iter().map(|expected| expected.flows[0]);
        asked
            .filter_map(|Flow { to, service, .. }| {
                let seen = self.servers.get(to)?.counted(service)?;
                Some(((to, service), seen))
            })
            .collect()
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
        self.idle(from, to, port, family)?.talk()
    }

    /// Opens a connection on which nobody says a word yet.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn idle(&self, from: &str, to: &str, port: u16, family: Family) -> Result<IdleConnection> {
        let address = SocketAddr::new(self.address(to, family)?, port);
        IdleConnection::open(self.namespace(from)?, self.namespace(to)?, address)
    }

    /// Starts a relay on a host's loopback: what comes to it leaves the host for this address.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub fn relay(&self, host: &str, to: SocketAddr) -> Result<Relay> {
        Relay::start(self.namespace(host)?, to)
    }

    /// Counts the packets of a connection at the interface of a host.
    ///
    /// # Errors
    /// When the interface cannot be listened at.
    pub fn tap(&self, host: &str, connection: &BusyConnection) -> Result<Tap> {
        Tap::start(self.namespace(host)?, connection.addresses())
    }

    /// The segments of a connection that the TCP of one of its hosts has received and has sent,
    /// retransmitted ones included, whatever became of them outside.
    ///
    /// # Errors
    /// When the host has no such connection.
    pub fn segments(&self, host: &str, connection: &BusyConnection) -> Result<[u64; 2]> {
        let [client, server] = connection.addresses().map(|end| format!(":{}", end.port()));
        let filter = format!(
            "( sport = {client} and dport = {server} ) or ( sport = {server} and dport = {client} )"
        );
        let answer = Answer::of(
            self.namespace(host)?
                .command("ss")
                .arg("-Htin")
                .args(filter.split(' ')),
        )?
        .fine()
        .context("asking ss, of the package iproute2")?;
        let count = |name| {
            let mut words = answer.stdout.split_whitespace();
            let value = words.find_map(|word| word.strip_prefix(name));
            let value = value.with_context(|| {
                format!("{host} has no {name} between {client} and {server}: {answer:?}")
            })?;
            value.parse().with_context(|| format!("reading {value}"))
        };
        Ok([count("segs_in:")?, count("segs_out:")?])
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
                    Service::Sctp(_) | Service::Ping => bail!("{service} is not for hammers"),
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
