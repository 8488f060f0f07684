//! `bulkhead denials`: denied connections, each with the rule that denied it.

use std::{
    io::{self, IsTerminal, Write},
    net::IpAddr,
};

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use policy::{Direction, Origin, Tier, service::literal::protocol_word};
use proto::{
    convert::address_from_bytes,
    v1::{self, HostDenial, WatchDenialsRequest},
};
use serde::Serialize;
use tokio_stream::StreamExt;
use tonic::{Code, Status, Streaming};

use crate::{
    args::duration,
    exit::{Failure, Outcome},
    operator::Controller,
    output::{Format, LiveTable, count, json_line, place, table},
    time,
};

mod frame;

use self::frame::Frame;

const EXAMPLES: &str = "\
Examples:
  bulkhead denials                             the newest 100
  bulkhead denials --since 10m --limit 1000
  bulkhead denials --follow --host db-1        until Ctrl-C
  bulkhead denials --follow -o json | jq 'select(.peer == null)'

The arrow points the way the denied packet went; the port is the one it was sent to. A reason
that ends in `(staged)`: the packet passed, and enforcing what is observed would have denied it. One
that ends in `(staged: allowed)` was denied, and enforcing what is observed would let it pass.
No tier: the packet was dropped before any rule could judge it, for what its reason says. Its port is
what the frame carries, and its place the interface and the other end's MAC address.";

const HEADERS: [&str; 10] = [
    "TIME", "HOST", "DIR", "PEER", "PORT", "PACKETS", "REASON", "TIER", "RULE", "PLACE",
];
/// What rows of a followed table usually need, in characters.
const WIDTHS: [usize; 10] = [20, 10, 3, 15, 10, 7, 8, 9, 20, 20];

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Denials {
    /// Go on with those that come, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only what this host denied
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// The most kept ones to show, the newest of them
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only since then: a duration such as 10m, or a time such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<Timestamp>,
}

/// A denial as programs read it, and as rows are made from.
#[derive(Debug, Serialize)]
struct DenialLine {
    time: Timestamp,
    host: String,
    host_identity: u32,
    direction: Direction,
    /// Absent: no host holds the address.
    peer: Option<String>,
    peer_identity: u32,
    /// Absent without an IP header that can be read, as are the other address and the protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_address: Option<IpAddr>,
    peer_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_address: Option<IpAddr>,
    local_port: u16,
    /// `tcp`, `icmpv6`, `vrrp`, `protocol/254`: as a policy writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    packets: u64,
    reason: String,
    staged: bool,
    /// What is observed would let the packet pass.
    staged_allows: bool,
    /// Absent with the rule: it was dropped before any could judge it.
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<Tier>,
    #[serde(flatten)]
    origin: Option<Origin>,
    #[serde(flatten)]
    frame: Option<Frame>,
    revision: u64,
    generation: u32,
    /// Denials left out just before this one: they came faster than they were read.
    missed: u64,
}

impl Denials {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub async fn run(&self, controller: &Controller, format: Format) -> Result<Outcome> {
        let request = WatchDenialsRequest {
            follow: self.follow,
            host: self.host.clone().unwrap_or_default(),
            limit: self.limit,
            since_ns: self.since.map_or(0, time::to_unix_ns),
        };
        let mut stream = controller
            .ask(
                "asking for denials",
                controller.client().watch_denials(request),
            )
            .await?;
        let watched = match (self.follow, format) {
            (false, Format::Table) => print_all(&mut stream).await,
            _ => tokio::select! {
                watched = print_each(&mut stream, format) => watched,
                interrupted = tokio::signal::ctrl_c(), if self.follow => {
                    interrupted.context("waiting for Ctrl-C")?;
                    return Ok(Outcome::Fine);
                }
            },
        };
        match watched {
            Ok(newest) if self.follow => Err(lost(newest, "the controller closed the stream")),
            Ok(_) => Ok(Outcome::Fine),
            Err(Broken::Stream { status, newest })
                if self.follow && status.code() == Code::Unavailable =>
            {
                Err(lost(newest, "lost the controller"))
            }
            Err(Broken::Stream { status, .. }) => {
                Err(controller.failure("reading denials", &status).await)
            }
            Err(Broken::Here(error)) => Err(error),
        }
    }
}

/// What is lost while nobody listens is kept at the controller: say how to see it.
fn lost(newest: Option<Timestamp>, what: &str) -> anyhow::Error {
    let advice = newest
        .map(|time| format!(" with --since {time}"))
        .unwrap_or_default();
    Failure::unreachable(format!("{what}; run the command again{advice}")).into()
}

/// Why a stream of denials ended early.
enum Broken {
    Stream {
        status: Status,
        newest: Option<Timestamp>,
    },
    Here(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Here(error.into())
    }
}

/// One table, its columns as wide as their cells.
async fn print_all(stream: &mut Streaming<HostDenial>) -> Result<Option<Timestamp>, Broken> {
    let mut denials = Vec::new();
    while let Some(denial) = stream.next().await {
        let denial = denial.map_err(|status| Broken::Stream {
            status,
            newest: None,
        })?;
        denials.push(DenialLine::try_from(denial)?);
    }
    table(HEADERS, denials.iter().map(DenialLine::row))?;
    Ok(denials.last().map(|denial| denial.time))
}

/// A line each, as they come. The time is of the newest one.
async fn print_each(
    stream: &mut Streaming<HostDenial>,
    format: Format,
) -> Result<Option<Timestamp>, Broken> {
    // Rust's stdout is flushed at line ends on a pipe too: the reader sees each denial at once.
    let mut out = io::stdout();
    let mut table = match format {
        Format::Table => Some(LiveTable::begin(&mut out, HEADERS, WIDTHS)?),
        Format::Json => None,
    };
    if out.is_terminal() && table.is_some() {
        eprintln!("(following; Ctrl-C ends)");
    }
    let mut newest = None;
    while let Some(denial) = stream.next().await {
        let denial = denial.map_err(|status| Broken::Stream { status, newest })?;
        let denial = DenialLine::try_from(denial)?;
        if denial.missed > 0 && format == Format::Table {
            let from = newest
                .map(|time: Timestamp| format!(" --since {time}"))
                .unwrap_or_default();
            eprintln!(
                "({} left out here, faster than they can be shown; `bulkhead denials{from}` lists them)",
                count(denial.missed.try_into().unwrap_or(usize::MAX), "denial")
            );
        }
        newest = newest.max(Some(denial.time));
        match &mut table {
            Some(table) => table.row(&mut out, denial.row())?,
            None => json_line(&mut out, &denial)?,
        }
        out.flush()?;
    }
    Ok(newest)
}

impl DenialLine {
    fn row(&self) -> [String; 10] {
        let staged = match (self.staged, self.staged_allows) {
            (true, _) => " (staged)",
            (false, true) => " (staged: allowed)",
            (false, false) => "",
        };
        let (arrow, port) = match self.direction {
            Direction::Ingress => ("<-", self.local_port),
            Direction::Egress => ("->", self.peer_port),
        };
        let peer = self.peer.clone();
        let address = self.peer_address.map(|address| address.to_string());
        let mac = self.frame.as_ref().map(|frame| frame.peer_mac.clone());
        let asked_for = match (&self.protocol, &self.frame) {
            (Some(protocol), _)
                if matches!(protocol.as_str(), "tcp" | "udp" | "sctp") && self.tier.is_some() =>
            {
                format!("{protocol}/{port}")
            }
            (Some(protocol), _) => protocol.clone(),
            (None, Some(frame)) => frame.carries(),
            (None, None) => String::new(),
        };
        let rule = self.origin.as_ref().map(|origin| origin.rule.clone());
        let place = match (&self.origin, &self.frame) {
            (Some(origin), _) => place(origin),
            (None, Some(frame)) => format!("{} {}", frame.interface, frame.peer_mac)
                .trim()
                .to_owned(),
            (None, None) => String::new(),
        };
        [
            format!("{:.0}", self.time),
            self.host.clone(),
            arrow.to_owned(),
            peer.or(address).or(mac).unwrap_or_default(),
            asked_for,
            self.packets.to_string(),
            format!("{}{staged}", self.reason),
            self.tier
                .map_or_else(|| "-".to_owned(), |tier| tier.to_string()),
            rule.unwrap_or_else(|| "-".to_owned()),
            place,
        ]
    }
}

impl TryFrom<HostDenial> for DenialLine {
    type Error = anyhow::Error;

    fn try_from(denial: HostDenial) -> Result<Self> {
        let HostDenial {
            host,
            peer,
            peer_identity,
            host_identity,
            denial,
            missed,
        } = denial;
        let v1::Denial {
            time_ns,
            direction,
            reason,
            tier,
            origin,
            revision,
            generation,
            protocol,
            local_address,
            peer_address,
            local_port,
            peer_port,
            packets,
            staged,
            staged_allows,
            lost_before,
            frame,
        } = denial.context("a denial from the controller is empty")?;
        let frame = frame.map(Frame::try_from).transpose()?;
        let judged = frame.is_none();
        // Without an IP header there is none of these.
        let is_ip = judged || !peer_address.is_empty();
        let address = |bytes: &[u8]| is_ip.then(|| address_from_bytes(bytes)).transpose();
        let port = |port: u32| u16::try_from(port).context("a denial's port is above 65535");
        Ok(Self {
            time: time::from_unix_ns(time_ns),
            host,
            host_identity,
            direction: v1::Direction::from_field(direction)?,
            peer: (!peer.is_empty()).then_some(peer),
            peer_identity,
            peer_address: address(&peer_address)?,
            peer_port: port(peer_port)?,
            local_address: address(&local_address)?,
            local_port: port(local_port)?,
            protocol: is_ip.then(|| protocol_name(protocol)).transpose()?,
            packets,
            reason,
            staged,
            staged_allows,
            tier: judged.then(|| v1::Tier::from_field(tier)).transpose()?,
            origin: if judged {
                let origin = origin.context("a denial from the controller names no rule")?;
                Some(origin.into())
            } else {
                None
            },
            frame,
            revision,
            generation,
            missed: missed + u64::from(lost_before),
        })
    }
}

fn protocol_name(number: u32) -> Result<String> {
    let number = u8::try_from(number).context("a denial's protocol is above 255")?;
    Ok(protocol_word(number))
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let ago = |ago| {
        Timestamp::now()
            .checked_sub(ago)
            .map_err(|error| error.to_string())
    };
    duration(text).map_or_else(
        |_| {
            text.parse().map_err(|_| {
                "write a duration such as 10m, or a time such as 2026-03-01T12:00:00Z".to_owned()
            })
        },
        ago,
    )
}
