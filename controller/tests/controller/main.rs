//! The controller over real TLS connections, with a real store: what agents and operators see.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step is a failed test"
)]

mod addresses;
mod agent;
mod assertions;
mod denials;
mod enrolment;
mod guards;
mod policies;
mod process;
mod quarantine;
mod restart;
mod schema;
mod site;
mod trust;
