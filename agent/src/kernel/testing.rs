//! What only tests do with the kernel: running programs without a device, and being another tool.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up shall fail"
)]

use std::{fs, os::fd::AsFd as _, path::Path};

use aya::{
    maps::HashMap,
    programs::{TestRun as _, TestRunOptions},
};
use datapath::layout::Flow;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::*;

/// Runs a test in a network namespace of its own, with its own `/sys`, on a thread that ends with it.
pub fn in_own_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread is moved, and it takes no file descriptors along.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let flags = MountFlags::empty();
            mount("sysfs", "/sys", "sysfs", flags, None::<&std::ffi::CStr>).unwrap();
            test()
        });
        thread.join().unwrap()
    })
}

/// Moves the calling thread into a network namespace of its own.
pub fn enter_new_namespace() {
    // SAFETY: only this thread is moved, and it takes no file descriptors along.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
}

impl Programs {
    /// Judges one frame as a hook would, without a device: what `BPF_PROG_TEST_RUN` is for.
    pub fn test_run(
        &mut self,
        direction: datapath::Direction,
        frame: &[u8],
    ) -> Result<datapath::Verdict, KernelError> {
        let hook = &HOOKS[usize::from(direction.number())];
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        let result = program(&mut self.ebpf, hook)
            .and_then(|program| program.test_run(options))
            .map_err(|error| KernelError::bpf(format!("running {}", hook.program), error))?;
        // TC_ACT_UNSPEC is -1, TC_ACT_SHOT is 2.
        Ok(match result.return_value.cast_signed() {
            -1 => datapath::Verdict::Pass,
            _ => datapath::Verdict::Drop,
        })
    }

    /// Empties the flow tables, so that the next packet opens a flow.
    pub fn forget_flows(&self) -> Result<(), KernelError> {
        fn clear<const N: usize>(pin_dir: &Path, name: &'static str) -> Result<(), KernelError> {
            let mut map: HashMap<MapData, [u8; N], [u8; size_of::<Flow>()]> =
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

    /// Puts a filter where ours goes, as another tool would: under another name.
    pub fn occupy_slot(&mut self, interface: &Interface) {
        let program = program(&mut self.ebpf, &HOOKS[0]).unwrap();
        let descriptor = program.fd().unwrap().as_fd();
        clsact::attach(descriptor, interface.index, HOOKS[0].parent, "foreign").unwrap();
    }

    /// Another tool's TCX program of the same maps; it is attached as long as the link is held.
    pub fn foreign_link(&mut self, interface: &Interface) -> link::Link {
        let program = program(&mut self.ebpf, &HOOKS[0]).unwrap();
        let descriptor = program.fd().unwrap().as_fd();
        link::Link::create(descriptor, interface.index, HOOKS[0].point).unwrap()
    }
}

/// Whether the slot of our ingress filter holds that other tool's.
pub fn slot_is_foreign(interface: &Interface) -> bool {
    let slot = clsact::slot(interface.index, HOOKS[0].parent, HOOKS[0].program).unwrap();
    slot == clsact::Slot::Taken {
        by: "bpf foreign".into(),
    }
}

/// Ends the link behind a pin, as the end of its interface would, and leaves the pin.
pub fn kill_link(pin_dir: &Path, interface: &Interface, hook: &str) {
    let pin = pin_dir
        .join("links")
        .join(format!("{}-{hook}", interface.index));
    link::Link::open(&pin).unwrap().unwrap().detach().unwrap();
}

/// Removes an address's peer behind the agent's back.
pub fn forget_peer(pin_dir: &Path, address: std::net::Ipv4Addr) {
    let mut peers: HashMap<MapData, [u8; 4], u32> = maps::open_map(pin_dir, "PEERS_V4").unwrap();
    peers.remove(&address.octets()).unwrap();
}

/// The pins of links that are there.
pub fn link_pins(pin_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(pin_dir.join("links")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Whether a TCX program runs on an interface of this namespace.
pub fn runs_tcx(interface: u32) -> bool {
    HOOKS
        .iter()
        .any(|hook| link::runs_any(interface, hook.point).unwrap())
}

/// Another tool's program, which lets every packet through and ends the chain with that.
pub struct LetsThrough(std::os::fd::OwnedFd);

impl LetsThrough {
    pub fn load() -> Self {
        link::load_two_instructions().map(Self).unwrap()
    }

    /// Puts it before all others.
    pub fn attach_first(&self, interface: &Interface) -> Vec<link::Link> {
        HOOKS
            .iter()
            .map(|hook| link::Link::create(self.0.as_fd(), interface.index, hook.point).unwrap())
            .collect()
    }

    /// For `tc`, which takes programs by their pins.
    pub fn pin(&self, pin: &Path) {
        link::pin(self.0.as_fd(), pin).unwrap();
    }
}
