//! What a packet costs at a host, in one interleaved run: with nothing, an empty program, the limit (the
//! least that a stateful filter does), nftables, iptables with ipset, and Bulkhead, from 10 to
//! 100,000 rules. Each stands in namespaces of its own, side by side; every round measures all.
//!
//! `cargo xtask bench datapath` runs this, as root. One JSON object a line: `bench`, `name`, `value`,
//! `unit`, `rounds`; the table and the plot go to `docs/benchmarks/`.

#[path = "datapath/figures.rs"]
mod figures;
#[path = "datapath/network.rs"]
mod network;
#[path = "datapath/programs.rs"]
mod programs;
#[path = "datapath/results.rs"]
mod results;
#[path = "datapath/stream.rs"]
mod stream;
#[path = "datapath/table.rs"]
mod table;
#[path = "datapath/traffic.rs"]
mod traffic;
#[path = "datapath/worker.rs"]
mod worker;
#[path = "datapath/workload.rs"]
mod workload;

use std::{env, fs, path::Path, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{
    figures::Figure,
    network::{End, Pair},
    results::{Firewall, Measure, Results},
    stream::Stream,
    traffic::{Clock, Traffic},
    worker::Worker,
    workload::Workload,
};

const ROUNDS: usize = 7;
/// How often each firewall has its turn within a round.
const TURNS: usize = 15;
const PACKETS: u32 = 500;
/// Numbers of rules.
const SIZES: [usize; 4] = [10, 1_000, 10_000, 100_000];

/// One firewall and all that is measured through it.
struct Lane {
    firewall: Firewall,
    // Dropped in this order: the worker holds links into the namespaces.
    worker: Option<Worker>,
    traffic: Traffic,
    stream: Stream,
    pair: Pair,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [first, kind, rules] = arguments.as_slice()
        && first == worker::ARGUMENT
    {
        return worker::main(kind, rules.parse().context("a number of rules")?);
    }
    network::sweep()?;
    let mut lanes = Vec::new();
    for firewall in Firewall::all(&SIZES) {
        eprintln!("setting up {firewall}");
        for copy in 0..firewall.copies() {
            let lane = Lane::new(firewall, copy);
            lanes.push(lane.with_context(|| format!("setting up {firewall}"))?);
        }
    }
    let mut results = Results::default();
    measure(&mut lanes, &mut results)?;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks");
    fs::create_dir_all(&docs)?;
    let figures = figures::figures(&results, &SIZES)?;
    let page = table::markdown(&results, &figures, &SIZES);
    fs::write(docs.join("datapath.md"), page)?;
    fs::write(docs.join("datapath.svg"), table::plot(&results, &SIZES))?;
    for Figure {
        name, value, unit, ..
    } in &figures
    {
        println!(
            r#"{{"bench":"datapath","name":"{name}","value":{value:.3},"unit":"{unit}","rounds":{ROUNDS}}}"#
        );
    }
    for short in figures.iter().filter_map(Figure::shortfall) {
        eprintln!("short of its goal: {short}");
    }
    Ok(())
}

impl Lane {
    fn new(firewall: Firewall, copy: usize) -> Result<Self> {
        let pair = Pair::new(&format!("{}-{copy}", firewall.slug()))?;
        let mut worker = None;
        match firewall {
            Firewall::Nothing => {}
            Firewall::Empty => worker = Some(Worker::start(&pair, "empty", 0)?),
            Firewall::Limit => worker = Some(Worker::start(&pair, "limit", 0)?),
            Firewall::Bulkhead(rules) => worker = Some(Worker::start(&pair, "bulkhead", rules)?),
            Firewall::Nftables(rules) => {
                let script = Workload::new(rules).nftables();
                pair.run(End::Server, &["nft", "-f", "-"], &script)?;
            }
            Firewall::Iptables(rules) => {
                let sets = Workload::new(rules).ipset();
                pair.run(End::Server, &["ipset", "restore"], &sets)?;
                pair.run(End::Server, &["iptables-restore"], Workload::iptables())?;
            }
        }
        let mut traffic = Traffic::new(&pair)?;
        traffic.establish()?;
        let enforced = !matches!(firewall, Firewall::Nothing | Firewall::Empty);
        traffic.check(enforced)?;
        let stream = Stream::new(&pair)?;
        Ok(Self {
            firewall,
            worker,
            traffic,
            stream,
            pair,
        })
    }

    fn ask(&mut self, what: &str) -> Result<f64> {
        match (&mut self.worker, self.firewall) {
            (Some(worker), _) => worker.ask(what),
            (None, Firewall::Nftables(rules)) if what == "apply" => {
                let script = format!("flush ruleset\n{}", Workload::new(rules).nftables());
                let start = Instant::now();
                self.pair.run(End::Server, &["nft", "-f", "-"], &script)?;
                Ok(start.elapsed().as_secs_f64() * 1e3)
            }
            (None, _) => bail!("{} has no worker", self.firewall),
        }
    }

    /// One turn of one measure.
    fn turn(&mut self, measure: Measure, clock: Clock) -> Result<f64> {
        match measure {
            Measure::Packets(kind) | Measure::Read(kind) => self.traffic.time(kind, PACKETS, clock),
            Measure::RoundTrip => self.stream.round_trip(100, clock),
            Measure::Connect => self.stream.connect(&self.pair, 50, clock),
            Measure::Megabyte => self.stream.bulk(8, clock),
            Measure::Asked(what) => self.ask(what),
        }
    }
}

fn measure(lanes: &mut [Lane], results: &mut Results) -> Result<()> {
    let clock = Clock::choose(&mut lanes.first_mut().context("no lanes")?.traffic)?;
    eprintln!("measuring by the {clock:?} clock");
    for measure in Measure::ALL {
        eprintln!("measuring {measure}");
        if matches!(measure, Measure::Read(_)) {
            read(lanes, "read")?;
        }
        for round in 0..ROUNDS {
            let turns = if measure.is_asked() { 1 } else { TURNS };
            for _ in 0..turns {
                for lane in lanes.iter_mut().filter(|lane| measure.is_of(lane.firewall)) {
                    let value = lane
                        .turn(measure, clock)
                        .with_context(|| format!("measuring {measure} with {}", lane.firewall))?;
                    results.add(measure, lane.firewall, round, value);
                }
            }
        }
        if matches!(measure, Measure::Read(_)) {
            read(lanes, "read no more")?;
        }
    }
    Ok(())
}

/// Starts or ends the agents' reading of events.
fn read(lanes: &mut [Lane], what: &str) -> Result<()> {
    for lane in lanes {
        if let Firewall::Bulkhead(_) = lane.firewall {
            lane.ask(what)?;
        }
    }
    Ok(())
}
