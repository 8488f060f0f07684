//! Putting the programs on interfaces and taking them off, by what the kernel has for it. What is
//! attached is asked of the kernel each time, and interfaces are meant by their index: names move.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::programs::{SchedClassifier, loaded_programs};

use crate::{
    config::HookingChoice,
    fail,
    interfaces::Interface,
    kernel::{
        HOOKS, Hook, KernelError,
        clsact::{self, Refusal, Slot},
        link::{self, Link, Place},
        predecessor::flow_layout,
        requirements,
    },
};

/// The directory of link pins, in that of all pins.
pub const LINKS: &str = "links";
/// What a pin's name ends with until it takes that of the one before. A BPF file system takes no dots.
pub const ON_ITS_WAY: &str = "-new";
/// The kernel cuts programs' names off here (`BPF_OBJ_NAME_LEN`).
const LONGEST_NAME: usize = 15;
/// The kernel that brought TCX links.
const TCX_SINCE: (u32, u32) = (6, 6);

/// How programs are hooked into interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooking {
    /// TCX links, which came with Linux 6.6.
    Tcx,
    /// Filters under a clsact qdisc.
    Clsact,
}

/// Links that could not be pinned, each with its pin: they run as long as the agent does.
pub type Held = Vec<(PathBuf, Link)>;

/// How an interface was found, or is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attachment {
    /// This process's program was there already.
    Standing,
    /// It took the place of an older one of ours.
    Updated,
    /// It is there now.
    Made,
    /// It is there as long as this process is: there was no room for its pin.
    Unpinned,
    /// The interface is gone.
    Gone,
}

impl Hooking {
    /// What the operator has chosen; by default the better one that the running kernel has.
    ///
    /// # Errors
    /// [`KernelError::NoTcx`].
    pub fn choose(choice: HookingChoice) -> Result<Self, KernelError> {
        let has_tcx = requirements::running().is_some_and(|version| version >= TCX_SINCE);
        match choice {
            HookingChoice::Tcx if !has_tcx => Err(KernelError::NoTcx {
                release: requirements::release(),
            }),
            HookingChoice::Automatic if !has_tcx => Ok(Self::Clsact),
            HookingChoice::Automatic | HookingChoice::Tcx => Ok(Self::Tcx),
            HookingChoice::Clsact => Ok(Self::Clsact),
        }
    }

    /// Whether another tool's program runs before ours on an interface where ours does.
    ///
    /// # Errors
    /// As the system calls report.
    pub(super) fn is_behind(
        self,
        interface: &Interface,
        pin_dir: &Path,
    ) -> Result<bool, KernelError> {
        let is_behind = |hook: &Hook| -> io::Result<bool> {
            match self {
                Self::Tcx => match Link::open(&pin(pin_dir, interface, hook))? {
                    Some(link) => Ok(link.place(interface.index, hook.point)? == Place::Behind),
                    None => Ok(false),
                },
                Self::Clsact => {
                    let slot = clsact::slot(interface.index, hook.parent, hook.program)?;
                    Ok(matches!(slot, Slot::Ours { first: false, .. }))
                }
            }
        };
        for hook in &HOOKS {
            let looking = || format!("looking for what runs first on {}", interface.name);
            if is_behind(hook).map_err(|error| KernelError::syscall(looking(), error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts a loaded program on an interface; where an older agent's stands, it is replaced in one
    /// step, without a moment in which none runs. Other tools' programs stay, and so does one of
    /// ours that is hooked in the other way, until [`remove_others`](super::detach::remove_others).
    ///
    /// # Errors
    /// As the system calls report; [`KernelError::Interface`] when another's filter is in the way.
    pub(super) fn attach(
        self,
        program: &SchedClassifier,
        interface: &Interface,
        hook: &Hook,
        pin_dir: &Path,
        held: &mut Held,
    ) -> Result<Attachment, KernelError> {
        match self {
            Self::Tcx => {
                let pin = pin(pin_dir, interface, hook);
                attach_link(program, interface, hook, &pin, held)
            }
            Self::Clsact => attach_filter(program, interface, hook),
        }
    }
}

fn attach_link(
    program: &SchedClassifier,
    interface: &Interface,
    hook: &Hook,
    pin: &Path,
    held: &mut Held,
) -> Result<Attachment, KernelError> {
    let doing = || format!("attaching {} to {}", hook.program, interface.name);
    let failed = |error| KernelError::syscall(doing(), error);
    let descriptor = descriptor(program, hook)?;
    let standing = Link::open(pin).map_err(failed)?;
    let mut behind = None;
    if let Some(link) = standing {
        match link.place(interface.index, hook.point).map_err(failed)? {
            Place::First => {
                if link.state().map_err(failed)?.program == id(program, hook)? {
                    return Ok(Attachment::Standing);
                }
                fail::step("updating a link")?;
                match link.update(descriptor) {
                    Ok(()) => return Ok(Attachment::Updated),
                    // This alone says that the link is dead.
                    Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            Place::Behind => behind = Some(link),
            // One on another interface stays with it as long as its own pin does.
            Place::Absent => tracing::warn!(
                interface = interface.name,
                "the pinned link is dead: attaching anew"
            ),
        }
    }
    fail::step("making a link")?;
    let runs_unpinned = held.iter().position(|(of, link)| {
        // Not to know is not to run.
        of == pin
            && link
                .state()
                .is_ok_and(|state| state.interface == Some(interface.index))
    });
    let link = match runs_unpinned {
        Some(at) => held.swap_remove(at).1,
        None => match Link::create(descriptor, interface.index, hook.point) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                return Ok(Attachment::Gone);
            }
            result => result.map_err(failed)?,
        },
    };
    if let Err(error) = pin_over(&link, pin) {
        tracing::warn!(pin = %pin.display(), %error, "a link cannot be pinned");
        held.push((pin.to_owned(), link));
        return Ok(Attachment::Unpinned);
    }
    if let Some(behind) = behind {
        match behind.detach() {
            // Its interface is gone, and the link died with it.
            Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(Attachment::Made)
}

/// Pins a link, over the pin that is there. The new link runs before the old pin goes.
fn pin_over(link: &Link, pin: &Path) -> io::Result<()> {
    let mut temporary = pin.as_os_str().to_owned();
    temporary.push(ON_ITS_WAY);
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fail::step("pinning a link")?;
    link.pin(&temporary)?;
    fail::step("naming the pin of a link")?;
    fs::rename(&temporary, pin).inspect_err(|_| {
        // The kernel attaches a program only once: what is left behind would be in our own way.
        let _ = fs::remove_file(&temporary);
    })
}

fn attach_filter(
    program: &SchedClassifier,
    interface: &Interface,
    hook: &Hook,
) -> Result<Attachment, KernelError> {
    let doing = || format!("attaching {} to {}", hook.program, interface.name);
    let slot = clsact::slot(interface.index, hook.parent, hook.program)
        .map_err(|error| KernelError::syscall(doing(), error))?;
    let program_id = id(program, hook)?;
    if slot
        == (Slot::Ours {
            program: program_id,
            first: true,
        })
    {
        return Ok(Attachment::Standing);
    }
    match replace_filter(program, interface, hook)? {
        Attachment::Made if matches!(slot, Slot::Ours { .. }) => Ok(Attachment::Updated),
        attachment => Ok(attachment),
    }
}

/// Puts a program into the slot of our filter, in one step where an older one stands there.
///
/// # Errors
/// As [`Hooking::attach`].
pub fn replace_filter(
    program: &SchedClassifier,
    interface: &Interface,
    hook: &Hook,
) -> Result<Attachment, KernelError> {
    let doing = || format!("attaching {} to {}", hook.program, interface.name);
    let descriptor = descriptor(program, hook)?;
    fail::step("putting a filter in its slot")?;
    let problem = match clsact::attach(descriptor, interface.index, hook.parent, hook.program) {
        Ok(()) => return Ok(Attachment::Made),
        Err(Refusal::Io(error)) if error.raw_os_error() == Some(libc::ENODEV) => {
            return Ok(Attachment::Gone);
        }
        Err(Refusal::Io(error)) => return Err(KernelError::syscall(doing(), error)),
        Err(Refusal::Unsupported) => return Err(KernelError::NoTc),
        Err(Refusal::Taken { by }) => format!(
            "another program's tc filter ({by}) stands at priority 1, where Bulkhead's goes: move it to another priority (`tc filter show dev {} {}` shows it), then start the agent again",
            interface.name, hook.name
        ),
        Err(Refusal::IngressQdisc) => format!(
            "it has an `ingress` qdisc, under which what goes out cannot be policed: make it a `clsact` one (`tc qdisc del dev {} ingress` removes it, and its filters), then start the agent again",
            interface.name
        ),
    };
    Err(KernelError::Interface {
        interface: interface.name.clone(),
        problem,
    })
}

/// What the kernel calls mean a loaded program by.
pub fn descriptor<'a>(
    program: &'a SchedClassifier,
    hook: &Hook,
) -> Result<BorrowedFd<'a>, KernelError> {
    let descriptor = program
        .fd()
        .map_err(|error| KernelError::bpf(format!("finding the loaded {}", hook.program), error))?;
    Ok(descriptor.as_fd())
}

/// The kernel's number of a loaded program.
pub fn id(program: &SchedClassifier, hook: &Hook) -> Result<u32, KernelError> {
    program
        .info()
        .map(|info| info.id())
        .map_err(|error| KernelError::bpf(format!("reading the number of {}", hook.program), error))
}

/// Makes the directory of link pins, and the one that names the layout of the flow tables.
///
/// # Errors
/// [`KernelError::Io`].
pub fn make_directory(pin_dir: &Path) -> Result<(), KernelError> {
    for directory in [LINKS, &flow_layout()] {
        let directory = pin_dir.join(directory);
        fs::create_dir_all(&directory)
            .map_err(|error| KernelError::io(format!("creating {}", directory.display()), error))?;
    }
    Ok(())
}

/// The hook that a pin's name ends with. A crash may have left one on its way to its name.
pub fn hook_of(pin: &Path) -> Option<&'static Hook> {
    let name = pin.file_name()?.to_str()?.trim_end_matches(ON_ITS_WAY);
    HOOKS.iter().find(|hook| name.ends_with(hook.name))
}

/// The kernel's numbers of all loaded programs of each hook's name, whoever loaded them: what runs on an
/// interface may have lost its pins. Without the right to list programs, none.
pub fn our_programs() -> [BTreeSet<u32>; 2] {
    let mut ours = [BTreeSet::new(), BTreeSet::new()];
    for program in loaded_programs() {
        let Ok(program) = program else {
            tracing::debug!("the loaded programs cannot be listed; only pinned links are found");
            break;
        };
        for (hook, ids) in HOOKS.iter().zip(&mut ours) {
            let name = hook.program.as_bytes();
            if program.name() == &name[..name.len().min(LONGEST_NAME)] {
                ids.insert(program.id());
            }
        }
    }
    ours
}

/// Whether the kernel runs our programs on an interface: none, one or two of the hooks. `ours` are the
/// programs of [`our_programs`].
///
/// # Errors
/// As the system calls report.
pub fn hooks_on(
    pin_dir: &Path,
    interface: &Interface,
    ours: &[BTreeSet<u32>; 2],
) -> Result<usize, KernelError> {
    let doing = || format!("looking for the programs on {}", interface.name);
    let on = |hook: &Hook, ours: &BTreeSet<u32>| -> io::Result<bool> {
        let running = link::running_at(interface.index, hook.point)?;
        if running
            .iter()
            .any(|running| ours.contains(&running.program))
        {
            return Ok(true);
        }
        if let Some(link) = Link::open(&pin(pin_dir, interface, hook))?
            && link.place(interface.index, hook.point)? != Place::Absent
        {
            return Ok(true);
        }
        let slot = clsact::slot(interface.index, hook.parent, hook.program)?;
        Ok(matches!(slot, Slot::Ours { .. }))
    };
    let mut count = 0;
    for (hook, ours) in HOOKS.iter().zip(ours) {
        count += usize::from(on(hook, ours).map_err(|error| KernelError::syscall(doing(), error))?);
    }
    Ok(count)
}

/// Where the link of a hook is pinned.
#[must_use]
pub fn pin(pin_dir: &Path, interface: &Interface, hook: &Hook) -> PathBuf {
    pin_dir
        .join(LINKS)
        .join(format!("{}-{}", interface.index, hook.name))
}
