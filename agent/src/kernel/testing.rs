//! What only tests do with the kernel: running programs without a device, and being another tool.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up shall fail"
)]

use std::{
    fs,
    os::fd::{AsFd as _, FromRawFd as _},
    path::Path,
};

use aya::maps::HashMap;
use datapath::layout::{FirstFragment, Flow};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::*;

thread_local! {
    /// Requests about interfaces: to netlink, and for the programs on one.
    static QUESTIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How often this thread has asked the kernel about interfaces.
pub fn questions() -> usize {
    QUESTIONS.get()
}

pub(super) fn count_question() {
    QUESTIONS.set(QUESTIONS.get() + 1);
}

/// Runs a test in a network namespace of its own, with its own `/sys`, on a thread that ends with it.
pub fn in_own_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
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
    /// Judges one frame as a hook would, without a device.
    pub fn test_run(
        &mut self,
        direction: datapath::Direction,
        frame: &[u8],
    ) -> Result<datapath::Verdict, KernelError> {
        Ok(self.time_packet(direction, frame, 1)?.0)
    }

    /// Empties the tables of flows and of fragments, so that the next packet opens a flow.
    pub fn forget_flows(&self) -> Result<(), KernelError> {
        const FLOW: usize = size_of::<Flow>();
        clear::<16, FLOW>(&self.pin_dir, "FLOWS_V4")?;
        clear::<40, FLOW>(&self.pin_dir, "FLOWS_V6")?;
        self.forget_fragments()
    }

    /// Empties the tables of fragments, so that a later fragment is an orphan.
    pub fn forget_fragments(&self) -> Result<(), KernelError> {
        const FRAGMENT: usize = size_of::<FirstFragment>();
        clear::<16, FRAGMENT>(&self.pin_dir, "FRAGMENTS_V4")?;
        clear::<40, FRAGMENT>(&self.pin_dir, "FRAGMENTS_V6")
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

fn clear<const N: usize, const V: usize>(
    pin_dir: &Path,
    name: &'static str,
) -> Result<(), KernelError> {
    let mut map: HashMap<MapData, [u8; N], [u8; V]> = maps::open_map(pin_dir, name)?;
    let keys: Vec<_> = map.keys().flatten().collect();
    for key in keys {
        map.remove(&key)
            .map_err(|error| KernelError::bpf(format!("emptying {name}"), error))?;
    }
    Ok(())
}

/// Sends a frame out of an interface. Of one that is longer than a page only the Ethernet header lies in the
/// linear part of the packet and all else in pages: the header of `virtio_net` promises no more (`packet_snd`
/// in `net/packet/af_packet.c`).
pub fn send_frame(interface: &Interface, frame: &[u8]) {
    const VNET_HEADER: usize = 10;
    let mut message = vec![0; VNET_HEADER];
    message.extend(frame);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: u16::from_ne_bytes([frame[12], frame[13]]),
        sll_ifindex: interface.index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let on: libc::c_int = 1;
    // SAFETY: the call takes integers; who owns the descriptor is said at once.
    let socket = unsafe {
        let descriptor = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        assert!(descriptor >= 0, "{}", io::Error::last_os_error());
        std::os::fd::OwnedFd::from_raw_fd(descriptor)
    };
    // SAFETY: the pointers are to values that live during the calls, and the lengths are theirs.
    let sent = unsafe {
        let set = libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        );
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        libc::sendto(
            socket.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            0,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    // A packet that the program drops is told as a lack of buffers.
    let error = io::Error::last_os_error();
    assert!(
        sent == message.len().cast_signed() || error.raw_os_error() == Some(libc::ENOBUFS),
        "{error}"
    );
}

/// Whether the slot of our ingress filter holds that other tool's.
pub fn slot_is_foreign(interface: &Interface) -> bool {
    let slot = clsact::slot(interface.index, HOOKS[0].parent, HOOKS[0].program).unwrap();
    slot == clsact::Slot::Taken {
        by: "bpf foreign".into(),
    }
}

/// Whether a filter of ours stands on an interface, at either hook.
pub fn has_filter(interface: &Interface) -> bool {
    HOOKS.iter().any(|hook| {
        let slot = clsact::slot(interface.index, hook.parent, hook.program).unwrap();
        matches!(slot, clsact::Slot::Ours { .. })
    })
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

impl Programs {
    /// Instructions that the verifier went through for each program, of the million that it has patience
    /// for. Kernels tell since 5.16.
    pub fn verified_instructions(&self) -> Vec<u32> {
        let verified = |hook| {
            let info = self.program(hook).unwrap().info().unwrap();
            info.verified_instruction_count().unwrap()
        };
        HOOKS.iter().map(verified).collect()
    }
}
