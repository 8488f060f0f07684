//! `bulkhead policy schema`: JSON Schemas of the files, for editors.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use policy::schema::{INVENTORY, POLICY};

use crate::exit::Outcome;

const EXAMPLES: &str = "\
Examples:
  bulkhead policy schema > policy.schema.json
  bulkhead policy schema --inventory > inventory.schema.json

An editor with a YAML language server takes it from the first line of a file:
  # yaml-language-server: $schema=policy.schema.json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Schema {
    /// The schema of inventories instead of that of policy files
    #[arg(long)]
    inventory: bool,
}

impl Schema {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub fn run(&self) -> Result<Outcome> {
        let schema = if self.inventory { INVENTORY } else { POLICY };
        io::stdout().write_all(schema.as_bytes())?;
        Ok(Outcome::Fine)
    }
}
