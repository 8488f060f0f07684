//! The laboratory: hosts as network namespaces behind a router, a real controller, real agents,
//! the real operator's tool, and probes that make real connections. The end to end tests and the
//! demo are written on it.
//!
//! ```text
//!  web-1 10.66.1.10 fd66:1::10 ──┐          ┌── controller 10.66.9.10 fd66:9::10
//!  app-1 10.66.2.10 fd66:2::10 ──┤  router  ├── client-1   10.66.9.20 fd66:9::20, no agent
//!   db-1 10.66.3.10 fd66:3::10 ──┘          └── admin-1    10.66.0.10 fd66::10, no agent
//! ```
//!
//! Nothing touches the machine's own network. What a lab makes, it removes when it is dropped; what
//! a killed run left behind, the next one removes.

#![forbid(unsafe_code)]

mod agent;
mod controller;
mod daemon;
mod facts;
mod ip;
mod lab;
mod namespace;
mod network;
mod operator;
mod probe;
mod programs;
mod relay;
mod servers;
mod sweep;
mod traffic;
mod wait;

#[cfg(test)]
mod tests;

pub use self::{
    agent::Agent,
    controller::Controller,
    daemon::Daemon,
    facts::{Denial, HostStatus, Rollout},
    lab::{HostSpec, Lab, Plan},
    namespace::Namespace,
    network::{ADMIN, CLIENT, CONTROLLER, Family, Place, Vlan},
    operator::{Answer, Following, Operator},
    probe::{Expected, Flow, Outcome, Service, allowed, denied, kernel_has_sctp},
    programs::Programs,
    relay::Relay,
    servers::Servers,
    traffic::{BusyConnection, Hammer, HammerReport, IdleConnection, Lockstep, Tap},
    wait::{LONG, wait_for, wait_until},
};
