//! What was measured, and the figures that come of it.

use std::{collections::BTreeMap, fmt};

use crate::traffic::Kind;

/// What judges the packets, and by how many rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Firewall {
    Nothing,
    Empty,
    Limit,
    Nftables(usize),
    Iptables(usize),
    Bulkhead(usize),
}

impl Firewall {
    pub fn all(sizes: &[usize]) -> Vec<Self> {
        let of_sizes = sizes.iter().flat_map(|size| {
            [
                Self::Nftables(*size),
                Self::Iptables(*size),
                Self::Bulkhead(*size),
            ]
        });
        [Self::Nothing, Self::Empty, Self::Limit]
            .into_iter()
            .chain(of_sizes)
            .collect()
    }

    /// How many of it are measured. Where in memory a thing comes to lie changes a packet's cost, so one
    /// of each would be no measure; the others come in four sizes anyway.
    pub fn copies(self) -> usize {
        match self {
            Self::Nothing | Self::Empty | Self::Limit => 4,
            _ => 1,
        }
    }

    /// Short enough for the name of a namespace.
    pub fn slug(self) -> String {
        match self {
            Self::Nothing => "nothing".into(),
            Self::Empty => "empty".into(),
            Self::Limit => "limit".into(),
            Self::Nftables(rules) => format!("nft{rules}"),
            Self::Iptables(rules) => format!("ipt{rules}"),
            Self::Bulkhead(rules) => format!("bh{rules}"),
        }
    }
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Empty => f.write_str("an empty program"),
            Self::Limit => f.write_str("the limit"),
            Self::Nftables(rules) => write!(f, "nftables, {rules} rules"),
            Self::Iptables(rules) => write!(f, "iptables and ipset, {rules} rules"),
            Self::Bulkhead(rules) => write!(f, "Bulkhead, {rules} rules"),
        }
    }
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Nanoseconds a packet, end to end.
    Packets(Kind),
    /// The same, with the agents reading events.
    Read(Kind),
    /// Nanoseconds.
    RoundTrip,
    /// Nanoseconds a connection.
    Connect,
    /// Nanoseconds a megabyte.
    Megabyte,
    /// What a worker is asked: nanoseconds of a program by itself, milliseconds, or MiB.
    Asked(&'static str),
}

impl Measure {
    pub const ALL: [Self; 18] = [
        Self::Packets(Kind::Established),
        Self::Packets(Kind::ManyFlows),
        Self::Packets(Kind::Egress),
        Self::Packets(Kind::New),
        Self::Packets(Kind::Denied),
        Self::Packets(Kind::Scan),
        Self::Read(Kind::Denied),
        Self::Read(Kind::Scan),
        Self::RoundTrip,
        Self::Connect,
        Self::Megabyte,
        Self::Asked("established"),
        Self::Asked("egress"),
        Self::Asked("denied"),
        // What is applied comes after what is measured by it.
        Self::Asked("memory"),
        Self::Asked("maps"),
        Self::Asked("apply"),
        Self::Asked("address"),
    ];

    pub fn is_asked(self) -> bool {
        matches!(self, Self::Asked(_))
    }

    pub fn is_of(self, firewall: Firewall) -> bool {
        match self {
            Self::Asked("established" | "egress" | "denied") => matches!(
                firewall,
                Firewall::Empty | Firewall::Limit | Firewall::Bulkhead(_)
            ),
            Self::Asked("apply") => {
                matches!(firewall, Firewall::Nftables(_) | Firewall::Bulkhead(_))
            }
            Self::Asked(_) => matches!(firewall, Firewall::Bulkhead(_)),
            _ => true,
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packets(Kind::Established) => "established, one flow",
            Self::Packets(Kind::ManyFlows) => "established, 10,000 flows",
            Self::Packets(Kind::Egress) => "sent by the server",
            Self::Packets(Kind::New) => "opens a flow",
            Self::Packets(Kind::Denied) => "denied, 256 flows",
            Self::Packets(Kind::Scan) => "denied, each of another flow",
            Self::Read(Kind::Denied) => "denied, 256 flows, events being read",
            Self::Read(_) => "denied, each of another flow, events being read",
            Self::RoundTrip => "TCP round trip",
            Self::Connect => "TCP connection, opened and reset",
            Self::Megabyte => "TCP, a megabyte",
            Self::Asked("established") => "the program alone, established",
            Self::Asked("egress") => "the program alone, sent",
            Self::Asked("denied") => "the program alone, denied",
            Self::Asked("apply") => "a whole policy applied",
            Self::Asked("address") => "one address more or less",
            Self::Asked("memory") => "maps and agent, beside the flow table",
            Self::Asked(_) => "maps, beside the flow table",
        })
    }
}

/// The values of each turn, by round.
#[derive(Default)]
pub struct Results(BTreeMap<(Measure, Firewall), Vec<Vec<f64>>>);

impl Results {
    pub fn add(&mut self, measure: Measure, firewall: Firewall, round: usize, value: f64) {
        let rounds = self.0.entry((measure, firewall)).or_default();
        if rounds.len() <= round {
            rounds.resize_with(round + 1, Vec::new);
        }
        rounds[round].push(value);
    }

    /// One value a round: the median of its turns.
    fn rounds(&self, measure: Measure, firewall: Firewall) -> Option<Vec<f64>> {
        let rounds = self.0.get(&(measure, firewall))?;
        Some(rounds.iter().map(|turns| median(turns.clone())).collect())
    }

    /// The median of the rounds.
    pub fn value(&self, measure: Measure, firewall: Firewall) -> Option<f64> {
        self.rounds(measure, firewall).map(median)
    }

    /// What a firewall adds to nothing, against what another does: the median of the rounds' ratios.
    pub fn added(&self, measure: Measure, one: Firewall, other: Firewall) -> Option<f64> {
        self.added_by_all(measure, &[one], &[other])
    }

    pub fn added_by_all(
        &self,
        measure: Measure,
        ones: &[Firewall],
        others: &[Firewall],
    ) -> Option<f64> {
        let base = self.rounds(measure, Firewall::Nothing)?;
        let (ones, others) = (self.means(measure, ones)?, self.means(measure, others)?);
        let ratios = base.iter().zip(ones.iter().zip(&others));
        Some(median(
            ratios
                .map(|(base, (one, other))| (one - base) / (other - base))
                .collect(),
        ))
    }

    pub fn ratio_of_all(
        &self,
        measure: Measure,
        ones: &[Firewall],
        others: &[Firewall],
    ) -> Option<f64> {
        let (ones, others) = (self.means(measure, ones)?, self.means(measure, others)?);
        Some(median(
            ones.iter()
                .zip(&others)
                .map(|(one, other)| one / other)
                .collect(),
        ))
    }

    /// The mean of some firewalls, by round.
    fn means(&self, measure: Measure, firewalls: &[Firewall]) -> Option<Vec<f64>> {
        let all = firewalls
            .iter()
            .map(|firewall| self.rounds(measure, *firewall));
        let all = all.collect::<Option<Vec<_>>>()?;
        let count = firewalls.len() as f64;
        let rounds = all.first()?.len();
        Some(
            (0..rounds)
                .map(|round| all.iter().map(|of| of[round]).sum::<f64>() / count)
                .collect(),
        )
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
