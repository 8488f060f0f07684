//! `bulkhead policy`: everything about policy files.

mod apply;
mod check;
mod eval;
mod explain;
mod import;
mod reach;
mod schema;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check policy files, offline: every mistake at once, with its line
    Check(check::Check),
    /// Make the files the policy of all hosts, and wait until they enforce it
    Apply(apply::Apply),
    /// Answer whether flows pass, offline, with the rule that decides on each side
    Eval(eval::Eval),
    /// Tell why a flow passes or not: every rule that was considered, offline
    Explain(explain::Explain),
    /// Read the policy of another system and write it as Bulkhead files, offline
    Import(import::Import),
    /// Show which host can reach which on what, offline and exact
    Reach(reach::Reach),
    /// Print the JSON Schema of policy files or inventories, for editors
    Schema(schema::Schema),
}
