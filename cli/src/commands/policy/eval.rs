//! `bulkhead policy eval`: whether flows pass, offline.

mod mistake;

use std::{
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;
use policy::{
    Effect, Inventory, PolicySet,
    evaluate::{
        evaluator::Evaluator,
        query::{Answer, Query, SideAnswer, answer},
    },
};
use serde::Serialize;

use crate::{
    exit::{Failure, Outcome},
    files,
    output::{Format, json_line, place, table},
    time::now,
};

const EXAMPLES: &str = r#"Examples:
  bulkhead policy eval --inventory hosts.yaml --policies policies/ < queries.jsonl > verdicts.jsonl
  bulkhead policy eval --inventory hosts.yaml --policies policies/ \
      --src web-1 --dst db-1 --protocol tcp --port 5432

A query is a line of JSON; ICMP and others have no port:
  {"src": "web-1", "dst": "10.1.30.10", "protocol": "tcp", "port": 5432}
A verdict repeats it, with `verdict`, and `egress` and `ingress`, each with `verdict`, `tier`,
`rule`, `file` and `line`. A line that is no query gives {"error": .., "line": ..} in its place.
Exceptions that have expired do not count.
Exit code 1 when a line was no query, or when the one query of --src and --dst is denied."#;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Eval {
    /// The hosts: YAML or JSON, `hosts: [{name, addresses, labels}]`; not needed with Pods among
    /// the policies
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Policy files, Kubernetes manifests, and directories of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    policies: Vec<PathBuf>,
    /// Ask one query instead of reading them: the host or address that opens the flow
    #[arg(long, requires_all = ["dst", "protocol"], value_name = "HOST|IP")]
    src: Option<String>,
    /// The host or address that the flow goes to
    #[arg(long, requires = "src", value_name = "HOST|IP")]
    dst: Option<String>,
    /// tcp, udp, sctp, icmp/TYPE/CODE, icmpv6/TYPE/CODE or protocol/NUMBER
    #[arg(long, requires = "src")]
    protocol: Option<String>,
    /// The destination port, for protocols that have ports
    #[arg(long, requires = "src")]
    port: Option<u16>,
}

#[derive(Serialize)]
struct NoQuery {
    error: String,
    /// From 1.
    line: u64,
}

impl Eval {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub fn run(&self, format: Format) -> Result<Outcome> {
        let (set, inventory) =
            files::policies_and_inventory(&self.policies, self.inventory.as_deref())?;
        let set = set.at(now());
        match (&self.src, &self.dst, &self.protocol) {
            (Some(src), Some(dst), Some(protocol)) => {
                let query = Query {
                    src: src.clone(),
                    dst: dst.clone(),
                    protocol: protocol.clone(),
                    port: self.port,
                };
                one(&set, &inventory, &query, format)
            }
            _ => {
                let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
                let queries = BufReader::with_capacity(1 << 16, io::stdin().lock());
                stream(&Evaluator::new(&set, &inventory), queries, out)
            }
        }
    }
}

fn one(set: &PolicySet, inventory: &Inventory, query: &Query, format: Format) -> Result<Outcome> {
    let answer =
        answer(set, inventory, query).map_err(|error| Failure::usage(error.to_string()))?;
    let outcome = Outcome::fine_if(answer.verdict == Effect::Allow);
    match format {
        Format::Json => json_line(&mut io::stdout().lock(), &answer)?,
        Format::Table => print(&answer)?,
    }
    Ok(outcome)
}

fn print(answer: &Answer) -> io::Result<()> {
    let row = |name: &str, side: &SideAnswer| {
        let evidence = &side.enforced;
        [
            name.to_owned(),
            evidence.verdict.to_string(),
            evidence.tier.to_string(),
            evidence.origin.rule.clone(),
            place(&evidence.origin),
            side.staged.as_ref().map_or("-".to_owned(), |staged| {
                format!("{} by {}", staged.verdict, staged.origin.rule)
            }),
        ]
    };
    writeln!(io::stdout(), "{}", answer.verdict)?;
    table(
        ["SIDE", "VERDICT", "TIER", "RULE", "PLACE", "STAGED"],
        [
            row("egress", &answer.egress),
            row("ingress", &answer.ingress),
        ],
    )
}

/// Answers a query a line until the end of input.
fn stream(
    evaluator: &Evaluator<'_>,
    mut queries: BufReader<impl Read>,
    mut out: impl Write,
) -> Result<Outcome> {
    let mut outcome = Outcome::Fine;
    let mut text = Vec::new();
    for line in 1.. {
        // A program that asks and waits for each answer gets it; a file costs no flush a line.
        if queries.buffer().is_empty() {
            out.flush()?;
        }
        text.clear();
        let read = queries.read_until(b'\n', &mut text).map_err(|error| {
            Failure::usage(files::io_error(
                "reading queries from the standard input",
                &error,
            ))
        })?;
        if read == 0 {
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let answer = mistake::read(&text)
            .and_then(|query| evaluator.answer(query).map_err(|error| error.to_string()));
        match answer {
            Ok(answer) => json_line(&mut out, &answer)?,
            Err(error) => {
                json_line(&mut out, &NoQuery { error, line })?;
                outcome = Outcome::No;
            }
        }
    }
    out.flush()?;
    Ok(outcome)
}
