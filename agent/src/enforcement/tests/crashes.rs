//! An agent that ends, or a write that fails, between any two steps: real packets cross the interface at
//! each step, and none that is denied arrives, and each that is allowed.

use std::{
    cell::RefCell,
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::*;
use crate::{
    config::HookingChoice,
    enforcer::tests::{
        HOOKINGS,
        wire::{INTERFACE, Wire},
    },
    fail,
    kernel::testing::in_own_namespace,
};

mod one_address;

/// Steps of one kind in a row of which one is looked at.
const STRIDE: usize = 257;

/// What an operation does, step by step.
type Steps = Rc<RefCell<Vec<&'static str>>>;

/// A host with a policed interface, and packets on it.
struct Machine {
    bpffs: Bpffs,
    hooking: HookingChoice,
    state: Arc<StateDir>,
    wire: Rc<Wire>,
    revision: u64,
    _directory: tempfile::TempDir,
}

impl Machine {
    /// One that enforces revision 1.
    fn new(hooking: HookingChoice) -> (Self, EnforcementTask) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap().into();
        let machine = Self {
            bpffs: Bpffs::new(),
            hooking,
            state,
            wire: Wire::new().into(),
            revision: 1,
            _directory: directory,
        };
        let mut task = machine.start().unwrap();
        task.take(machine.policy()).unwrap();
        machine.wire.check("at first");
        (machine, task)
    }

    fn policy(&self) -> EncodedPolicy {
        EncodedPolicy::encode(Wire::policy(self.revision))
    }

    fn start(&self) -> Result<EnforcementTask, EnforceError> {
        let enforcer = self.bpffs.enforcer_on(self.hooking, INTERFACE)?;
        let (local, clock) = (LocalTiers::default(), Clock::of_host());
        let state = Arc::clone(&self.state);
        let patience = Some(Duration::from_secs(30));
        Ok(EnforcementTask::start(enforcer, state, local, clock, patience)?.task)
    }

    /// Runs an operation with packets at its steps, and fails this one, if it is taken.
    fn watch<T>(&self, fails: Option<Point>, operation: impl FnOnce() -> T) -> (T, Steps) {
        self.watch_with(move |point| fails == Some(point), operation)
    }

    /// Runs an operation with packets at its steps, and fails from this one on: the agent is dead.
    fn watch_dying<T>(&self, dies: Point, operation: impl FnOnce() -> T) -> T {
        let mut is_dead = false;
        let fails = move |point| {
            is_dead |= point == dies;
            is_dead
        };
        self.watch_with(fails, operation).0
    }

    fn watch_with<T>(
        &self,
        mut fails: impl FnMut(Point) -> bool + 'static,
        operation: impl FnOnce() -> T,
    ) -> (T, Steps) {
        let steps = Steps::default();
        let (wire, seen) = (Rc::clone(&self.wire), Rc::clone(&steps));
        let watch = move |doing| {
            let mut seen = seen.borrow_mut();
            let number = seen.len();
            if seen.last() != Some(&doing) || number % STRIDE == 0 {
                wire.check(doing);
            }
            let before = seen.iter().filter(|step| **step == doing).count();
            seen.push(doing);
            if fails((doing, before)) {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            } else {
                Ok(())
            }
        };
        (fail::run(watch, operation), steps)
    }

    /// The policy that the kernel enforces, by its revision.
    fn enforced(&self, task: &EnforcementTask) -> u64 {
        let live = task.enforcer.live().unwrap().unwrap();
        let policy = EncodedPolicy::encode(Wire::policy(live.revision.0));
        assert_eq!(policy.digest(), live.digest);
        live.revision.0
    }

    /// Renames the pins as those of another layout.
    fn age(&self, flows: bool) -> PathBuf {
        let pin_dir = self.bpffs.pin_dir();
        let older = pin_dir.with_file_name("v0");
        fs::rename(&pin_dir, &older).unwrap();
        let flow_layout = older.join(crate::kernel::flow_layout());
        assert!(flow_layout.exists());
        if !flows {
            fs::remove_dir(flow_layout).unwrap();
        }
        older
    }
}

/// A step: what it does, and how often that was done before in the same operation.
type Point = (&'static str, usize);

/// The first and the last step of each kind: between these all are alike.
fn ends_of_kinds(steps: &Steps) -> Vec<Point> {
    let steps = steps.borrow();
    let mut counts: Vec<Point> = Vec::new();
    for step in steps.iter() {
        match counts.iter_mut().find(|(kind, _)| kind == step) {
            Some((_, count)) => *count += 1,
            None => counts.push((step, 1)),
        }
    }
    let mut points = Vec::new();
    for (kind, count) in counts {
        points.push((kind, 0));
        points.extend((count > 1).then_some((kind, count - 1)));
    }
    points
}

/// Takes policies one after the other, each failing at another step; afterwards the agent is as `go_on`
/// leaves it.
fn fail_everywhere(
    hookings: &[HookingChoice],
    go_on: fn(&Machine, EnforcementTask) -> EnforcementTask,
) {
    for hooking in hookings {
        in_own_namespace(|| {
            let (mut machine, mut task) = Machine::new(*hooking);
            machine.revision += 1;
            let policy = machine.policy();
            let (taken, steps) = machine.watch(None, || task.take(policy));
            taken.unwrap();
            let points = ends_of_kinds(&steps);
            assert!(points.len() > 12, "{points:?}");
            let mut before = machine.revision;
            let mut after_the_flip = 0;
            for point in points {
                machine.revision += 1;
                let policy = machine.policy();
                let (taken, _) = machine.watch(Some(point), || task.take(policy));
                task = go_on(&machine, task);
                let enforced = machine.enforced(&task);
                let expected = match taken {
                    Ok(_) => machine.revision,
                    Err(_) => before,
                };
                assert_eq!(enforced, expected, "ended at {point:?}");
                after_the_flip += u32::from(taken.is_ok());
                machine.wire.check("after a failure");
                before = enforced;
            }
            assert!(after_the_flip > 0, "some steps come after the flip");
            machine.wire.finish();
        });
    }
}

#[test]
fn a_write_that_fails_at_any_step_of_an_apply_changes_nothing_and_the_next_apply_works() {
    // No step of an apply asks how the programs are attached.
    fail_everywhere(&[HookingChoice::Tcx], |_, task| task);
}

#[test]
fn an_agent_that_ends_at_any_step_of_an_apply_comes_back_without_a_gap() {
    fail_everywhere(&HOOKINGS, |machine, task| {
        drop(task);
        machine.wire.check("without an agent");
        let (task, _) = machine.watch(None, || machine.start());
        task.unwrap()
    });
}

/// Starts agents that end at one step of their start each, and at last one that does not.
fn start_everywhere(machine: &Machine, points: Vec<Point>) -> EnforcementTask {
    for point in points {
        drop(machine.watch(Some(point), || machine.start()));
        machine.wire.check("after a start that failed");
    }
    machine.start().unwrap()
}

#[test]
fn an_agent_that_ends_at_any_step_of_its_start_leaves_enforcement_as_it_is() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let (machine, task) = Machine::new(hooking);
            drop(task);
            let (task, steps) = machine.watch(None, || machine.start());
            drop(task.unwrap());
            let points = ends_of_kinds(&steps);
            assert!(!points.is_empty());
            let task = start_everywhere(&machine, points);
            assert_eq!(machine.enforced(&task), machine.revision);
            machine.wire.finish();
        });
    }
}

/// The directories of pins.
fn layouts(pin_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(pin_dir.parent().unwrap()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn an_upgrade_with_another_map_layout_ends_at_any_step_and_loses_no_flow() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let (mut machine, task) = Machine::new(hooking);
            drop(task);
            machine.age(true);
            let (task, steps) = machine.watch(None, || machine.start());
            drop(task.unwrap());
            let points = ends_of_kinds(&steps);
            // Its own tables are filled first: that is an apply. What follows begins anew each time.
            let (filling, taking): (Vec<Point>, Vec<Point>) = points
                .into_iter()
                .partition(|(doing, _)| !doing.starts_with("tak") && !doing.starts_with("mov"));
            assert!(filling.len() > 8 && !taking.is_empty());
            machine.age(true);
            drop(start_everywhere(&machine, filling));
            for point in taking {
                machine.age(true);
                drop(start_everywhere(&machine, vec![point]));
            }
            assert_eq!(layouts(&machine.bpffs.pin_dir()), ["v1"], "no stale copy");
            let mut task = machine.start().unwrap();
            assert_eq!(machine.enforced(&task), machine.revision);
            machine.revision += 1;
            task.take(machine.policy()).unwrap();
            assert_eq!(machine.enforced(&task), machine.revision);
            machine.wire.check("after the upgrade");
            machine.wire.finish();
        });
    }
}

#[test]
fn an_upgrade_with_another_flow_layout_begins_with_new_flow_tables() {
    in_own_namespace(|| {
        let (machine, task) = Machine::new(HookingChoice::Tcx);
        drop(task);
        machine.age(false);
        let task = machine.start().unwrap();
        // What is asked after the upgrade opens its flow anew.
        machine.wire.check("after the upgrade");
        assert_eq!(layouts(&machine.bpffs.pin_dir()), ["v1"]);
        assert_eq!(machine.enforced(&task), machine.revision);
        machine.wire.finish();
    });
}

#[test]
fn a_policy_in_the_kernel_is_not_refused_when_a_hook_does_not_change_hands() {
    for (hooking, step) in [
        (HOOKINGS[0], "taking over a link"),
        (HOOKINGS[1], "taking over a filter"),
    ] {
        in_own_namespace(|| {
            let (mut machine, task) = Machine::new(hooking);
            drop(task);
            machine.age(true);
            for name in ["policy.good", "policy.trial"] {
                machine.state.remove(name).unwrap();
            }
            let mut task = machine.start().unwrap();
            machine.revision += 1;
            let policy = machine.policy();
            let digest = policy.digest();
            let (taken, _) = machine.watch(Some((step, 0)), || task.take(policy));
            assert_eq!(taken.unwrap().digest, digest);
            assert_eq!(machine.enforced(&task), machine.revision);
            assert!(task.enforcer.has_predecessor());
            task.look_after(&Changed::anything());
            assert!(!task.enforcer.has_predecessor(), "at the next look");
            assert_eq!(layouts(&machine.bpffs.pin_dir()), ["v1"]);
            machine.wire.check("with its own");
            machine.wire.finish();
        });
    }
}

#[test]
fn an_upgrade_without_the_policy_on_disk_leaves_the_other_version_in_force_until_it_comes() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let (machine, task) = Machine::new(hooking);
            drop(task);
            machine.age(true);
            for name in ["policy.good", "policy.trial"] {
                machine.state.remove(name).unwrap();
            }
            let mut task = machine.start().unwrap();
            machine.wire.check("with the other version's tables");
            assert!(task.enforcer.has_predecessor());
            let seen = Enforcer::inspect(&machine.bpffs.pin_dir());
            let seen = seen.unwrap().unwrap();
            assert_eq!(seen.predecessor.as_deref(), Some("v0"));
            assert_eq!(seen.interfaces, [INTERFACE]);
            assert_eq!(task.facts.borrow().applied, None);
            task.look_after(&Changed::anything());
            let policy = machine.policy();
            let (taken, _) = machine.watch(None, || task.take(policy));
            taken.unwrap();
            assert!(!task.enforcer.has_predecessor());
            assert_eq!(layouts(&machine.bpffs.pin_dir()), ["v1"]);
            machine.wire.check("with its own");
            machine.wire.finish();
        });
    }
}
