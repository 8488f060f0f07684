//! What others do on a policed interface, and to it: programs before and after ours, a file system
//! without room, interfaces that go, come back and move.

use std::{
    fs,
    net::UdpSocket,
    os::fd::AsFd as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    attaching::ip,
    wire::{INTERFACE, Wire},
    *,
};
use crate::{
    fail,
    kernel::{
        Changes,
        testing::{LetsThrough, in_own_namespace, link_pins, runs_tcx},
    },
};

/// An interface with packets on it, and what enforces there.
fn policed_wire(bpffs: &Bpffs, hooking: HookingChoice) -> (Wire, Enforcer) {
    let wire = Wire::new();
    let mut enforcer = bpffs.enforcer_on(hooking, INTERFACE).unwrap();
    apply(&mut enforcer, 1);
    assert_eq!(enforcer.attach().unwrap(), [INTERFACE]);
    wire.check("at first");
    (wire, enforcer)
}

fn apply(enforcer: &mut Enforcer, revision: u8) {
    let policy = Wire::policy(revision.into());
    let local = LocalTiers::default();
    enforcer
        .apply(&policy, [revision; 32], &local, DAWN)
        .unwrap();
}

fn index() -> u32 {
    let path = format!("/sys/class/net/{INTERFACE}/ifindex");
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

fn interface() -> Interface {
    Interface {
        index: index(),
        name: INTERFACE.into(),
    }
}

/// What `tc` shows of filters, and the kernel of TCX programs.
fn tc(arguments: &str) -> String {
    let output = Command::new("tc")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "tc {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_program_that_is_put_before_ours_is_behind_it_at_the_next_look_and_stays_there() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let (wire, mut enforcer) = policed_wire(&bpffs, HookingChoice::Tcx);
        let other = LetsThrough::load();
        for _ in 0..2 {
            let links = other.attach_first(&interface());
            assert!(wire.leaks(), "else this test would show nothing");
            assert_eq!(enforcer.attach().unwrap(), [INTERFACE]);
            wire.check("with another program behind ours");
            assert!(enforcer.attach().unwrap().is_empty(), "it stands");
            for link in &links {
                assert_eq!(link.state().unwrap().interface, Some(index()));
            }
            apply(&mut enforcer, 2);
            wire.check("after an apply");
            apply(&mut enforcer, 1);
            // A link that is only dropped ends some time later, and the kernel takes a program once.
            for link in &links {
                link.detach().unwrap();
            }
        }
        let pins = ["egress", "ingress"].map(|hook| format!("{}-{hook}", index()));
        assert_eq!(link_pins(&bpffs.pin_dir()), pins, "no stale copy");
        wire.finish();
    });
}

#[test]
fn a_filter_that_is_put_before_ours_is_behind_it_at_the_next_look_and_stays_there() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let (wire, mut enforcer) = policed_wire(&bpffs, HookingChoice::Clsact);
        let elsewhere = Bpffs::new();
        let pin = elsewhere
            .pin_dir()
            .parent()
            .unwrap()
            .with_file_name("other");
        LetsThrough::load().pin(&pin);
        for round in 1..3 {
            for hook in ["ingress", "egress"] {
                let pin = pin.display();
                tc(&format!(
                    "filter add dev {INTERFACE} {hook} pref 1 handle {round} bpf direct-action object-pinned {pin}"
                ));
            }
            assert!(wire.leaks(), "else this test would show nothing");
            assert_eq!(enforcer.attach().unwrap(), [INTERFACE]);
            wire.check("with another filter behind ours");
            assert!(enforcer.attach().unwrap().is_empty(), "it stands");
            let filters = tc(&format!("filter show dev {INTERFACE} ingress"));
            assert_eq!(filters.matches("bulkhead_ingress").count(), 1, "{filters}");
            assert_eq!(
                filters.matches("object-pinned").count() + filters.matches("handle 0x").count(),
                1 + round,
                "{filters}"
            );
        }
        // Also when it is a new agent that looks.
        drop(enforcer);
        let mut enforcer = bpffs.enforcer_on(HookingChoice::Clsact, INTERFACE).unwrap();
        apply(&mut enforcer, 1);
        assert_eq!(enforcer.attach().unwrap(), [INTERFACE]);
        wire.check("after a restart");
        wire.finish();
    });
}

#[test]
fn programs_of_another_way_of_hooking_are_replaced_and_do_not_stay() {
    for [first, second] in [
        [HookingChoice::Tcx, HookingChoice::Clsact],
        [HookingChoice::Clsact, HookingChoice::Tcx],
    ] {
        in_own_namespace(|| {
            let bpffs = Bpffs::new();
            let (wire, enforcer) = policed_wire(&bpffs, first);
            drop(enforcer);
            let mut enforcer = bpffs.enforcer_on(second, INTERFACE).unwrap();
            wire.check("before it attaches");
            apply(&mut enforcer, 2);
            assert_eq!(enforcer.attach().unwrap(), [INTERFACE]);
            wire.check("after it");
            let filters = tc(&format!("filter show dev {INTERFACE} ingress"));
            let clsact = usize::from(second == HookingChoice::Clsact);
            assert_eq!(filters.matches("bulkhead_ingress").count(), clsact);
            assert_eq!(link_pins(&bpffs.pin_dir()).is_empty(), clsact == 1);
            wire.finish();
        });
    }
}

/// As on a file system that takes no pin: a BPF file system has no size of its own to fill.
fn without_room<T>(operation: impl FnOnce() -> T) -> T {
    let full = |doing: &str| match doing.starts_with("pinning") || doing.contains(" pin ") {
        true => Err(std::io::ErrorKind::StorageFull.into()),
        false => Ok(()),
    };
    fail::run(full, operation)
}

#[test]
fn a_full_bpffs_leaves_what_is_enforced_and_a_new_interface_is_policed() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let (wire, enforcer) = policed_wire(&bpffs, HookingChoice::Tcx);
        drop(enforcer);
        without_room(|| {
            let mut enforcer = bpffs.enforcer_on(HookingChoice::Tcx, INTERFACE).unwrap();
            apply(&mut enforcer, 2);
            enforcer.attach().unwrap();
        });
        wire.check("without room");
        wire.remove();

        let wire = Wire::new();
        let mut enforcer = bpffs.enforcer_on(HookingChoice::Tcx, INTERFACE).unwrap();
        apply(&mut enforcer, 2);
        for _ in 0..2 {
            let error = without_room(|| enforcer.attach()).unwrap_err().to_string();
            assert!(error.contains("as long as the agent runs"), "{error}");
            wire.check("with links that are not pinned");
        }
        assert_eq!(enforcer.attach().unwrap(), [INTERFACE]);
        drop(enforcer);
        wire.check("with links that are");
        wire.finish();
    });
}

#[test]
fn an_interface_that_goes_and_comes_back_is_policed_again_and_has_one_copy() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let bpffs = Bpffs::new();
            let (wire, mut enforcer) = policed_wire(&bpffs, hooking);
            wire.finish();
            wire.remove();
            assert!(enforcer.attach().unwrap().is_empty());
            assert!(link_pins(&bpffs.pin_dir()).is_empty());
            let changes = Changes::listen().unwrap();
            let wire = Wire::new();
            assert!(
                changes.wait().unwrap().network,
                "the kernel says that it came"
            );
            assert_eq!(enforcer.attach().unwrap(), [INTERFACE]);
            wire.check("on the one that came back");
            wire.finish();
        });
    }
}

/// How long a new interface may be open, from before it is made, on a busy machine. A quiet one takes
/// milliseconds.
const OPEN: Duration = Duration::from_secs(1);

#[test]
fn a_new_interface_is_open_until_the_agent_has_heard_of_it_and_no_longer() {
    const DENIED: usize = 100;
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let bpffs = Bpffs::new();
            let (wire, mut enforcer) = policed_wire(&bpffs, hooking);
            wire.remove();
            let wire = Wire::new();
            assert!(wire.leaks(), "nobody has attached to it");
            wire.remove();
            assert!(enforcer.attach().unwrap().is_empty());

            let changes = Changes::listen().unwrap();
            thread::scope(|scope| {
                let begun = Instant::now();
                let agent = scope.spawn(move || {
                    while enforcer.attach().unwrap().is_empty() {
                        changes.wait().unwrap();
                    }
                    (begun.elapsed(), enforcer)
                });
                let wire = Wire::new();
                let mut sent = 0;
                while !agent.is_finished() {
                    wire.send(5001);
                    sent += 1;
                }
                let (open, enforcer) = agent.join().unwrap();
                // What was under way.
                thread::sleep(Duration::from_millis(100));
                let leaked = wire.leaked();
                println!("{hooking:?}: policed after {open:?}; {leaked} of {sent} came through");
                assert!(open < OPEN, "{open:?}");
                let denied = || enforcer.counters().unwrap().packets_denied;
                let before = denied();
                for _ in 0..DENIED {
                    wire.send(5001);
                }
                wire.finish();
                assert_eq!(denied() - before, DENIED as u64);
            });
        });
    }
}

#[test]
fn an_interface_that_is_renamed_loses_no_packet() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let bpffs = Bpffs::new();
            let (wire, mut enforcer) = policed_wire(&bpffs, hooking);
            // Since Linux 6.2 also while it is up.
            for (from, to) in [(INTERFACE, "renamed"), ("renamed", INTERFACE)] {
                ip(&format!("link set {from} name {to}"));
                wire.check("under another name");
                assert!(enforcer.attach().unwrap().is_empty());
                wire.check("after a look");
            }
            wire.finish();
        });
    }
}

#[test]
fn an_interface_that_is_moved_to_another_namespace_takes_no_copy_along() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let bpffs = Bpffs::new();
            let (wire, mut enforcer) = policed_wire(&bpffs, hooking);
            let name = format!("bhmove{}", rustix::thread::gettid().as_raw_nonzero());
            ip(&format!("netns add {name}"));
            let _removed = Removed(&name);
            ip(&format!("link set {INTERFACE} netns {name}"));
            assert!(enforcer.attach().unwrap().is_empty());
            assert!(link_pins(&bpffs.pin_dir()).is_empty(), "{hooking:?}");
            let there = |command: &str| {
                let mut ip = Command::new("ip");
                let ip = ip.args(["netns", "exec", &name]);
                let output = ip.args(command.split_whitespace()).output().unwrap();
                assert!(output.status.success(), "{command}: {output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            for hook in ["ingress", "egress"] {
                let filters = there(&format!("tc filter show dev {INTERFACE} {hook}"));
                assert!(!filters.contains("bulkhead"), "{filters}");
            }
            let index = there(&format!("cat /sys/class/net/{INTERFACE}/ifindex"));
            let index = index.trim().parse().unwrap();
            assert!(!inside(&name, || runs_tcx(index)), "{hooking:?}");
            let denied = || enforcer.counters().unwrap().packets_denied;
            let before = denied();
            expect_nothing_is_cut(&wire, &name);
            assert_eq!(denied(), before, "what is judged here is not what is there");

            let here = rustix::thread::gettid().as_raw_nonzero();
            there(&format!("ip link set {INTERFACE} netns {here}"));
            assert!(Path::new("/sys/class/net").join(INTERFACE).exists());
            // It comes back without an address, and is policed before it has one.
            assert_eq!(enforcer.attach().unwrap(), [INTERFACE], "{hooking:?}");
            Wire::set_up();
            wire.wait_up();
            let denied = || enforcer.counters().unwrap().packets_denied;
            let before = denied();
            wire.check("on the interface that is back");
            assert_eq!(denied() - before, 3, "each that was denied");
            wire.finish();
        });
    }
}

/// In another namespace, where nobody polices, all that is sent arrives.
fn expect_nothing_is_cut(wire: &Wire, namespace: &str) {
    let sockets = inside(namespace, || {
        Wire::set_up();
        [5000, 5001].map(|port| (port, UdpSocket::bind(("10.9.0.1", port)).unwrap()))
    });
    for (port, socket) in sockets {
        for number in 0..10 {
            assert!(wire.send(port));
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let heard = socket.recv_from(&mut [0; 8]);
            assert!(heard.is_ok(), "datagram {number} to {port}: {heard:?}");
        }
    }
}

/// Runs something in a named namespace.
fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = fs::File::open(Path::new("/run/netns").join(name)).unwrap();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

/// Removes a named namespace in the end.
struct Removed<'a>(&'a str);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        ip(&format!("netns delete {}", self.0));
    }
}
