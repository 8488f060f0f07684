//! Taking programs off interfaces: all of them, those whose interfaces are gone, and older copies.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    interfaces::Interface,
    kernel::{
        HOOKS, Hook, Hooking, KernelError,
        attach::{LINKS, hook_of, our_programs, pin},
        clsact,
        link::{Link, Place, running_at},
    },
};

/// Removes the pins of links that are dead, because their interfaces are gone, and ends those that were
/// taken along to another network namespace, where nothing is ours to police. A link of an interface
/// that is configured away keeps its enforcement until `detach`. `alive` are known to run.
pub fn forget_dead_links(pin_dir: &Path, alive: &BTreeSet<&Path>) {
    let pins = pins(pin_dir).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look for links whose interfaces are gone");
        Vec::new()
    });
    for pin in pins.iter().filter(|pin| !alive.contains(pin.as_path())) {
        match forget_if_gone(pin) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(pin = %pin.display(), "an interface is gone or was moved to another namespace: it is not policed any more");
            }
            Err(error) => {
                tracing::warn!(pin = %pin.display(), %error, "cannot look after a pinned link");
            }
        }
    }
}

fn forget_if_gone(pin: &Path) -> io::Result<bool> {
    let (Some(link), Some(hook)) = (Link::open(pin)?, hook_of(pin)) else {
        return Ok(false);
    };
    // Not to know is not to be gone.
    if let Some(interface) = link.state()?.interface {
        if link.place(interface, hook.point)? != Place::Absent {
            return Ok(false);
        }
        end(&link)?;
    }
    fs::remove_file(pin).map(|()| true)
}

/// Removes what another way of hooking has left on an interface: one copy of the programs is enough.
///
/// # Errors
/// As the system calls report.
pub fn remove_others(
    hooking: Hooking,
    interface: &Interface,
    pin_dir: &Path,
) -> Result<(), KernelError> {
    for hook in &HOOKS {
        match hooking {
            Hooking::Tcx => detach_filter(interface, hook)?,
            Hooking::Clsact => detach_link(&pin(pin_dir, interface, hook))?,
        }
    }
    Ok(())
}

/// Ends every pinned link and our filters on all of `interfaces`, on whatever kernel.
///
/// # Errors
/// [`KernelError::Io`]: some of it may be gone already; another call does the rest.
pub fn detach(pin_dir: &Path, interfaces: &[Interface]) -> Result<(), KernelError> {
    for interface in interfaces {
        for hook in &HOOKS {
            detach_filter(interface, hook)?;
        }
    }
    for pin in pins(pin_dir)? {
        detach_link(&pin)?;
    }
    super::remove_directory(&pin_dir.join(LINKS))
}

/// Ends the links of our programs whose pins are gone, and which a process may still hold.
///
/// # Errors
/// [`KernelError::Io`]: some may have ended already; another call does the rest.
pub fn end_unpinned(interfaces: &[Interface]) -> Result<(), KernelError> {
    let ours = our_programs();
    for interface in interfaces {
        for (hook, ours) in HOOKS.iter().zip(&ours) {
            let doing = || format!("detaching {} from {}", hook.program, interface.name);
            let failed = |error| KernelError::syscall(doing(), error);
            for running in running_at(interface.index, hook.point).map_err(failed)? {
                if ours.contains(&running.program) && running.link != 0 {
                    let link = Link::by_id(running.link).map_err(failed)?;
                    end(&link).map_err(failed)?;
                }
            }
        }
    }
    Ok(())
}

/// Removes our filter from an interface, where there is one.
fn detach_filter(interface: &Interface, hook: &Hook) -> Result<(), KernelError> {
    clsact::detach(interface.index, hook.parent, hook.program)
        .map(drop)
        .map_err(|error| {
            let doing = format!("detaching {} from {}", hook.program, interface.name);
            KernelError::syscall(doing, error)
        })
}

/// Ends a pinned link and removes its pin, where there is one.
fn detach_link(pin: &Path) -> Result<(), KernelError> {
    let failed = |error| KernelError::syscall(format!("detaching {}", pin.display()), error);
    let Some(link) = Link::open(pin).map_err(failed)? else {
        return Ok(());
    };
    end(&link).map_err(failed)?;
    fs::remove_file(pin)
        .map_err(|error| KernelError::io(format!("removing {}", pin.display()), error))
}

/// Takes a link's program off its interface, which may be gone, and the link dead with it.
fn end(link: &Link) -> io::Result<()> {
    match link.detach() {
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(error),
        _ => Ok(()),
    }
}

fn pins(pin_dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    super::entries(&pin_dir.join(LINKS))
}
