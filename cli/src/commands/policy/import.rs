//! `bulkhead policy import`: the policy of other systems as Bulkhead files, offline.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use policy::{
    Host, Problems, SourceFile,
    import::{Imported, aws, calico, kubernetes},
    render,
};

use crate::{
    exit::{Failure, Outcome},
    files,
    output::count,
};

const EXAMPLES: &str = "\
Examples:
  aws ec2 describe-security-groups > groups.json
  aws ec2 describe-network-interfaces > interfaces.json
  bulkhead policy import --from aws groups.json interfaces.json --out imported/
  bulkhead policy import --from calico calico/ > policies.yaml
  bulkhead policy import --from kubernetes manifests/ --out imported/

What cannot be said in Bulkhead policy is an error with its place, and nothing is written. Without
--out the policy goes to stdout and the inventory is left out; with it, to policies.yaml and
inventory.yaml in that directory.";

/// The other system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum System {
    Aws,
    Calico,
    Kubernetes,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Import {
    /// Whose policy it is
    #[arg(long, value_enum, value_name = "SYSTEM")]
    from: System,
    /// Files, and directories of them (*.yaml, *.yml, *.json; all that is below)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write policies.yaml and inventory.yaml into this directory; neither may be there yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Of AWS: a rule may name a security group that none of the files has
    #[arg(long)]
    allow_missing_groups: bool,
    /// Of Calico: a HostEndpoint of one interface stands for all interfaces of its node
    #[arg(long)]
    all_interfaces: bool,
}

impl Import {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub fn run(&self) -> Result<Outcome> {
        if self.allow_missing_groups && self.from != System::Aws {
            let text = "--allow-missing-groups speaks of security groups: it needs --from aws";
            return Err(Failure::usage(text).into());
        }
        if self.all_interfaces && self.from != System::Calico {
            let text = "--all-interfaces speaks of host endpoints: it needs --from calico";
            return Err(Failure::usage(text).into());
        }
        let sources = files::policies(&self.paths)?;
        let imported = sources.parse(|files| self.import(files));
        let Imported { set, inventory } = imported.map_err(|problems| {
            let number = files::number(&problems);
            Failure::mistakes(format!("{number}, nothing imported\n{problems}"))
        })?;
        let policies = render::policies(&set);
        let hosts = inventory.hosts.len();
        let is_unaddressed = |host: &&Host| host.addresses.is_empty();
        let unaddressed = inventory.hosts.iter().filter(is_unaddressed).count();
        if unaddressed > 0 {
            eprintln!(
                "warning: {} without an address: fill them in, or no flow can be asked of them and \
                 assertions hold for want of any",
                count(unaddressed, "host")
            );
        }
        let Some(directory) = &self.out else {
            io::stdout().write_all(policies.as_bytes())?;
            if hosts > 0 {
                eprintln!("warning: --out DIR writes the {} too", count(hosts, "host"));
            }
            return Ok(Outcome::Fine);
        };
        let mut written = vec![("policies.yaml", policies)];
        if hosts > 0 {
            written.push(("inventory.yaml", render::inventory(&inventory)));
        }
        write(directory, &written)?;
        Ok(Outcome::Fine)
    }

    fn import(&self, files: &[SourceFile]) -> Result<Imported, Problems> {
        match self.from {
            System::Aws => aws::import(files, self.allow_missing_groups),
            System::Calico => calico::import(files, self.all_interfaces),
            System::Kubernetes => kubernetes::import(files),
        }
    }
}

/// Writes new files, none of them if one is there already: somebody may have worked on it.
fn write(directory: &Path, written: &[(&str, String)]) -> Result<()> {
    let failed = |path: &Path, error: &io::Error| {
        Failure::usage(files::io_error(
            &format!("writing {}", path.display()),
            error,
        ))
    };
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    for name in ["policies.yaml", "inventory.yaml"] {
        let path = directory.join(name);
        if path.exists() {
            let path = path.display();
            let text = format!(
                "writing {path}: it is there already; name another directory, or move it away"
            );
            return Err(Failure::usage(text).into());
        }
    }
    for (name, content) in written {
        let path = directory.join(name);
        fs::write(&path, content).map_err(|error| failed(&path, &error))?;
        writeln!(io::stdout(), "{}", path.display())?;
    }
    Ok(())
}
