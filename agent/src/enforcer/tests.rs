//! The real kernel: these tests load the programs, and fail without root.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up shall fail"
)]

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use datapath::{Direction, Verdict, decide, memory::MemoryTables};
use etherparse::PacketBuilder;
use policy::{
    Action, Effect, Mode, PortKey, ProtocolSlot, Revision,
    evaluate::{Flow, evaluate},
    testing::{Scenario, scenario},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;
use crate::{
    kernel::testing::in_own_namespace,
    plan::{
        memory,
        tests::{policies, stamp},
    },
};

pub mod attaching;
mod company;
mod counting;
mod device;
mod differential;
mod flips;
mod flows;
mod frames;
mod one_address;
mod planted;
mod random;
mod upkeep;
pub mod wire;

/// Before every end: all rules are in force.
const DAWN: Timestamp = Timestamp(0);

/// Both ways of hooking programs into interfaces.
pub const HOOKINGS: [HookingChoice; 2] = [HookingChoice::Tcx, HookingChoice::Clsact];

/// A BPF file system of the test's own.
pub struct Bpffs(tempfile::TempDir);

impl Bpffs {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        mount(
            "bpf",
            directory.path(),
            "bpf",
            MountFlags::empty(),
            None::<&std::ffi::CStr>,
        )
        .expect("this test mounts a BPF file system and loads BPF programs: run it as root");
        Self(directory)
    }

    pub fn pin_dir(&self) -> PathBuf {
        self.0.path().join("bulkhead").join("v1")
    }

    pub fn enforcer(&self) -> Enforcer {
        Enforcer::open(self.options()).unwrap()
    }

    /// One that polices an interface.
    pub fn enforcer_on(
        &self,
        hooking: HookingChoice,
        interface: &str,
    ) -> Result<Enforcer, EnforceError> {
        let options = EnforcerOptions {
            interfaces: vec![interface.to_owned()],
            hooking,
            ..self.options()
        };
        Enforcer::open(options)
    }

    fn options(&self) -> EnforcerOptions {
        EnforcerOptions {
            pin_dir: self.pin_dir(),
            interfaces: vec!["no-such-interface".into()],
            flows: 1024,
            behaviour: Behaviour::default(),
            hooking: HookingChoice::Automatic,
        }
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

impl Enforcer {
    /// Whether a connection from elsewhere may be opened, as the kernel judges it.
    pub fn lets_in(&mut self) -> bool {
        let verdict = self.programs.test_run(Direction::Ingress, &syn()).unwrap();
        verdict == Verdict::Pass
    }
}

#[test]
fn the_verifier_goes_through_the_programs_with_patience_to_spare() {
    let bpffs = Bpffs::new();
    let enforcer = bpffs.enforcer();
    let verified = enforcer.programs.verified_instructions();
    // It has patience for a million, and that of older kernels sees more cases.
    assert!(
        verified.iter().all(|count| *count < 150_000),
        "{verified:?}"
    );
}

/// A frame that opens a flow. `source_port` keeps flows apart where the protocol has ports.
fn frame(flow: &Flow, source_port: u16) -> Option<Vec<u8>> {
    let PortKey { slot, key } = flow.port;
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let network = match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            link.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            link.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => return None,
    };
    let [kind, code] = key.to_be_bytes();
    let payload = [0; 16];
    let written = match slot {
        ProtocolSlot::Tcp => network
            .tcp(source_port, key, 1, 1024)
            .syn()
            .write(&mut frame, &payload),
        ProtocolSlot::Udp => network.udp(source_port, key).write(&mut frame, &payload),
        ProtocolSlot::Icmp if flow.source.is_ipv4() => network
            .icmpv4_raw(kind, code, [0; 4])
            .write(&mut frame, &payload),
        ProtocolSlot::Icmpv6 if flow.source.is_ipv6() => network
            .icmpv6_raw(kind, code, [0; 4])
            .write(&mut frame, &payload),
        ProtocolSlot::Sctp => {
            let [[a, b], [c, d]] = [source_port.to_be_bytes(), key.to_be_bytes()];
            let sctp = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
            network.write(&mut frame, 132.into(), &sctp)
        }
        // In IPv6 these numbers are extension headers, and carry on to another protocol.
        ProtocolSlot::Other if flow.source.is_ipv6() && [0, 43, 44, 51, 60].contains(&key) => {
            return None;
        }
        ProtocolSlot::Other => {
            let number = u8::try_from(key).ok()?;
            network.write(&mut frame, number.into(), &payload)
        }
        _ => return None,
    };
    written.unwrap();
    Some(frame)
}

/// The sides of a flow that some host judges: the host, the direction, what evaluation says.
fn sides(
    scenario: &Scenario,
    flow: &Flow,
) -> Vec<(usize, Direction, policy::evaluate::SideVerdict)> {
    let host_of = |address: &IpAddr| {
        scenario
            .inventory
            .hosts
            .iter()
            .position(|host| host.addresses.contains(address))
    };
    let verdict = evaluate(&scenario.set, &scenario.inventory, flow);
    let egress = host_of(&flow.source).map(|host| (host, Direction::Egress, verdict.egress));
    let ingress =
        host_of(&flow.destination).map(|host| (host, Direction::Ingress, verdict.ingress));
    egress.into_iter().chain(ingress).collect()
}

#[test]
fn evaluation_the_datapath_in_memory_and_the_kernel_agree() {
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let mut judged = 0u32;
    let mut denied = 0u32;
    let mut applied = 0u8;
    let strategy = scenario();
    let mut runner = TestRunner::new(Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    });
    let enforcer = std::cell::RefCell::new(&mut enforcer);
    let counts = std::cell::RefCell::new((&mut judged, &mut denied, &mut applied));
    let outcome = runner.run(&strategy, |scenario| {
        let mut enforcer = enforcer.borrow_mut();
        let mut counts = counts.borrow_mut();
        let mut of_hosts: HashMap<usize, Vec<(Vec<u8>, Direction, policy::evaluate::SideVerdict)>> =
            HashMap::new();
        for (port, flow) in (30_000..).zip(&scenario.flows) {
            let Some(frame) = frame(flow, port) else {
                continue;
            };
            for (host, direction, verdict) in sides(&scenario, flow) {
                of_hosts
                    .entry(host)
                    .or_default()
                    .push((frame.clone(), direction, verdict));
            }
        }
        let policies = policies(&scenario);
        for (host, packets) in of_hosts {
            *counts.2 = counts.2.wrapping_add(1);
            let local = LocalTiers::default();
            // `apply` adds the host's own rules; they are in already, and add nothing twice.
            let live = enforcer
                .apply(&policies[host], [*counts.2; 32], &local, DAWN)
                .unwrap();
            let merged = local.merge(&policies[host]);
            let tables = in_memory(&merged);
            for (frame, direction, verdict) in packets {
                enforcer.programs.forget_flows().unwrap();
                tables.ipv4.flows.borrow_mut().clear();
                tables.ipv6.flows.borrow_mut().clear();
                let in_kernel = enforcer.programs.test_run(direction, &frame).unwrap();
                let in_memory = decide(frame.as_slice(), direction, &tables, 1);
                let evaluated = match verdict.enforced.effect {
                    Effect::Allow => Verdict::Pass,
                    Effect::Deny => Verdict::Drop,
                };
                prop_assert_eq!(in_memory, evaluated, "in memory, {:?}", verdict);
                prop_assert_eq!(in_kernel, evaluated, "in the kernel, {:?}", verdict);
                *counts.0 += 1;
                *counts.1 += u32::from(evaluated == Verdict::Drop);
            }
            // The same rules denied the same number of packets.
            for rule in 0..u32::try_from(merged.rules.len()).unwrap() {
                let counter = enforcer.maps.rule(live.generation, rule).unwrap();
                prop_assert_eq!(
                    counter.packets,
                    tables.rule_packets(1, rule),
                    "rule {}",
                    rule
                );
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(
        judged > 200 && denied > 20,
        "{judged} judged, {denied} denied"
    );
}

/// The in-memory tables of a merged policy, in generation 1.
fn in_memory(merged: &HostPolicy) -> MemoryTables {
    let classes = policy::classify(merged).unwrap();
    let stamp = stamp();
    let mut tables = MemoryTables::default();
    for operation in plan(&Observed::default(), &lower(merged, &classes), &stamp).unwrap() {
        memory::execute(&mut tables, &operation);
    }
    tables
}

/// A policy of one rule for each direction.
fn uniform(action: Action) -> HostPolicy {
    let rule = |direction| policy::Rule {
        direction,
        tier: Tier::Policy,
        action,
        mode: Mode::Enforce,
        peers: PeerMatch::Any,
        ports: Vec::new(),
        log: false,
        expires: None,
        origin: Arc::new(policy::Origin {
            rule: "everything".into(),
            file: "all.yaml".into(),
            line: 3,
        }),
    };
    HostPolicy {
        revision: Revision(1),
        identity: Identity::FIRST,
        rules: vec![
            rule(policy::Direction::Ingress),
            rule(policy::Direction::Egress),
        ],
        addresses: std::collections::BTreeMap::new(),
    }
}

fn syn() -> Vec<u8> {
    let flow = Flow {
        source: "10.0.0.2".parse().unwrap(),
        destination: "10.0.0.1".parse().unwrap(),
        port: PortKey {
            slot: ProtocolSlot::Tcp,
            key: 443,
        },
    };
    frame(&flow, 40_000).unwrap()
}

#[test]
fn a_denial_arrives_with_its_rule_and_its_file() {
    let bpffs = Bpffs::new();
    let mut enforcer = bpffs.enforcer();
    let live = enforcer
        .apply(
            &uniform(Action::Deny),
            [1; 32],
            &LocalTiers::default(),
            DAWN,
        )
        .unwrap();
    let mut denials = enforcer.denials().unwrap();
    assert_eq!(
        enforcer
            .programs
            .test_run(Direction::Ingress, &syn())
            .unwrap(),
        Verdict::Drop
    );
    let denial = denials.blocking_next().unwrap().remove(0);
    let origin = denial.rule.unwrap().origin;
    assert_eq!(origin.rule, "everything");
    assert_eq!((origin.file.as_str(), origin.line), ("all.yaml", 3));
    assert_eq!(
        (denial.peer_address, denial.peer_port),
        (Some("10.0.0.2".parse().unwrap()), 40_000)
    );
    assert_eq!(
        (denial.local_address, denial.local_port),
        (Some("10.0.0.1".parse().unwrap()), 443)
    );
    assert_eq!(
        (denial.generation, denial.reason.as_str()),
        (live.generation, "policy")
    );
    let counters = enforcer.counters().unwrap();
    assert_eq!((counters.packets_denied, counters.events_lost), (1, 0));
}

#[test]
fn pins_are_adopted_as_they_are_and_the_same_policy_is_not_applied_twice() {
    let bpffs = Bpffs::new();
    let policy = uniform(Action::Allow);
    let local = LocalTiers::default();
    let first = bpffs
        .enforcer()
        .apply(&policy, [1; 32], &local, DAWN)
        .unwrap();
    let mut second = bpffs.enforcer();
    assert_eq!(second.live().unwrap(), Some(first));
    assert_eq!(second.apply(&policy, [1; 32], &local, DAWN).unwrap(), first);
    let third = second
        .apply(&uniform(Action::Deny), [2; 32], &local, DAWN)
        .unwrap();
    assert_eq!(third.generation, first.generation + 1);
    let inspection = Enforcer::inspect(&bpffs.pin_dir()).unwrap().unwrap();
    assert_eq!(inspection.live, Some(third));
}

#[test]
fn detach_leaves_nothing_behind() {
    // What is attached is asked of every interface: those of the machine are not this test's.
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        bpffs
            .enforcer()
            .apply(
                &uniform(Action::Allow),
                [1; 32],
                &LocalTiers::default(),
                DAWN,
            )
            .unwrap();
        assert_eq!(
            Enforcer::detach(&bpffs.pin_dir()).unwrap(),
            Some(Vec::new())
        );
        assert!(!bpffs.pin_dir().exists());
        assert!(Enforcer::inspect(&bpffs.pin_dir()).unwrap().is_none());
        assert_eq!(Enforcer::detach(&bpffs.pin_dir()).unwrap(), None);
    });
}

#[test]
fn pinned_flow_tables_keep_their_size() {
    let bpffs = Bpffs::new();
    drop(bpffs.enforcer());
    let options = EnforcerOptions {
        flows: 4096,
        behaviour: Behaviour::default(),
        ..bpffs.options()
    };
    assert!(Enforcer::open(options).is_ok());
}

#[test]
fn a_directory_that_is_no_bpf_file_system_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let options = EnforcerOptions {
        pin_dir: directory.path().join("bulkhead").join("v1"),
        interfaces: Vec::new(),
        flows: 1024,
        behaviour: Behaviour::default(),
        hooking: HookingChoice::Automatic,
    };
    let error = Enforcer::open(options).err().unwrap();
    assert_eq!(error.exit_code(), 69);
    assert!(
        error.to_string().contains("run `mount -t bpf bpf"),
        "{error}"
    );
}
