//! The Bulkhead controller: it knows every host, issues their certificates, compiles policy for
//! each of them and streams it, and keeps the denials that they report.
//!
//! Everything that it decides from is in memory (`state`); the store is for durability and is
//! written first. One lock serialises decisions (`controller`).

#![forbid(unsafe_code)]

pub mod app;
mod auth;
pub mod ca;
pub mod cli;
mod compiled;
mod controller;
mod error;
mod files;
mod grpc;
mod guards;
pub mod init;
mod labels;
mod model;
mod own;
mod publish;
mod signals;
mod state;
mod store;
