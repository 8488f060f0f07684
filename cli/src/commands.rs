//! What the tool does, a module a command.

pub mod denials;
pub mod hosts;
pub mod policy;
pub mod quarantine;
pub mod status;
pub mod token;

use anyhow::Result;

use crate::{
    args::{Cli, Command},
    exit::Outcome,
    operator::{Controller, online},
};

/// Runs the command that the command line names.
///
/// # Errors
/// A [`crate::exit::Failure`] for what the user can mend, anything else for a bug.
pub fn run(cli: &Cli) -> Result<Outcome> {
    let format = cli.output;
    let connect = || Controller::connect(cli.operator.as_deref());
    match &cli.command {
        Command::Policy(policy::Command::Check(check)) => check.run(format),
        Command::Policy(policy::Command::Eval(eval)) => eval.run(format),
        Command::Policy(policy::Command::Explain(explain)) => explain.run(format),
        Command::Policy(policy::Command::Reach(reach)) => reach.run(format),
        Command::Policy(policy::Command::Import(import)) => import.run(),
        Command::Policy(policy::Command::Schema(schema)) => schema.run(),
        Command::Policy(policy::Command::Apply(apply)) => apply.run(format, connect),
        Command::Hosts(hosts) => online(async { hosts.run(&connect().await?, format).await }),
        Command::Token(token::Command::Create(create)) => {
            online(async { create.run(&connect().await?, format).await })
        }
        Command::Denials(denials) => online(async { denials.run(&connect().await?, format).await }),
        Command::Quarantine(quarantine) => {
            online(async { quarantine.run(&connect().await?, format).await })
        }
        Command::Release(release) => online(async { release.run(&connect().await?, format).await }),
        Command::Status(status) => online(async { status.run(&connect().await?, format).await }),
    }
}
