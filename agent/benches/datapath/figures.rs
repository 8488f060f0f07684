//! The figures that there are goals for.

use anyhow::{Context as _, Result};

use crate::{
    results::{
        Firewall::{self, Bulkhead, Limit, Nftables, Nothing},
        Measure, Results,
    },
    traffic::Kind,
};

/// One number, and what it is to be.
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    pub goal: Goal,
    /// What keeps it from its goal.
    pub bound: &'static str,
}

#[derive(Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

impl Goal {
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(goal) => value <= goal,
            Self::Below(goal) => value < goal,
            Self::AtLeast(goal) => value >= goal,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(goal) => write!(f, "at most {goal}"),
            Self::Below(goal) => write!(f, "below {goal}"),
            Self::AtLeast(goal) => write!(f, "at least {goal}"),
        }
    }
}

impl Figure {
    /// What it falls short of, and why; `None` when it does not.
    pub fn shortfall(&self) -> Option<String> {
        (!self.goal.is_met(self.value)).then(|| {
            format!(
                "`{}` is {:.3} and was to be {}: {}",
                self.name, self.value, self.goal, self.bound
            )
        })
    }
}

const ONE_PACKET: &str = "a packet of a known flow costs one lookup, the reading of its headers and its counters, and what calls a \
    program at all; the rest of the way varies by more than the difference";
const MANY: &str = "the entries of so many flows do not fit into the nearest caches: a packet waits for its key, its record and the counters that it writes, where the limit reads one word";
const COUNTED: &str = "the limit reads no clock, counts nothing, knows no state and no generation, and reads fewer headers";
const FIRST: &str = "the flow's entry is made in a table of which the least recently used leaves; that costs more than all lookups";
const DENIED: &str = "a denied flow is looked for among the flows and among the denied, and counted by its rule and its reason";
const TABLES: &str = "two generations of tables stand side by side, at their full size";
const SEGMENTS: &str =
    "each segment is judged in both directions at one host, and so is its acknowledgement";

/// All of them. Those that speak of no number of rules are of all numbers together: what a known flow costs
/// must not depend on it.
///
/// # Errors
/// When one of them was not measured.
pub fn figures(results: &Results, sizes: &[usize]) -> Result<Vec<Figure>> {
    use Goal::{AtLeast, AtMost, Below};
    let packets = Measure::Packets;
    let new = packets(Kind::New);
    let asked = |what, rules| results.value(Measure::Asked(what), Bulkhead(rules));
    let of =
        |firewall: fn(usize) -> Firewall| sizes.iter().copied().map(firewall).collect::<Vec<_>>();
    let (ours, theirs) = (of(Bulkhead), of(Nftables));
    let against_nftables = |measure| results.added_by_all(measure, &ours, &theirs);
    let against_nothing = |measure| results.ratio_of_all(measure, &ours, &[Nothing]);
    let at = |rules| results.added(new, Bulkhead(rules), Nftables(rules));
    let established = packets(Kind::Established);
    let many = packets(Kind::ManyFlows);
    let to_limit = results.added_by_all(established, &ours, &[Limit]);
    let by_rules = results.added(new, Bulkhead(100_000), Bulkhead(10));
    let denied = against_nothing(packets(Kind::Denied));
    let read = against_nothing(Measure::Read(Kind::Denied));
    // Of times, not of rates.
    let throughput = against_nothing(Measure::Megabyte).map(f64::recip);
    let trip = against_nftables(Measure::RoundTrip);
    let connect = against_nftables(Measure::Connect);
    let (ratio, ms) = ("ratio", "ms");
    [
        (
            "established_vs_nftables",
            against_nftables(established),
            ratio,
            AtMost(0.35),
            ONE_PACKET,
        ),
        (
            "established_10k_vs_nftables",
            against_nftables(many),
            ratio,
            AtMost(0.55),
            MANY,
        ),
        (
            "egress_vs_nftables",
            against_nftables(packets(Kind::Egress)),
            ratio,
            AtMost(0.35),
            ONE_PACKET,
        ),
        (
            "established_vs_limit",
            to_limit,
            ratio,
            AtMost(1.5),
            COUNTED,
        ),
        (
            "new_flow_vs_nftables_1k",
            at(1_000),
            ratio,
            AtMost(1.0),
            FIRST,
        ),
        (
            "new_flow_vs_nftables_100k",
            at(100_000),
            ratio,
            AtMost(1.0),
            FIRST,
        ),
        ("new_flow_100k_vs_10", by_rules, ratio, AtMost(1.2), FIRST),
        ("denied_vs_nothing", denied, ratio, Below(1.0), DENIED),
        ("denied_read_vs_nothing", read, ratio, Below(1.0), DENIED),
        (
            "apply_10k_ms",
            asked("apply", 10_000),
            ms,
            AtMost(100.0),
            TABLES,
        ),
        (
            "apply_one_address_ms",
            asked("address", 10_000),
            ms,
            AtMost(1.0),
            TABLES,
        ),
        (
            "memory_mib_100k",
            asked("memory", 100_000),
            "MiB",
            AtMost(64.0),
            TABLES,
        ),
        ("tcp_rtt_vs_nftables", trip, ratio, AtMost(0.35), SEGMENTS),
        ("connect_vs_nftables", connect, ratio, AtMost(0.7), FIRST),
        (
            "throughput_vs_nothing",
            throughput,
            ratio,
            AtLeast(0.98),
            SEGMENTS,
        ),
    ]
    .into_iter()
    .map(|(name, value, unit, goal, bound)| {
        let value = value.context("a figure was not measured")?;
        Ok(Figure {
            name,
            value,
            unit,
            goal,
            bound,
        })
    })
    .collect()
}
