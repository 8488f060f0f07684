//! The agent as a library: what `bulkhead-agent` runs, and what its benchmark measures.

mod app;
mod brief;
mod capabilities;
mod cli;
mod clock;
mod columns;
mod config;
mod control;
mod denial;
mod denial_reader;
mod denials;
mod enforcement;
pub mod enforcer;
mod enrol;
mod error;
mod exceptions;
mod fail;
mod flows;
mod interfaces;
mod kernel;
mod listeners;
pub mod local_tiers;
mod lower;
mod plan;
mod renewal;
mod resolvers;
mod rule_book;
mod rules;
mod spool;
mod state;
mod status;
mod systemd;
#[cfg(test)]
mod testing;

pub use crate::{
    cli::main,
    config::{Behaviour, HookingChoice},
    error::with_causes,
};
