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
    enforcer::tests::{
        HOOKINGS,
        wire::{INTERFACE, Wire},
    },
    fail,
    kernel::{Hooking, testing::in_own_namespace},
};

/// Steps of one kind in a row of which one is looked at.
const STRIDE: usize = 257;

/// What an operation does, step by step.
type Steps = Rc<RefCell<Vec<&'static str>>>;

/// A host with a policed interface, and packets on it.
struct Machine {
    bpffs: Bpffs,
    hooking: Hooking,
    state: Arc<StateDir>,
    wire: Rc<Wire>,
    revision: u64,
    _directory: tempfile::TempDir,
}

impl Machine {
    /// One that enforces revision 1.
    fn new(hooking: Hooking) -> (Self, EnforcementTask) {
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

    /// Runs an operation with packets at its steps, and fails the step of this number, if there is one.
    fn watch<T>(&self, fails: Option<usize>, operation: impl FnOnce() -> T) -> (T, Steps) {
        let steps = Steps::default();
        let (wire, seen) = (Rc::clone(&self.wire), Rc::clone(&steps));
        let watch = move |doing| {
            let mut seen = seen.borrow_mut();
            let number = seen.len();
            if seen.last() != Some(&doing) || number % STRIDE == 0 {
                wire.check(doing);
            }
            seen.push(doing);
            match fails {
                Some(fails) if fails == number => Err(io::Error::from(io::ErrorKind::StorageFull)),
                _ => Ok(()),
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

/// The first and last steps of each kind in a row, and some between.
fn interesting(steps: &Steps) -> Vec<usize> {
    let steps = steps.borrow();
    (0..steps.len())
        .filter(|number| {
            let same = |other: usize| steps.get(other) == Some(&steps[*number]);
            number % STRIDE == 0 || *number == 0 || !same(number - 1) || !same(number + 1)
        })
        .collect()
}

/// Takes policies one after the other, each failing at another step; afterwards the agent is as `go_on`
/// leaves it.
fn fail_everywhere(go_on: fn(&Machine, EnforcementTask) -> EnforcementTask) {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let (mut machine, mut task) = Machine::new(hooking);
            machine.revision += 1;
            let policy = machine.policy();
            let (taken, steps) = machine.watch(None, || task.take(policy));
            taken.unwrap();
            let points = interesting(&steps);
            assert!(points.len() > 20, "{points:?}");
            let mut before = machine.revision;
            let mut after_the_flip = 0;
            for point in points {
                machine.revision += 1;
                let policy = machine.policy();
                let (taken, steps) = machine.watch(Some(point), || task.take(policy));
                task = go_on(&machine, task);
                let enforced = machine.enforced(&task);
                // The last steps may be fewer than they were the first time.
                let doing = steps.borrow().get(point).copied();
                let expected = match taken {
                    Ok(_) => machine.revision,
                    Err(_) => before,
                };
                assert_eq!(enforced, expected, "ended when {doing:?}");
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
    fail_everywhere(|_, task| task);
}

#[test]
fn an_agent_that_ends_at_any_step_of_an_apply_comes_back_without_a_gap() {
    fail_everywhere(|machine, task| {
        drop(task);
        machine.wire.check("without an agent");
        let (task, _) = machine.watch(None, || machine.start());
        task.unwrap()
    });
}

/// Starts an agent that ends at each step of its start, then one that does not.
fn start_everywhere(machine: &Machine, prepare: impl Fn(&Machine)) -> EnforcementTask {
    let mut point = 0;
    loop {
        prepare(machine);
        let (started, steps) = machine.watch(Some(point), || machine.start());
        machine.wire.check("after a start that failed");
        let over = steps.borrow().len() <= point;
        let task = match started {
            Ok(task) if over => return task,
            Ok(task) => Some(task),
            Err(_) => None,
        };
        drop(task);
        // The pages of an apply are all alike; the other tests look at them.
        let alike = steps.borrow().get(point) == Some(&"writing a page of ports");
        point += if alike { STRIDE } else { 1 };
    }
}

#[test]
fn an_agent_that_ends_at_any_step_of_its_start_leaves_enforcement_as_it_is() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let (machine, task) = Machine::new(hooking);
            drop(task);
            let task = start_everywhere(&machine, |_| {});
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
            let mut task = start_everywhere(&machine, |_| {});
            assert_eq!(layouts(&machine.bpffs.pin_dir()), ["v1"], "no stale copy");
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
            assert_eq!(task.facts.borrow().applied, None);
            task.look_after();
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
