//! Random policies and random sequences of packets: what policy evaluation says of them, what the verdict makes
//! of them in memory, and what the loaded programs do.
//!
//! A case is a sequence under a series of generations. A round has several hundred, which share the flips.

mod packets;
mod reference;

use std::time::Duration;

use datapath::Reason;
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{RngAlgorithm, TestRng},
};

use self::{
    packets::Packet,
    reference::{Reference, World},
};
use super::{
    random::{Length, Random, seed},
    *,
};

/// For how long cases are tried where their number is not given.
const TIME: Duration = Duration::from_secs(20);
/// Sequences of a round: fewer than the smallest flow tables hold.
const SEQUENCES: u16 = 300;
/// Generations of a round.
const GENERATIONS: usize = 3;
/// Packets of a sequence under each of them, at most.
const PACKETS: usize = 4;

/// The programs in the kernel, and the same in memory.
struct Both {
    enforcer: Enforcer,
    applied: u64,
    tables: MemoryTables,
    observed: Observed,
}

impl Both {
    fn flip(&mut self, policy: &HostPolicy) {
        self.applied += 1;
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&self.applied.to_ne_bytes());
        let local = LocalTiers::default();
        self.enforcer.apply(policy, digest, &local, DAWN).unwrap();
        let merged = local.merge(policy);
        let classes = policy::classify(&merged).unwrap();
        let operations = plan(&self.observed, &lower(&merged, &classes), &stamp()).unwrap();
        for operation in &operations {
            memory::execute(&mut self.tables, operation);
        }
        self.observed = self.observed.clone().after(&operations);
    }

    fn forget(&mut self) {
        self.enforcer.programs.forget_flows().unwrap();
        self.tables.ipv4.flows.borrow_mut().clear();
        self.tables.ipv6.flows.borrow_mut().clear();
        self.tables.ipv4.fragments.borrow_mut().clear();
        self.tables.ipv6.fragments.borrow_mut().clear();
    }

    /// Packets that were dropped under any reason, in the kernel and in memory.
    fn dropped(&self) -> [u64; 2] {
        let reasons = Reason::ALL.into_iter().filter(|reason| reason.drops());
        reasons.fold([0; 2], |[kernel, memory], reason| {
            let [in_kernel, in_memory] = self.packets(reason);
            [kernel + in_kernel, memory + in_memory]
        })
    }

    /// Packets under a reason, in the kernel and in memory.
    fn packets(&self, reason: Reason) -> [u64; 2] {
        let in_kernel = self.enforcer.maps.reason(reason).unwrap();
        [in_kernel.packets, self.tables.packets(reason)]
    }
}

#[test]
fn evaluation_the_datapath_in_memory_and_the_kernel_agree_on_sequences_of_packets() {
    let seed = seed();
    let mut random = Random::new(seed);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_ne_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let bpffs = Bpffs::new();
    let mut both = Both {
        enforcer: bpffs.enforcer(),
        applied: 0,
        tables: MemoryTables::default(),
        observed: Observed::default(),
    };
    let (mut done, mut judged) = (0, HashMap::<_, u64>::new());
    let length = Length::of(TIME);
    while length.goes_on(done) {
        done += round(&mut random, &mut runner, &mut both, &mut judged);
    }
    println!("{done} cases in {:?}: {judged:?}", length.elapsed());
    for outcome in [
        Ok(Reason::Allowed),
        Err(Reason::Policy),
        Err(Reason::Revoked),
        Err(Reason::FragmentOrphan),
    ] {
        let count = judged.get(&outcome).copied().unwrap_or_default();
        assert!(count > 10, "{count} packets of {outcome:?}");
    }
}

/// Plays some hundred sequences on one host; how many.
fn round(
    random: &mut Random,
    runner: &mut TestRunner,
    both: &mut Both,
    judged: &mut HashMap<Result<Reason, Reason>, u64>,
) -> u64 {
    let scenario = scenario().new_tree(runner).unwrap().current();
    let mut worlds = vec![World::of(&scenario)];
    for _ in 1..GENERATIONS {
        let files = policy::testing::scenario()
            .new_tree(runner)
            .unwrap()
            .current();
        worlds.push(World::of(&Scenario {
            inventory: scenario.inventory.clone(),
            ..files
        }));
    }
    let hosts: Vec<_> = (0..scenario.inventory.hosts.len())
        .filter(|host| !scenario.inventory.hosts[*host].addresses.is_empty())
        .collect();
    if hosts.is_empty() {
        return 0;
    }
    let host = hosts[random.below(hosts.len())];
    let addresses = &scenario.inventory.hosts[host].addresses;
    let flows: Vec<_> = scenario
        .flows
        .iter()
        .filter(|flow| addresses.contains(&flow.source) || addresses.contains(&flow.destination))
        .flat_map(|flow| [*flow, packets::ping(flow)])
        .filter(packets::has_sequences)
        .collect();
    if flows.is_empty() {
        return 0;
    }
    let mut sequences: Vec<_> = (0..SEQUENCES)
        .map(|number| {
            let flow = flows[random.below(flows.len())];
            let inward = addresses.contains(&flow.destination);
            Reference::new(flow, inward, 40_000 + number)
        })
        .collect();
    both.forget();
    for world in &worlds {
        both.flip(&world.policies[host]);
        let (mut dropped, before) = (0, both.dropped());
        for _ in 0..PACKETS {
            for sequence in &mut sequences {
                let packet = Packet::random(&sequence.flow, |bound| random.below(bound));
                for (frame, direction, outcome) in sequence.next(world, packet) {
                    let (Ok(reason) | Err(reason)) = outcome;
                    let before = both.packets(reason);
                    let verdict = match outcome {
                        Ok(_) => Verdict::Pass,
                        Err(_) => Verdict::Drop,
                    };
                    let in_memory = decide(frame.as_slice(), direction, &both.tables, 1);
                    let in_kernel = both.enforcer.programs.test_run(direction, &frame).unwrap();
                    assert_eq!(
                        (in_memory, in_kernel),
                        (verdict, verdict),
                        "in memory and in the kernel, {outcome:?}: {packet:?} of {sequence:?}"
                    );
                    // What is simply allowed is counted with its flow.
                    let counts = u64::from(outcome != Ok(Reason::Allowed));
                    assert_eq!(
                        both.packets(reason),
                        before.map(|before| before + counts),
                        "in the kernel and in memory, {outcome:?}: {packet:?} of {sequence:?}"
                    );
                    dropped += u64::from(outcome.is_err());
                    *judged.entry(outcome).or_default() += 1;
                }
            }
        }
        assert_eq!(
            both.dropped(),
            before.map(|before| before + dropped),
            "under any reason, in the kernel and in memory"
        );
    }
    u64::from(SEQUENCES)
}
