//! `bulkhead policy reach`: who can reach whom on what, offline.

mod graph;
mod show;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use policy::{
    Inventory, PolicySet,
    reach::{Difference, End, Question, Survey, TooMany},
    service::literal::{PortLiteral, is_literal},
    set::Ports,
};

use crate::{
    exit::{Failure, Outcome},
    files,
    output::{Format, count},
    time::now,
};

/// Up to so many hosts a table shows each pair of them if nothing else is asked for.
const MOST_HOSTS: usize = 100;

const EXAMPLES: &str = "\
Examples:
  bulkhead policy reach --inventory hosts.yaml --policies policies/
  bulkhead policy reach --inventory hosts.yaml --policies policies/ --to db -o json
  bulkhead policy reach --inventory hosts.yaml --policies policies/ --from 0.0.0.0/0 --service tcp/22
  bulkhead policy reach --inventory hosts.yaml --policies policies/ --by segment --graph | dot -Tsvg
  bulkhead policy reach --inventory hosts.yaml --policies policies/ --diff proposed/

The answer is exact, over every flow that a host judges: not flows within one host, and not those
between two addresses that no host holds. Exceptions that have expired allow nothing.

By host, with `-o json`, an object for each ordered pair of hosts and each set of their addresses
with the same answer, also where nothing passes; asked about by segment or subnet, addresses that no
host holds too, one for all that policy treats alike. By segment, `all` is what passes between all
members, `some` what passes between some; `(other)` are the hosts in no segment, `world` the
addresses that no host holds and no segment names, and hosts in quarantine are left out.

With --diff, what opens and what closes from --policies to the other files, over one inventory; exit
code 1 when anything does.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    // No docstrings: clap would make a list of them.
    Host,
    Segment,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Reach {
    /// The hosts: YAML or JSON, `hosts: [{name, addresses, labels}]`; not needed with Pods among
    /// the policies
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Policy files, Kubernetes manifests, and directories of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    policies: Vec<PathBuf>,
    /// Only from this host, the members of this segment, this address or subnet
    #[arg(long, value_name = "HOST|SEGMENT|SUBNET")]
    from: Option<String>,
    /// Only to this host, the members of this segment, this address or subnet
    #[arg(long, value_name = "HOST|SEGMENT|SUBNET")]
    to: Option<String>,
    /// Only on this: a Service's name, or as policies write it, such as tcp/5432
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// A row for each pair of hosts, or of segments [default: host; in a table of more than 100
    /// hosts, segment]
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Show what becomes possible and what stops with these policy files instead
    #[arg(long, num_args = 1.., value_name = "PATH")]
    diff: Vec<PathBuf>,
    /// Print a graph for Graphviz's `dot`
    #[arg(long)]
    graph: bool,
}

impl Reach {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub fn run(&self, format: Format) -> Result<Outcome> {
        if self.graph && format == Format::Json {
            return Err(Failure::usage("--graph prints no JSON; leave out one of the two").into());
        }
        let (set, inventory) =
            files::policies_and_inventory(&self.policies, self.inventory.as_deref())?;
        let set = set.at(now());
        let other = match &self.diff[..] {
            [] => None,
            paths => Some(files::mixed_policy_set(paths)?.at(now())),
        };
        let sets: Vec<&PolicySet> = [&set].into_iter().chain(&other).collect();
        let end = |text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| end(text, &sets, &inventory)).transpose()
        };
        let service = self.service.as_deref();
        let question = Question {
            from: end(&self.from)?,
            to: end(&self.to)?,
            service: service.map(|text| ports(text, &sets)).transpose()?,
        };
        let by = self.by.unwrap_or_else(|| {
            if inventory.hosts.len() <= MOST_HOSTS || format == Format::Json {
                return By::Host;
            }
            let hosts = count(inventory.hosts.len(), "host");
            eprintln!("{hosts}: shown by segment; --by host shows each pair of them");
            By::Segment
        });
        match &other {
            Some(other) => {
                let mut difference =
                    Difference::new(&set, other, &inventory, &question).map_err(refused)?;
                let is_same = match by {
                    By::Host => show::changes(difference.hosts(), format, self.graph)?,
                    By::Segment => show::changes(difference.segments(), format, self.graph)?,
                };
                Ok(Outcome::fine_if(is_same))
            }
            None => {
                let mut survey = Survey::new(&set, &inventory, &question).map_err(refused)?;
                match by {
                    By::Host => show::hosts(survey.hosts(), format, self.graph)?,
                    By::Segment => show::segments(survey.segments(), format, self.graph)?,
                }
                Ok(Outcome::Fine)
            }
        }
    }
}

fn refused(error: TooMany) -> Failure {
    Failure::mistakes(error.to_string())
}

/// What a user means by an end.
fn end(text: &str, sets: &[&PolicySet], inventory: &Inventory) -> Result<End> {
    let end = End::from(text);
    let is_segment = |set: &&PolicySet| set.segments.iter().any(|segment| segment.name == text);
    let is_known = matches!(end, End::Subnet(_))
        || sets.iter().any(is_segment)
        || inventory.host(text).is_some();
    if !is_known {
        return Err(Failure::usage(format!(
            "`{text}` is neither a segment of the policy files nor a host of the inventory, nor an \
             address or subnet"
        ))
        .into());
    }
    Ok(end)
}

/// What a user means by a service.
fn ports(text: &str, sets: &[&PolicySet]) -> Result<Ports> {
    if is_literal(text) {
        return match text.parse() {
            Ok(PortLiteral::Any) => Ok(Ports::Any),
            Ok(PortLiteral::Span(span)) => Ok(Ports::spans(vec![span])),
            Ok(PortLiteral::Named(port)) => Ok(Ports::Of {
                spans: Vec::new(),
                named: vec![port],
            }),
            Err(error) => Err(Failure::usage(error.to_string()).into()),
        };
    }
    let mut services = sets.iter().flat_map(|set| &set.services);
    let service = services.find(|service| service.name == text);
    service.map(|service| service.ports.clone()).ok_or_else(|| {
        Failure::usage(format!(
            "`{text}` is neither a Service of the policy files nor a port such as tcp/5432"
        ))
        .into()
    })
}
