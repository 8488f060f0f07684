//! How fast policy is compiled, kept up to date and asked: medians of several rounds, on one core.
//! All of it is computation in one thread, so what is measured is the time that this process had a core:
//! what a clock on the wall shows on a machine that does nothing else.
//!
//! `cargo xtask bench policy` runs this; arguments are beginnings of the names to measure. One JSON object a line: `bench`, `name`, `value`, `unit`, `rounds`.

#[path = "policy/synthetic.rs"]
mod synthetic;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    hint::black_box,
    io::{BufRead, BufReader, BufWriter, Error, Result, Write},
    process::Command,
    sync::Arc,
};

use bulkhead_policy::{
    Fleet, HostName, IdentityTable, Origin, Population, PortSpan, ProtocolSlot, Revision,
    assertion::check,
    check_fit, classify, compile,
    evaluate::{evaluator::Evaluator, query::Query},
    reach::{Question, Survey},
    set::{Assertion, Claim, Ports, SegmentId},
};
use rustix::time::ClockId;

/// Asks this program for a fleet and the most memory that it took.
const CHILD: &str = "--fleet-peak";

fn main() -> Result<()> {
    if env::args().any(|argument| argument == CHILD) {
        black_box(publish(&fleet()));
        println!("{}", peak_kilobytes()?);
        return Ok(());
    }
    let names: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let is_asked =
        |name: &str| names.is_empty() || names.iter().any(|asked| name.starts_with(asked.as_str()));
    if is_asked("compile_3k_1k_ms") {
        compile_3k_1k();
    }
    if is_asked("fleet_reach_ms") || is_asked("fleet_assertion_ms") {
        fleet_questions()?;
    }
    if is_asked("overlap_2k_ms") {
        overlap_2k();
    }
    if is_asked("fleet_full_ms") {
        fleet_full();
    }
    if is_asked("fleet_one_policy_ms") {
        fleet_one_policy();
    }
    if is_asked("fleet_one_address_ms") {
        fleet_one_address()?;
    }
    if is_asked("fleet_peak_mb") {
        fleet_peak()?;
    }
    if is_asked("eval_per_second") {
        eval();
    }
    Ok(())
}

fn report(name: &str, value: f64, unit: &str, rounds: usize) {
    println!(
        r#"{{"bench":"policy","name":"{name}","value":{value:.3},"unit":"{unit}","rounds":{rounds}}}"#
    );
}

/// Seconds that this process had a core.
fn core_time() -> f64 {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The median of how many milliseconds a piece of work takes.
fn milliseconds<T>(rounds: usize, mut work: impl FnMut(usize) -> T) -> f64 {
    black_box(work(0));
    let mut taken: Vec<f64> = (1..=rounds)
        .map(|round| {
            let start = core_time();
            black_box(work(round));
            (core_time() - start) * 1e3
        })
        .collect();
    taken.sort_by(f64::total_cmp);
    taken[rounds / 2]
}

fn compile_3k_1k() {
    let (set, inventory) = synthetic::three_thousand_rules();
    let mut identities = IdentityTable::default();
    let population = Population::new(&set, &inventory, &mut identities);
    let subject = synthetic::subject(&set, &inventory, &mut identities);
    let compiled = || compile(&set, Revision(1), &population, &subject);
    let rounds = 15;
    let both = milliseconds(rounds, |_| classify(&compiled()));
    let policy = compiled();
    assert!(policy.rules.len() >= 3_000, "the rules are missing");
    assert!(check_fit(&policy).is_ok(), "the policy does not fit");
    report("compile_3k_1k_ms", both, "ms", rounds);
}

fn overlap_2k() {
    let policy = synthetic::overlapping();
    assert_eq!(policy.check(), Ok(()));
    let rounds = 15;
    let value = milliseconds(rounds, |_| classify(&policy));
    report("overlap_2k_ms", value, "ms", rounds);
}

fn fleet() -> Fleet {
    let inventory = synthetic::hosts(10_000, 100);
    let set = synthetic::fleet_set();
    Fleet::new(Revision(1), set, &inventory, IdentityTable::default())
}

/// What a controller does with a fleet that it did not know: makes the policy of every subject and
/// checks that it fits. The number of addresses and rules in all.
fn publish(fleet: &Fleet) -> usize {
    let policies = fleet.subjects().filter_map(|subject| fleet.policy(subject));
    policies
        .map(|policy| {
            assert!(check_fit(&policy).is_ok(), "a policy does not fit");
            policy.rules.len() + policy.addresses.len()
        })
        .sum()
}

fn fleet_full() {
    let rounds = 5;
    let full = milliseconds(rounds, |_| publish(&fleet()));
    report("fleet_full_ms", full, "ms", rounds);
}

fn fleet_one_policy() {
    let mut fleet = fleet();
    let rounds = 11;
    // Every other round the policy is as it was.
    let mut sets: Vec<_> = (0..=rounds).map(|_| fleet.set().clone()).collect();
    for set in sets.iter_mut().step_by(2) {
        let policy = &mut set.policies[700];
        if let Some(side) = policy.ingress.as_mut().or(policy.egress.as_mut()) {
            side.rules.pop();
        }
    }
    let mut sets = sets.into_iter();
    let one_policy = milliseconds(rounds, |round| {
        let set = sets.next().unwrap_or_default();
        let changes = fleet.apply(Revision(2 + round as u64), set);
        assert!((1..100).contains(&changes.subjects.len()), "{changes:?}");
        let changed = changes.subjects.keys();
        let policies = changed.filter_map(|subject| fleet.policy(subject));
        policies.filter(|policy| check_fit(policy).is_ok()).count()
    });
    report("fleet_one_policy_ms", one_policy, "ms", rounds);
}

fn fleet_one_address() -> Result<()> {
    let mut fleet = fleet();
    let rounds = 201;
    let name = HostName("a12-web-prod-4120".to_owned());
    let inventory = synthetic::hosts(10_000, 100);
    let mut host = inventory
        .host(&name.0)
        .cloned()
        .ok_or_else(|| Error::other("the host is missing"))?;
    let added = synthetic::address(200_000);
    let one_address = milliseconds(rounds, |round| {
        if round % 2 == 0 {
            host.addresses.push(added);
        } else {
            host.addresses.pop();
        }
        let changes = fleet.put(host.clone());
        assert!(changes.is_ok_and(|changes| !changes.subjects.is_empty()));
    });
    report("fleet_one_address_ms", one_address, "ms", rounds);
    Ok(())
}

fn fleet_peak() -> Result<()> {
    let output = Command::new(env::current_exe()?).arg(CHILD).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let kilobytes: f64 = text.trim().parse().map_err(Error::other)?;
    report("fleet_peak_mb", kilobytes / 1024.0, "MB", 1);
    Ok(())
}

/// `VmHWM` of this process.
fn peak_kilobytes() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| Error::other("/proc/self/status has no VmHWM"))
}

/// Who reaches whom, segment by segment, and one assertion about many hosts; both from nothing.
fn fleet_questions() -> Result<()> {
    let mut set = synthetic::fleet_set();
    let inventory = synthetic::hosts(10_000, 100);
    let question = Question::default();
    let rounds = 5;
    let reach = milliseconds(rounds, |_| {
        let mut survey = Survey::new(&set, &inventory, &question).map_err(Error::other)?;
        Ok::<_, Error>(survey.segments().count())
    });
    report("fleet_reach_ms", reach, "ms", rounds);

    // Holds, so that every pair of classes is asked about.
    let segments: Vec<SegmentId> = (0..).map(SegmentId).take(set.segments.len()).collect();
    let (from, to) = segments.split_at(segments.len() / 2);
    set.assertions = vec![Assertion {
        name: "bench".to_owned(),
        claim: Claim::Never,
        from: from.to_vec(),
        to: to.to_vec(),
        ports: Ports::spans(vec![PortSpan {
            slot: ProtocolSlot::Tcp,
            first: 1,
            last: 1,
        }]),
        origin: Arc::new(Origin::unwritten("bench")),
    }];
    let rounds = 11;
    let assertion = milliseconds(rounds, |_| check(&set, &inventory).len());
    report("fleet_assertion_ms", assertion, "ms", rounds);
    Ok(())
}

/// Queries a second over the whole fleet: lines of JSON are read, answered and written as
/// `bulkhead policy eval` does it, and the tables are made within the time.
fn eval() {
    let set = synthetic::fleet_set();
    let inventory = synthetic::hosts(10_000, 100);
    let mut numbers = synthetic::Numbers(5);
    let mut lines = String::new();
    let count = 400_000;
    for _ in 0..count {
        let mut end = || &inventory.hosts[numbers.below(10_000)].name;
        let (src, dst) = (end(), end());
        let port = 1_000 + numbers.below(60) * 10;
        lines += &format!(
            "{{\"src\":\"{src}\",\"dst\":\"{dst}\",\"protocol\":\"tcp\",\"port\":{port}}}\n"
        );
    }
    let rounds = 5;
    let mut verdicts = BTreeMap::new();
    let taken = milliseconds(rounds, |_| -> Result<()> {
        let evaluator = Evaluator::new(&set, &inventory);
        let mut queries = BufReader::with_capacity(1 << 16, lines.as_bytes());
        let mut out = BufWriter::with_capacity(1 << 16, File::create("/dev/null")?);
        let mut line = Vec::new();
        while queries.read_until(b'\n', &mut line)? > 0 {
            let query: Query = serde_json::from_slice(&line)?;
            let answer = evaluator.answer(query).map_err(Error::other)?;
            *verdicts.entry(answer.verdict).or_insert(0) += 1;
            serde_json::to_writer(&mut out, &answer)?;
            out.write_all(b"\n")?;
            line.clear();
        }
        out.flush()
    });
    let answered: usize = verdicts.values().sum();
    assert_eq!(answered, count * (rounds + 1), "a query has no answer");
    assert_eq!(verdicts.len(), 2, "all verdicts are alike");
    let per_second = count as f64 / taken * 1e3;
    report("eval_per_second", per_second, "queries/s", rounds);
}
