//! The kernel: loading the programs, adopting what is pinned, attaching to interfaces.
//!
//! This file and those below it are the only ones of the agent that know aya.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    thread,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::MapData,
    programs::{Program, ProgramError, SchedClassifier},
};

use rustix::time::{ClockId, clock_getres};

use crate::{fail, interfaces::Interface};

mod attach;
mod batch;
mod changes;
mod clsact;
mod detach;
mod error;
mod events;
mod flows;
mod link;
mod maps;
mod memory;
mod netlink;
mod permission;
mod pins;
mod predecessor;
mod requirements;
mod rtnetlink;
mod shape;
mod standing;
mod test_run;
#[cfg(test)]
pub mod testing;

pub use attach::{Attachment, Hooking};
pub use changes::{Changed, Changes};
pub use error::KernelError;
pub use events::Events;
pub use flows::{Census, KnownFlow, census, flows};
pub use maps::Maps;
pub use memory::give_back;
pub use pins::Lost;
pub use predecessor::Predecessor;
#[cfg(test)]
pub use predecessor::flow_layout;
pub use rtnetlink::{LinkInfo, addresses as list_addresses, links as list_links};
pub use standing::Disturbance;

/// The object that the build script made of the `agent-ebpf` crate.
const OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BULKHEAD_EBPF_OBJECT"));

/// The name of the directory in bpffs that has the pin directories of all versions.
const ALL_VERSIONS: &str = "bulkhead";

const HOOKS: [Hook; 2] = [
    Hook {
        name: "ingress",
        program: "bulkhead_ingress",
        point: link::Point::Ingress,
        parent: clsact::Parent::Ingress,
    },
    Hook {
        name: "egress",
        program: "bulkhead_egress",
        point: link::Point::Egress,
        parent: clsact::Parent::Egress,
    },
];

/// One of the two places where an interface's packets are judged.
struct Hook {
    name: &'static str,
    program: &'static str,
    point: link::Point,
    parent: clsact::Parent,
}

/// The loaded programs. Dropping it detaches nothing: links are pinned, filters belong to the device.
pub struct Programs {
    ebpf: Ebpf,
    pin_dir: PathBuf,
    hooking: Hooking,
    held: attach::Held,
    /// What stands on interfaces, to be asked for at little cost.
    standing: standing::Standing,
    /// The maps, to be pinned again should their pins go.
    pins: pins::Pins,
    /// The size of the flow tables.
    flows: u32,
    /// What an agent of another version left, until its hooks are ours.
    predecessor: Option<Predecessor>,
}

impl Programs {
    /// Loads the programs on the maps pinned in `pin_dir`, making those that are not there.
    ///
    /// # Errors
    /// What the host lacks, or pins of another shape.
    pub fn load(pin_dir: &Path, flows: u32, hooking: Hooking) -> Result<Self, KernelError> {
        requirements::check(bpffs_of(pin_dir))?;
        requirements::lift_memory_limit();
        attach::make_directory(pin_dir)?;
        let predecessor = Predecessor::find(pin_dir)?;
        if let Some(predecessor) = &predecessor {
            let carried = predecessor.share_flows(pin_dir)?;
            tracing::info!(
                from = predecessor.name(),
                carried,
                "an agent of another version enforces: its place is taken once the policy is in the kernel"
            );
        }
        let flows = shape::check(OBJECT, pin_dir, flows)?;
        requirements::lift_file_limit();
        let ebpf = load_programs(pin_dir, flows)?;
        Ok(Self {
            ebpf,
            pin_dir: pin_dir.to_owned(),
            hooking,
            held: Vec::new(),
            standing: standing::Standing::default(),
            pins: pins::Pins::open(pin_dir)?,
            flows,
            predecessor,
        })
    }

    /// What an agent of another version left, and still enforces.
    #[must_use]
    pub fn predecessor(&self) -> Option<&Predecessor> {
        self.predecessor.as_ref()
    }

    /// Takes the place of what an agent of another version left. To be called once our own tables are
    /// live.
    ///
    /// # Errors
    /// As [`Predecessor::take_over`]; another call does the rest.
    pub fn take_over(&mut self, interfaces: &[Interface]) -> Result<(), KernelError> {
        let Some(predecessor) = self.predecessor.take() else {
            return Ok(());
        };
        match predecessor.take_over(self, interfaces) {
            Ok(interfaces) => {
                tracing::info!(
                    from = predecessor.name(),
                    ?interfaces,
                    "the place of the other version is taken, and its pins are removed"
                );
                Ok(())
            }
            Err(error) => {
                self.predecessor = Some(predecessor);
                Err(error)
            }
        }
    }

    fn program(&self, hook: &Hook) -> Result<&SchedClassifier, KernelError> {
        let finding = || format!("finding {}", hook.program);
        let missing = || ProgramError::IOError(io::ErrorKind::NotFound.into());
        let program = self.ebpf.program(hook.program);
        program
            .ok_or_else(missing)
            .and_then(TryInto::try_into)
            .map_err(|error| KernelError::bpf(finding(), error))
    }

    /// Puts both programs on an interface; where an older agent's stand, they are replaced in one
    /// step, without a moment in which none runs.
    ///
    /// # Errors
    /// [`KernelError::Io`], [`KernelError::NotPermitted`], and [`KernelError::Interface`] when
    /// another's filter is in the way.
    pub fn attach(&mut self, interface: &Interface) -> Result<Attachment, KernelError> {
        let stood = self.standing.forget(interface.index);
        let overtaken = self.hooking.is_behind(interface, &self.pin_dir)?;
        if overtaken {
            // The kernel takes a program once on an interface, so the first one is another copy.
            self.ebpf = load_programs(&self.pin_dir, self.flows)?;
            self.standing
                .disturbed(Disturbance::OvertakenOn(interface.name.clone()));
        }
        let mut held = std::mem::take(&mut self.held);
        let attached = self.attach_hooks(interface, &mut held);
        self.held = held;
        match attached? {
            attached @ (Attachment::Unpinned | Attachment::Gone) => Ok(attached),
            attached @ (Attachment::Standing | Attachment::Updated | Attachment::Made) => {
                if attached == Attachment::Made && stood && !overtaken {
                    self.standing
                        .disturbed(Disturbance::TakenOff(interface.name.clone()));
                }
                if attached != Attachment::Standing {
                    detach::remove_others(self.hooking, interface, &self.pin_dir)?;
                }
                self.standing
                    .remember(self.hooking, interface, &self.pin_dir);
                Ok(attached)
            }
        }
    }

    fn attach_hooks(
        &self,
        interface: &Interface,
        held: &mut attach::Held,
    ) -> Result<Attachment, KernelError> {
        let mut attachment = Attachment::Standing;
        for hook in &HOOKS {
            let program = self.program(hook)?;
            let made = self
                .hooking
                .attach(program, interface, hook, &self.pin_dir, held)?;
            attachment = attachment.max(made);
        }
        Ok(attachment)
    }

    /// Whether both programs still run on an interface, first, as this process has put them there. Costs a
    /// system call each where the kernel has links; filters are believed to stand unless they have changed.
    ///
    /// # Errors
    /// [`KernelError::Io`].
    pub fn stands(&self, interface: &Interface, changed: &Changed) -> Result<bool, KernelError> {
        self.standing.stands(interface, changed).map_err(|error| {
            let doing = format!("looking for the programs on {}", interface.name);
            KernelError::syscall(doing, error)
        })
    }

    /// Removes the pins of links whose interfaces are gone, and forgets all but these interfaces.
    pub fn forget_dead_links(&mut self, interfaces: &[Interface]) {
        self.standing.keep_only(interfaces);
        detach::forget_dead_links(&self.pin_dir, &self.standing.pins());
    }

    /// Makes the pins again that somebody has removed.
    ///
    /// # Errors
    /// [`KernelError::PinsLost`]: what is enforced ends with this process.
    pub fn mend_pins(&mut self) -> Result<(), KernelError> {
        let mended = self.pins.mend(&self.pin_dir, &self.standing)?;
        if let Some(lost) = mended {
            self.standing.disturbed(Disturbance::Unpinned(lost));
        }
        Ok(())
    }

    /// What was done to the programs by others since the last call, and is made good.
    pub fn take_disturbances(&mut self) -> Vec<Disturbance> {
        self.standing.take_disturbances()
    }
}

/// Loads both programs on the pinned maps, at the same time: the verifier goes through each of them on one processor,
/// and on a slow machine that is most of what a start takes.
fn load_programs(pin_dir: &Path, flows: u32) -> Result<Ebpf, KernelError> {
    let mut ebpf = make_maps(pin_dir, flows, VerifierLogLevel::DISABLE)?;
    let loaded = thread::scope(|scope| {
        let loads: Vec<_> = ebpf
            .programs_mut()
            .filter_map(|(name, program)| {
                let hook = HOOKS.iter().find(|hook| hook.program == name)?;
                Some((hook, scope.spawn(move || load_program(program, hook))))
            })
            .collect();
        let join = |load: thread::ScopedJoinHandle<'_, _>| {
            load.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let ends = loads.into_iter().map(|(hook, load)| (hook, join(load)));
        ends.collect::<Vec<(&Hook, Result<(), ProgramError>)>>()
    });
    for (hook, result) in loaded {
        result.map_err(|error| {
            let refused = |error| KernelError::load(format!("loading {}", hook.program), error);
            if !error::is_rejection(&error) {
                return refused(error);
            }
            // Once more with the verifier's log, which costs too much to be had always.
            match make_maps(pin_dir, flows, VerifierLogLevel::DEBUG) {
                Ok(mut logged) => {
                    let program = logged.program_mut(hook.program);
                    let again = program.map(|program| load_program(program, hook));
                    refused(again.and_then(Result::err).unwrap_or(error))
                }
                Err(error) => error,
            }
        })?;
    }
    Ok(ebpf)
}

fn make_maps(pin_dir: &Path, flows: u32, log: VerifierLogLevel) -> Result<Ebpf, KernelError> {
    EbpfLoader::new()
        .verifier_log_level(log)
        .default_map_pin_directory(pin_dir)
        .override_global("NS_PER_TICK", &ns_per_tick(), true)
        .map_max_entries("FLOWS_V4", flows)
        .map_max_entries("FLOWS_V6", flows)
        .load(OBJECT)
        .map_err(|error| KernelError::bpf("making the kernel maps", error))
}

/// Nanoseconds between two ticks, which is how fine the coarse clock is
/// (`hrtimer_get_res` in `kernel/time/hrtimer.c`: `KTIME_LOW_RES`).
fn ns_per_tick() -> u64 {
    let tick = clock_getres(ClockId::MonotonicCoarse);
    u64::try_from(tick.tv_sec)
        .unwrap_or_default()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(tick.tv_nsec).unwrap_or_default())
}

fn load_program(program: &mut Program, hook: &Hook) -> Result<(), ProgramError> {
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    if let Some(instructions) = program.info()?.verified_instruction_count() {
        tracing::debug!(program = hook.program, instructions, "verified");
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, hook: &Hook) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(hook.program)
        .ok_or_else(|| ProgramError::IOError(io::ErrorKind::NotFound.into()))?
        .try_into()
}

/// `<bpffs>/bulkhead/v3` to `<bpffs>`.
fn bpffs_of(pin_dir: &Path) -> &Path {
    pin_dir.ancestors().nth(2).unwrap_or(pin_dir)
}

/// Whether there are pins of an agent's maps.
///
/// # Errors
/// [`KernelError::NotPermitted`] and [`KernelError::Io`]: not to see is not to know.
pub fn has_maps(pin_dir: &Path) -> Result<bool, KernelError> {
    exists(&pin_dir.join("GENERATION"))
}

/// Whether there is anything of an agent's in the pin directory.
///
/// # Errors
/// As [`has_maps`].
pub fn has_pins(pin_dir: &Path) -> Result<bool, KernelError> {
    exists(pin_dir)
}

/// Removes links, filters and maps: enforcement ends, interface by interface.
///
/// # Errors
/// [`KernelError::Io`]: some of it may be gone already; another call does the rest.
pub fn detach(pin_dir: &Path, interfaces: &[Interface]) -> Result<(), KernelError> {
    if !has_pins(pin_dir)? {
        detach::end_unpinned(interfaces)?;
    }
    // What other versions left enforces as well.
    for pin_dir in predecessor::siblings(pin_dir)? {
        detach::detach(&pin_dir, interfaces)?;
        remove_pins(&pin_dir)?;
    }
    detach::detach(pin_dir, interfaces)?;
    remove_pins(pin_dir)?;
    match pin_dir.parent() {
        // The directory of all versions, when it is empty; it stays where something else is in it.
        Some(all) if all.ends_with(ALL_VERSIONS) && entries(all)?.is_empty() => {
            remove_directory(all)
        }
        _ => Ok(()),
    }
}

/// Removes a pin directory of which no link is needed any more. GENERATION goes first: without it the rest
/// is not taken for tables that are live.
fn remove_pins(pin_dir: &Path) -> Result<(), KernelError> {
    let generation = pin_dir.join("GENERATION");
    let mut pins = entries(pin_dir)?;
    pins.sort_by_key(|pin| *pin != generation);
    for pin in pins {
        fail::step("removing a pin")?;
        if pin.is_dir() {
            remove_directory(&pin)?;
        } else {
            fs::remove_file(&pin)
                .map_err(|error| KernelError::io(format!("removing {}", pin.display()), error))?;
        }
    }
    remove_directory(pin_dir)
}

/// Those of `interfaces` on which the kernel runs at least `hooks` of our two programs.
///
/// # Errors
/// As the system calls report.
pub fn attached(
    pin_dir: &Path,
    interfaces: Vec<Interface>,
    hooks: usize,
) -> Result<Vec<Interface>, KernelError> {
    let mut attached = Vec::new();
    let ours = attach::our_programs();
    for interface in interfaces {
        if attach::hooks_on(pin_dir, &interface, &ours)? >= hooks {
            attached.push(interface);
        }
    }
    Ok(attached)
}

fn exists(path: &Path) -> Result<bool, KernelError> {
    path.try_exists()
        .map_err(|error| KernelError::io(format!("looking for {}", path.display()), error))
}

/// What is in a directory; nothing when there is none.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result
            .map_err(|error| KernelError::io(format!("reading {}", directory.display()), error)),
    }
}

fn remove_directory(directory: &Path) -> Result<(), KernelError> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result
            .map_err(|error| KernelError::io(format!("removing {}", directory.display()), error)),
    }
}

/// The raw number of a map's file descriptor, for `/proc/self/fdinfo`.
fn raw_fd(map: &MapData) -> i32 {
    map.fd().as_fd().as_raw_fd()
}
