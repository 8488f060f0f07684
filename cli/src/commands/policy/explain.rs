//! `bulkhead policy explain`: why a flow passes or not, offline.

mod answer;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;
use policy::{
    Effect, Origin,
    evaluate::Evidence,
    explain::{Considered, Explanation, Nearest, Role, SideExplanation, service::explain_service},
    words::{Mode, Tier},
};

use self::answer::Answer;
use crate::{
    exit::{Failure, Outcome},
    files,
    output::{Format, count, json_lines, place, printable, table},
    time::now,
};

const EXAMPLES: &str = "\
Examples:
  bulkhead policy explain web-1 db-1 tcp/5432 --inventory hosts.yaml --policies policies/
  bulkhead policy explain 198.51.100.7 web-1 storefront --inventory hosts.yaml --policies policies/

A Service of several ports is explained port by port. Exceptions that have expired do not count.
Exit code 0 when the flow passes, 1 when a side denies it.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// Who opens the flow
    #[arg(value_name = "HOST|ADDRESS")]
    src: String,
    /// To whom
    #[arg(value_name = "HOST|ADDRESS")]
    dst: String,
    /// What for: a port such as tcp/5432 or icmp, or a Service of the policy files
    #[arg(value_name = "PORT|SERVICE")]
    service: String,
    /// The hosts: YAML or JSON, `hosts: [{name, addresses, labels}]`; not needed with Pods among
    /// the policies
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Policy files, Kubernetes manifests, and directories of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    policies: Vec<PathBuf>,
    /// List also the rules that are not for the host
    #[arg(long)]
    all: bool,
}

impl Explain {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub fn run(&self, format: Format) -> Result<Outcome> {
        let (set, inventory) =
            files::policies_and_inventory(&self.policies, self.inventory.as_deref())?;
        let written = set.exceptions.len();
        let set = set.at(now());
        let expired = written - set.exceptions.len();
        let (src, dst, service) = (&self.src, &self.dst, &self.service);
        let explanations = explain_service(&set, &inventory, src, dst, service)
            .map_err(|error| Failure::usage(error.to_string()))?;
        match format {
            Format::Json => {
                let answers = explanations.iter().map(|it| Answer::new(it, self.all));
                json_lines(answers)?;
            }
            Format::Table => {
                for (index, explanation) in explanations.iter().enumerate() {
                    if index > 0 {
                        writeln!(io::stdout())?;
                    }
                    self.print(explanation)?;
                }
                if expired > 0 {
                    let expired = count(expired, "exception");
                    eprintln!("{expired} not considered: expired");
                }
            }
        }
        let passes = explanations.iter().all(|it| it.verdict == Effect::Allow);
        Ok(Outcome::fine_if(passes))
    }

    fn print(&self, explanation: &Explanation) -> io::Result<()> {
        let Explanation {
            query,
            flow,
            verdict,
            egress,
            ingress,
        } = explanation;
        let end = |side: &SideExplanation| match &side.host {
            Some(host) => format!("{host} ({})", side.address),
            None => side.address.to_string(),
        };
        let port = query
            .port
            .map_or_else(|| query.protocol.clone(), |_| flow.port.to_string());
        let (src, dst) = (end(egress), end(ingress));
        say(&format!("{src} -> {dst}, {port}: {verdict}"))?;
        self.print_side(egress)?;
        self.print_side(ingress)
    }

    fn print_side(&self, side: &SideExplanation) -> io::Result<()> {
        let who = side
            .host
            .as_ref()
            .map_or_else(|| side.address.to_string(), ToString::to_string);
        let direction = side.direction;
        let enforced = &side.verdict.enforced;
        say(&format!("\n{direction} of {who}: {}", decision(enforced)))?;
        if side.verdict.staged != *enforced {
            say(&format!("staged: {}", decision(&side.verdict.staged)))?;
        }
        if let Some(quarantined) = &side.quarantined {
            say(&format!("{quarantined} is in quarantine"))?;
        }
        let listed = |rule: &&Considered| self.all || rule.selects();
        let listed: Vec<_> = side.considered.iter().filter(listed).collect();
        if !listed.is_empty() {
            let rows = listed.iter().map(|rule| {
                [
                    rule.tier.to_string(),
                    rule.origin.rule.clone(),
                    place(&rule.origin),
                    rule.action.to_string(),
                    result(rule),
                ]
            });
            table(["TIER", "RULE", "PLACE", "ACTION", "RESULT"], rows)?;
        }
        let hidden = side.considered.len() - listed.len();
        if hidden > 0 {
            let rules = count(hidden, "rule");
            say(&format!(
                "{rules} for other hosts than {who}: --all lists them"
            ))?;
        }
        if enforced.effect == Effect::Deny && side.quarantined.is_none() {
            say(&nearest(side))?;
        }
        Ok(())
    }
}

/// A line of the answer; names in it may come from anywhere.
fn say(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{}", printable(text))
}

/// `deny by policy `db/ingress` (db.yaml:5)`.
fn decision(evidence: &Evidence) -> String {
    let Evidence {
        effect,
        tier,
        origin,
    } = evidence;
    match (tier, origin.rule.as_str()) {
        (_, "unmanaged") if origin.file.is_empty() => {
            format!("{effect}, as no host of the inventory has this address")
        }
        (_, "loopback") if origin.file.is_empty() => {
            format!("{effect}, as a host's flows to itself are not policed")
        }
        (Tier::Default | Tier::Quarantine, _) => format!("{effect}, by {tier}"),
        _ => format!("{effect}, by {tier} {}", named(origin)),
    }
}

fn named(origin: &Origin) -> String {
    format!("`{}` ({})", origin.rule, place(origin))
}

/// What came of a rule, in words.
fn result(rule: &Considered) -> String {
    let words = |role: Role| match role {
        Role::Decides => "decides",
        Role::Passes => "passes to the next tier",
        Role::Misses => "no match",
        Role::Skipped => "not asked: its tier was passed",
        Role::NotReached => "not asked: decided before",
        Role::Observed => "only observed",
    };
    let mut text = words(rule.enforced).to_owned();
    if rule.staged != rule.enforced {
        text += &format!("; staged: {}", words(rule.staged));
    }
    let is_asked = [rule.enforced, rule.staged].contains(&Role::Misses);
    if is_asked {
        text += &format!(": {}", why(rule).join("; and "));
    } else if rule.enforced == Role::NotReached && rule.tier != Tier::Default {
        text += &match rule.mismatches.is_empty() {
            true => ", though it matches".to_owned(),
            false => format!("; no match: {}", why(rule).join("; and ")),
        };
    }
    text
}

fn why(rule: &Considered) -> Vec<String> {
    rule.mismatches.iter().map(ToString::to_string).collect()
}

/// What would have to be different for a denied flow to pass on a side.
fn nearest(side: &SideExplanation) -> String {
    let Some(nearest) = side.nearest else {
        return "no rule could allow it".to_owned();
    };
    let rule = &side.considered[nearest.rule];
    format!(
        "nearest: {} {} would allow it, but {}",
        rule.tier,
        named(&rule.origin),
        obstacles(side, nearest).join("; and ")
    )
}

/// What keeps a rule from allowing the flow.
fn obstacles(side: &SideExplanation, nearest: Nearest) -> Vec<String> {
    let rule = &side.considered[nearest.rule];
    let mut obstacles = why(rule);
    if rule.mode == Mode::Observe {
        obstacles.push("it is only observed".to_owned());
    }
    if let Some(other) = nearest.denied_by.map(|index| &side.considered[index]) {
        let even = if obstacles.is_empty() {
            ""
        } else {
            "even then "
        };
        let (tier, name) = (other.tier, named(&other.origin));
        obstacles.push(format!("{even}{tier} {name} denies it before"));
    }
    obstacles
}
