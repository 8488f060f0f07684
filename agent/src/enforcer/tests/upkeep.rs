//! Whatever holds enforcement up: pins that are removed, a file system that is unmounted, qdiscs that are
//! deleted, an interface that cannot be policed; and what it costs to look after many.

use std::{fs, process::Command};

use rustix::mount::{UnmountFlags, unmount};

use super::{
    attaching::{enforcer, ip, veth},
    wire::{INTERFACE, Wire},
    *,
};
use crate::kernel::{
    Changes, Lost,
    testing::{in_own_namespace, link_pins},
};

fn tc(arguments: &str) {
    let status = Command::new("tc")
        .args(arguments.split_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "tc {arguments}");
}

/// A wire that is policed: what is allowed passes, what is denied does not.
fn policed_wire(bpffs: &Bpffs, hooking: HookingChoice) -> (Wire, Enforcer) {
    let wire = Wire::new();
    let mut enforcer = bpffs.enforcer_on(hooking, INTERFACE).unwrap();
    let local = LocalTiers::default();
    enforcer
        .apply(&Wire::policy(1), [1; 32], &local, DAWN)
        .unwrap();
    assert_eq!(enforcer.attach().unwrap(), [INTERFACE]);
    assert_eq!(enforcer.take_disturbances(), []);
    (wire, enforcer)
}

fn status(bpffs: &Bpffs) -> Inspection {
    Enforcer::inspect(&bpffs.pin_dir()).unwrap().unwrap()
}

#[test]
fn pins_that_are_removed_are_made_again_and_no_packet_is_lost_or_let_through_meanwhile() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let bpffs = Bpffs::new();
            let (wire, mut enforcer) = policed_wire(&bpffs, hooking);
            let pins = link_pins(&bpffs.pin_dir());
            fs::remove_dir_all(bpffs.pin_dir()).unwrap();
            // The kernel frees what was pinned some time later.
            std::thread::sleep(Duration::from_millis(100));
            wire.check("without pins");
            let Inspection {
                interfaces,
                is_pinned,
                ..
            } = status(&bpffs);
            assert_eq!(interfaces, [INTERFACE], "it denies, and status says so");
            assert!(!is_pinned);

            assert!(enforcer.look(&Changed::default()).unwrap().is_empty());
            let disturbances = enforcer.take_disturbances();
            assert_eq!(disturbances, [Disturbance::Unpinned(Lost::Pins)]);
            assert_eq!(link_pins(&bpffs.pin_dir()), pins);
            assert!(status(&bpffs).is_pinned);
            // The next agent finds all that the first one had.
            let live = enforcer.live().unwrap();
            drop(enforcer);
            wire.check("after the agent has stopped");
            let mut next = bpffs.enforcer_on(hooking, INTERFACE).unwrap();
            assert_eq!(next.live().unwrap(), live);
            assert_eq!(next.attach().unwrap(), [INTERFACE]);
            wire.check("under the next agent");
            wire.finish();
        });
    }
}

#[test]
fn a_bpffs_that_is_unmounted_is_mounted_again_with_all_pins() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let (wire, mut enforcer) = policed_wire(&bpffs, HookingChoice::Tcx);
        let mount_point = bpffs.pin_dir().ancestors().nth(2).unwrap().to_owned();
        unmount(&mount_point, UnmountFlags::DETACH).unwrap();
        wire.check("without a file system");
        assert!(enforcer.look(&Changed::default()).unwrap().is_empty());
        let disturbances = enforcer.take_disturbances();
        assert_eq!(disturbances, [Disturbance::Unpinned(Lost::FileSystem)]);
        assert_eq!(enforcer.coverage().problems, [""; 0]);
        assert!(status(&bpffs).is_pinned);
        drop(enforcer);
        wire.check("after the agent has stopped");
        wire.finish();
    });
}

#[test]
fn links_without_pins_are_ended_by_detach() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let (wire, _enforcer) = policed_wire(&bpffs, HookingChoice::Tcx);
        fs::remove_dir_all(bpffs.pin_dir()).unwrap();
        let detached = Enforcer::detach(&bpffs.pin_dir()).unwrap();
        assert_eq!(detached, Some(vec![INTERFACE.to_owned()]));
        assert!(wire.leaks());
    });
}

#[test]
fn a_clsact_qdisc_that_is_deleted_is_heard_of_put_back_and_told() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let (wire, mut enforcer) = policed_wire(&bpffs, HookingChoice::Clsact);
        let changes = Changes::listen().unwrap();
        tc(&format!("qdisc del dev {INTERFACE} clsact"));
        assert!(wire.leaks(), "else this test would show nothing");
        let changed = changes.wait().unwrap();
        assert!(!changed.filters.is_empty(), "{changed:?}");
        assert_eq!(enforcer.look(&changed).unwrap(), [INTERFACE]);
        wire.check("after a look");
        let disturbances = enforcer.take_disturbances();
        assert_eq!(disturbances, [Disturbance::TakenOff(INTERFACE.into())]);
        // What the agent itself has changed is no news.
        let changed = changes.wait().unwrap();
        assert!(enforcer.look(&changed).unwrap().is_empty());
        assert_eq!(enforcer.take_disturbances(), []);
        wire.finish();
    });
}

#[test]
fn a_program_that_is_put_before_ours_is_told_once_and_by_name() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let (wire, mut enforcer) = policed_wire(&bpffs, HookingChoice::Tcx);
        let interface = attaching::interface(INTERFACE);
        let _links = kernel::testing::LetsThrough::load().attach_first(&interface);
        assert_eq!(enforcer.look(&Changed::default()).unwrap(), [INTERFACE]);
        let told = [Disturbance::OvertakenOn(INTERFACE.into())];
        assert_eq!(enforcer.take_disturbances(), told);
        wire.check("after a look");
        assert!(enforcer.look(&Changed::default()).unwrap().is_empty());
        assert_eq!(enforcer.take_disturbances(), []);
        wire.finish();
    });
}

#[test]
fn an_ingress_qdisc_on_one_interface_leaves_the_others_policed() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        veth("bh0");
        veth("bh1");
        tc("qdisc add dev bh0 ingress");
        let mut enforcer = enforcer(&bpffs, HookingChoice::Clsact, &["bh0", "bh1"]);
        let Err(EnforceError::Shortfall(shortfall)) = enforcer.attach() else {
            panic!("nothing was said of bh0")
        };
        assert!(shortfall.is_of_single_interfaces());
        let Coverage {
            policed,
            unpoliced,
            problems,
        } = enforcer.coverage().clone();
        assert_eq!(policed.len(), 1);
        assert_eq!(policed[0].name, "bh1");
        let failed = unpoliced.iter().find(|it| it.name == "bh0").unwrap();
        assert_eq!((failed.reason, failed.is_problem), (Reason::Failed, true));
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("tc qdisc del dev bh0"), "{problems:?}");
        // It is policed once the operator has made room.
        let changes = Changes::listen().unwrap();
        tc("qdisc del dev bh0 ingress");
        let changed = changes.wait().unwrap();
        assert_eq!(enforcer.look(&changed).unwrap(), ["bh0"]);
        assert_eq!(enforcer.coverage().problems, [""; 0]);
    });
}

#[test]
fn an_interface_that_does_not_exist_is_a_problem_until_it_does() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        veth("eth0");
        let mut enforcer = enforcer(&bpffs, HookingChoice::Automatic, &["ens3"]);
        assert!(enforcer.attach().unwrap().is_empty());
        let coverage = enforcer.coverage();
        assert_eq!(coverage.policed, []);
        assert!(coverage.problems[0].contains("interface ens3: does not exist"));
        ip("link set eth0 down");
        ip("link set eth0 name ens3");
        assert_eq!(enforcer.attach().unwrap(), ["ens3"]);
        assert_eq!(enforcer.coverage().problems, [""; 0]);
    });
}

/// Interfaces of a host with many containers or VLANs.
const MANY: usize = 500;

#[test]
fn an_idle_look_at_five_hundred_interfaces_costs_two_queries_each_and_lists_nothing() {
    in_own_namespace(|| {
        let mut commands = String::new();
        for number in (0..MANY).step_by(2) {
            let peer = number + 1;
            commands.push_str(&format!(
                "link add bh{number} type veth peer name bh{peer}\n"
            ));
        }
        let batch = tempfile::NamedTempFile::new().unwrap();
        fs::write(batch.path(), commands).unwrap();
        ip(&format!("-batch {}", batch.path().display()));
        for (hooking, most) in [(HookingChoice::Tcx, 2 * MANY), (HookingChoice::Clsact, 0)] {
            let bpffs = Bpffs::new();
            let names: Vec<String> = (0..MANY).map(|number| format!("bh{number}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut enforcer = enforcer(&bpffs, hooking, &names);
            assert_eq!(enforcer.attach().unwrap().len(), MANY);
            let (asked, spent) = measured(|| {
                assert!(enforcer.look(&Changed::default()).unwrap().is_empty());
            });
            println!("{hooking:?}: {asked} system calls about interfaces, {spent:?} of a core");
            assert!(asked <= most + 8, "{asked} for {MANY} interfaces");
            Enforcer::detach(&bpffs.pin_dir()).unwrap();
        }
    });
}

/// How often the kernel was asked about interfaces in a piece of work, and its CPU time on this thread.
fn measured(work: impl FnOnce()) -> (usize, Duration) {
    let clock = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let asked = kernel::testing::questions();
    let begun = clock();
    work();
    (kernel::testing::questions() - asked, clock() - begun)
}
