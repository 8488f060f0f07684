//! The kernel: loading the programs, adopting what is pinned, attaching to interfaces.
//!
//! This file and those below it are the only ones of the agent that know aya.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{MapData, RingBuf},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
};
use datapath::layout::Event;

use crate::interfaces::Interface;

mod error;
mod link;
mod maps;
mod requirements;
mod shape;

pub use error::KernelError;
pub use maps::Maps;

/// The object that the build script made of the `agent-ebpf` crate.
const OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BULKHEAD_EBPF_OBJECT"));

const HOOKS: [Hook; 2] = [
    Hook {
        name: "ingress",
        program: "bulkhead_ingress",
        attach_type: TcAttachType::Ingress,
    },
    Hook {
        name: "egress",
        program: "bulkhead_egress",
        attach_type: TcAttachType::Egress,
    },
];

/// Where a classic TC filter stands: first, and under a number by which it is found again.
const FILTER_PRIORITY: u16 = 1;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 1);

struct Hook {
    name: &'static str,
    program: &'static str,
    attach_type: TcAttachType,
}

/// The loaded programs. Dropping it detaches nothing: links are pinned, filters belong to the device.
pub struct Programs {
    ebpf: Ebpf,
    pin_dir: PathBuf,
    /// Link pins that this process has put its own program behind.
    ours: Vec<PathBuf>,
}

impl Programs {
    /// Loads the programs on the maps pinned in `pin_dir`, making those that are not there.
    ///
    /// # Errors
    /// What the host lacks, or pins of another shape.
    pub fn load(pin_dir: &Path, flows: u32) -> Result<Self, KernelError> {
        requirements::check(bpffs_of(pin_dir))?;
        requirements::lift_memory_limit();
        let links = pin_dir.join("links");
        fs::create_dir_all(&links)
            .map_err(|error| KernelError::io(format!("creating {}", links.display()), error))?;
        let flows = shape::check(OBJECT, pin_dir, flows)?;
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .default_map_pin_directory(pin_dir)
            .map_max_entries("FLOWS_V4", flows)
            .map_max_entries("FLOWS_V6", flows)
            .load(OBJECT)
            .map_err(|error| KernelError::bpf("making the kernel maps", error))?;
        for hook in &HOOKS {
            program(&mut ebpf, hook)?
                .load()
                .map_err(|error| KernelError::bpf(format!("loading {}", hook.program), error))?;
        }
        Ok(Self {
            ebpf,
            pin_dir: pin_dir.to_owned(),
            ours: Vec::new(),
        })
    }

    /// Puts both programs on an interface; where an older agent's stand, they are replaced in one
    /// step, without a moment in which none runs. False when they were there already.
    ///
    /// # Errors
    /// [`KernelError::Bpf`] and [`KernelError::NotPermitted`].
    pub fn attach(&mut self, interface: &Interface) -> Result<bool, KernelError> {
        let mut attached = false;
        for hook in &HOOKS {
            let pin = self.link_pin(interface, hook);
            if self.ours.contains(&pin) {
                continue;
            }
            if has_tcx() {
                self.attach_tcx(interface, hook, &pin)?;
            } else {
                self.attach_filter(interface, hook)?;
            }
            self.ours.push(pin);
            attached = true;
        }
        Ok(attached)
    }

    /// Forgets the links of interfaces that are gone.
    pub fn forget_missing(&mut self, present: &[Interface]) {
        let mut keep = Vec::new();
        for interface in present {
            keep.extend(HOOKS.iter().map(|hook| self.link_pin(interface, hook)));
        }
        self.ours.retain(|pin| keep.contains(pin));
        for pin in pinned_links(&self.pin_dir) {
            // Only links of devices that do not exist any more: one that is configured away keeps
            // its enforcement until `detach`.
            let gone = index_of_pin(&pin).is_some_and(|index| !crate::interfaces::exists(index));
            if gone && let Err(error) = fs::remove_file(&pin) {
                tracing::warn!(pin = %pin.display(), %error, "cannot remove the pin of a link whose interface is gone");
            }
        }
    }

    fn attach_tcx(
        &mut self,
        interface: &Interface,
        hook: &Hook,
        pin: &Path,
    ) -> Result<(), KernelError> {
        let doing = || format!("attaching {} to {}", hook.program, interface.name);
        let program = program(&mut self.ebpf, hook)?;
        if let Ok(pinned) = PinnedLink::from_pin(pin) {
            let link = SchedClassifierLink::try_from(FdLink::from(pinned))
                .map_err(|error| KernelError::bpf(doing(), error))?;
            match program.attach_to_link(link) {
                Ok(id) => {
                    // The pin keeps the link; our handle on it may go.
                    return program
                        .take_link(id)
                        .map(drop)
                        .map_err(|error| KernelError::bpf(doing(), error));
                }
                Err(error) => {
                    tracing::warn!(interface = interface.name, %error, "the pinned link is dead: attaching anew");
                    fs::remove_file(pin).map_err(|error| {
                        KernelError::io(format!("removing {}", pin.display()), error)
                    })?;
                }
            }
        }
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options(&interface.name, hook.attach_type, order)
            .map_err(|error| KernelError::bpf(doing(), error))?;
        let link = program
            .take_link(id)
            .map_err(|error| KernelError::bpf(doing(), error))?;
        let link = FdLink::try_from(link).map_err(|error| KernelError::bpf(doing(), error))?;
        link.pin(pin).map(drop).map_err(|error| {
            KernelError::bpf(format!("pinning a link at {}", pin.display()), error)
        })
    }

    /// Before 6.6: a clsact filter, which belongs to the device and needs no pin.
    fn attach_filter(&mut self, interface: &Interface, hook: &Hook) -> Result<(), KernelError> {
        let doing = || format!("attaching {} to {}", hook.program, interface.name);
        // An error means that the qdisc is there already; if it was another, attaching fails.
        let _ = qdisc_add_clsact(&interface.name);
        let program = program(&mut self.ebpf, hook)?;
        let existing = filter(interface, hook).map_err(|error| KernelError::io(doing(), error))?;
        let id = match program.attach_to_link(existing) {
            Ok(id) => id,
            Err(_) => {
                let options = NlOptions {
                    priority: FILTER_PRIORITY,
                    handle: FILTER_HANDLE,
                    classid: None,
                };
                program
                    .attach_with_options(
                        &interface.name,
                        hook.attach_type,
                        TcAttachOptions::Netlink(options),
                    )
                    .map_err(|error| KernelError::bpf(doing(), error))?
            }
        };
        let link = program
            .take_link(id)
            .map_err(|error| KernelError::bpf(doing(), error))?;
        // Dropped, it would detach.
        std::mem::forget(link);
        Ok(())
    }

    fn link_pin(&self, interface: &Interface, hook: &Hook) -> PathBuf {
        self.pin_dir
            .join("links")
            .join(format!("{}-{}", interface.index, hook.name))
    }

    /// Judges one frame as a hook would, without a device: what `BPF_PROG_TEST_RUN` is for.
    #[cfg(test)]
    pub fn test_run(
        &mut self,
        direction: datapath::Direction,
        frame: &[u8],
    ) -> Result<datapath::Verdict, KernelError> {
        use aya::programs::{TestRun as _, TestRunOptions};
        let hook = &HOOKS[usize::from(direction.number())];
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        let result = program(&mut self.ebpf, hook)?
            .test_run(options)
            .map_err(|error| KernelError::bpf(format!("running {}", hook.program), error))?;
        // TC_ACT_UNSPEC is -1, TC_ACT_SHOT is 2.
        Ok(match result.return_value.cast_signed() {
            -1 => datapath::Verdict::Pass,
            _ => datapath::Verdict::Drop,
        })
    }
}

#[cfg(test)]
impl Programs {
    /// Empties the flow tables, so that the next packet opens a flow.
    pub fn forget_flows(&self) -> Result<(), KernelError> {
        fn clear<const N: usize>(pin_dir: &Path, name: &'static str) -> Result<(), KernelError> {
            let mut map: aya::maps::HashMap<MapData, [u8; N], [u8; 16]> =
                maps::open_map(pin_dir, name)?;
            let keys: Vec<_> = map.keys().flatten().collect();
            for key in keys {
                map.remove(&key)
                    .map_err(|error| KernelError::bpf(format!("emptying {name}"), error))?;
            }
            Ok(())
        }
        clear::<16>(&self.pin_dir, "FLOWS_V4")?;
        clear::<40>(&self.pin_dir, "FLOWS_V6")
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, hook: &Hook) -> Result<&'a mut SchedClassifier, KernelError> {
    let doing = || format!("finding {} in the object", hook.program);
    ebpf.program_mut(hook.program)
        .ok_or_else(|| KernelError::io(doing(), io::ErrorKind::NotFound.into()))?
        .try_into()
        .map_err(|error| KernelError::bpf(doing(), error))
}

/// TCX links came with 6.6; before, a clsact filter is what there is.
fn has_tcx() -> bool {
    requirements::running().is_some_and(|version| version >= (6, 6))
}

/// `<bpffs>/bulkhead/v1` to `<bpffs>`.
fn bpffs_of(pin_dir: &Path) -> &Path {
    pin_dir.ancestors().nth(2).unwrap_or(pin_dir)
}

/// Removes links and maps: enforcement ends, interface by interface.
///
/// # Errors
/// [`KernelError::Io`]: some of it may be gone already; another call does the rest.
pub fn detach(pin_dir: &Path, interfaces: &[Interface]) -> Result<(), KernelError> {
    if !has_tcx() {
        for interface in interfaces {
            for hook in &HOOKS {
                // Dropping the handle detaches the filter, if there is one.
                drop(filter(interface, hook));
            }
        }
    }
    for pin in pinned_links(pin_dir) {
        match link::detach(&pin) {
            // Its interface is gone, and the link died with it.
            Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => {
                return Err(KernelError::io(
                    format!("detaching {}", pin.display()),
                    error,
                ));
            }
            _ => {}
        }
    }
    let maps = entries(pin_dir).into_iter().filter(|path| !path.is_dir());
    for pin in pinned_links(pin_dir).into_iter().chain(maps) {
        fs::remove_file(&pin)
            .map_err(|error| KernelError::io(format!("removing {}", pin.display()), error))?;
    }
    for directory in [pin_dir.join("links"), pin_dir.to_owned()] {
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(KernelError::io(
                    format!("removing {}", directory.display()),
                    error,
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A handle on the classic filter at a hook, whether or not there is one.
fn filter(interface: &Interface, hook: &Hook) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(
        &interface.name,
        hook.attach_type,
        FILTER_PRIORITY,
        FILTER_HANDLE,
        None,
    )
}

/// The indices of the interfaces that have a pinned link.
#[must_use]
pub fn attached_indices(pin_dir: &Path) -> Vec<u32> {
    let mut indices: Vec<u32> = pinned_links(pin_dir)
        .iter()
        .filter_map(|pin| index_of_pin(pin))
        .collect();
    indices.sort_unstable();
    indices.dedup();
    indices
}

fn pinned_links(pin_dir: &Path) -> Vec<PathBuf> {
    entries(&pin_dir.join("links"))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn index_of_pin(pin: &Path) -> Option<u32> {
    pin.file_name()?.to_str()?.split('-').next()?.parse().ok()
}

/// The reading end of the ring buffer.
pub struct Events(RingBuf<MapData>);

impl Events {
    /// Opens the pinned ring; what was reported while no agent ran is still in it.
    ///
    /// # Errors
    /// [`KernelError::Bpf`].
    pub fn open(pin_dir: &Path) -> Result<Self, KernelError> {
        maps::open_map(pin_dir, "EVENTS").map(Self)
    }

    /// Waits until there is an event, or for `timeout_ms` milliseconds.
    ///
    /// # Errors
    /// [`KernelError::Io`].
    pub fn wait(&self, timeout_ms: u32) -> Result<(), KernelError> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec {
            tv_sec: i64::from(timeout_ms / 1000),
            tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000,
        };
        let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(KernelError::io("waiting for denial events", error.into())),
        }
    }

    /// Takes the oldest event; one of another size is of another version, and is left out.
    pub fn take(&mut self) -> Option<Event> {
        loop {
            let item = self.0.next()?;
            if item.len() == size_of::<Event>() {
                return Some(maps::read_layout(&item));
            }
        }
    }
}

/// The raw number of a map's file descriptor, for `/proc/self/fdinfo`.
fn raw_fd(map: &MapData) -> i32 {
    map.fd().as_fd().as_raw_fd()
}
