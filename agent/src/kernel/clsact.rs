//! Classic filters under a clsact qdisc, for kernels before 6.6. They belong to the device: no pin
//! keeps them, and the kernel is asked which are there.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use crate::kernel::netlink::{attributes, change, dump, put};

/// From `include/uapi/linux/{rtnetlink,netlink,pkt_sched,pkt_cls,if_ether}.h`.
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const ETH_P_ALL: u16 = 3;

/// `struct tcmsg`.
const MESSAGE: usize = 20;

/// First: a filter before ours could let a packet through. Several may share a priority; of those the
/// kernel runs the newest first.
const PRIORITY: u16 = 1;
/// Numbers of our own, "bulk" and "bull": other tools take 1 or let the kernel choose. The second is for a
/// filter that goes before another tool's, while the one that stands behind it still runs.
const HANDLES: [u32; 2] = [0x6275_6c6b, 0x6275_6c6c];

/// Where filters are attached on their interface.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Packets that come in.
    Ingress = 0xffff_fff2,
    /// Packets that go out.
    Egress = 0xffff_fff3,
}

/// What stands where our filter goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing.
    Free,
    /// A filter of ours, with this program.
    Ours {
        /// The kernel's number of the program.
        program: u32,
        /// No other tool's filter runs before it, and it is the only one of ours.
        first: bool,
    },
    /// Another's.
    Taken {
        /// Its kind and name.
        by: String,
    },
}

/// What keeps a filter from being put there.
#[derive(Debug)]
pub enum Refusal {
    /// Another's filter is in its place.
    Taken {
        /// Its kind and name.
        by: String,
    },
    /// The interface has the older `ingress` qdisc, under which nothing meets what goes out.
    IngressQdisc,
    /// The kernel has no clsact, or no BPF filters.
    Unsupported,
    /// The system call failed.
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Looks at the slot of the filter `name` on an interface. One that is gone has free slots.
///
/// # Errors
/// As netlink reports.
pub fn slot(interface: u32, parent: Parent, name: &str) -> io::Result<Slot> {
    Ok(slot_among(&filters(interface, parent)?, name))
}

/// The filters of an interface, in the order in which they run.
fn filters(interface: u32, parent: Parent) -> io::Result<Vec<Filter>> {
    let body = message(interface, 0, parent as u32, 0);
    let filters = match dump(RTM_GETTFILTER, &body) {
        // A kernel without classifiers has no filters.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        result => result?,
    };
    Ok(filters
        .iter()
        .filter_map(|filter| Filter::read(filter))
        .filter(|filter| filter.chain == 0 && filter.priority == PRIORITY)
        .collect())
}

fn slot_among(filters: &[Filter], name: &str) -> Slot {
    if let Some(other) = filters.iter().find(|filter| filter.is_in_the_way(name)) {
        let by = format!("{} {}", other.kind, other.name);
        return Slot::Taken {
            by: by.trim_end().to_owned(),
        };
    }
    // A message without a handle speaks of the priority as a whole.
    let mut running = filters.iter().filter(|filter| filter.handle != 0);
    let Some(at) = running.clone().position(Filter::is_ours) else {
        return Slot::Free;
    };
    let alone = running.clone().filter(|filter| filter.is_ours()).count() == 1;
    let program = running.nth(at).map_or(0, |filter| filter.program);
    Slot::Ours {
        program,
        first: at == 0 && alone,
    }
}

/// Puts a program into its slot; one of ours that is there is replaced in one step. One that stands behind
/// another tool's stays until the new one runs before both.
///
/// # Errors
/// [`Refusal`]; `ENODEV` when the interface is gone.
pub fn attach(
    program: BorrowedFd<'_>,
    interface: u32,
    parent: Parent,
    name: &str,
) -> Result<(), Refusal> {
    let standing = filters(interface, parent)?;
    let ours: Vec<u32> = standing
        .iter()
        .filter(|filter| filter.is_ours())
        .map(|filter| filter.handle)
        .collect();
    let (flags, handle, behind) = match slot_among(&standing, name) {
        // Without EXCL and CREATE the kernel replaces.
        Slot::Ours { first: true, .. } => (0, ours[0], Vec::new()),
        Slot::Ours { .. } => {
            let spare = HANDLES.into_iter().find(|handle| !ours.contains(handle));
            match spare {
                Some(spare) => (NLM_F_EXCL | NLM_F_CREATE, spare, ours),
                // Both stand since an agent ended between two steps: the first one is kept.
                None => (0, ours[0], ours[1..].to_vec()),
            }
        }
        Slot::Free => {
            add_qdisc(interface)?;
            (NLM_F_EXCL | NLM_F_CREATE, HANDLES[0], Vec::new())
        }
        Slot::Taken { by } => return Err(Refusal::Taken { by }),
    };
    let mut options = Vec::new();
    put(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    put(
        &mut options,
        TCA_BPF_NAME,
        &[name.as_bytes(), &[0]].concat(),
    );
    let act_direct = TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes();
    put(&mut options, TCA_BPF_FLAGS, &act_direct);
    let mut body = message(interface, handle, parent as u32, info());
    put(&mut body, TCA_KIND, b"bpf\0");
    put(&mut body, TCA_OPTIONS, &options);
    change(RTM_NEWTFILTER, flags, &body).map_err(unsupported)?;
    for handle in behind {
        remove(interface, parent, handle)?;
    }
    Ok(())
}

/// Removes our filter, and no other; false when there is none. The qdisc stays: others may use it.
///
/// # Errors
/// As netlink reports.
pub fn detach(interface: u32, parent: Parent, name: &str) -> io::Result<bool> {
    let standing = filters(interface, parent)?;
    let Slot::Ours { .. } = slot_among(&standing, name) else {
        return Ok(false);
    };
    let mut removed = false;
    for filter in standing.iter().filter(|filter| filter.is_ours()) {
        removed |= remove(interface, parent, filter.handle)?;
    }
    Ok(removed)
}

/// Removes one filter; false when it is gone already.
fn remove(interface: u32, parent: Parent, handle: u32) -> io::Result<bool> {
    let body = message(interface, handle, parent as u32, info());
    match change(RTM_DELTFILTER, 0, &body) {
        // It went, or its interface did, since we looked.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => {
            Ok(false)
        }
        result => result.map(|()| true),
    }
}

fn add_qdisc(interface: u32) -> Result<(), Refusal> {
    let mut body = message(interface, CLSACT_HANDLE, TC_H_CLSACT, 0);
    put(&mut body, TCA_KIND, b"clsact\0");
    match change(RTM_NEWQDISC, NLM_F_EXCL | NLM_F_CREATE, &body) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            // Under `ingress` the kernel would take our filter for egress, and run it on ingress.
            let qdiscs = dump(RTM_GETQDISC, &message(interface, 0, TC_H_CLSACT, 0))?;
            let ingress = qdiscs.iter().any(|qdisc| is_ingress(qdisc, interface));
            if ingress {
                Err(Refusal::IngressQdisc)
            } else {
                Ok(())
            }
        }
        result => result.map_err(unsupported),
    }
}

/// Whether a qdisc of a dump, which is of all interfaces, is the old `ingress` of this one.
fn is_ingress(qdisc: &[u8], interface: u32) -> bool {
    let of_interface = qdisc.get(4..8) == Some(interface.to_ne_bytes().as_slice());
    let attributes = qdisc.get(MESSAGE..).unwrap_or_default();
    of_interface && self::attributes(attributes).any(|found| found == (TCA_KIND, b"ingress\0"))
}

/// The kernel says `ENOENT` of a kind of qdisc or filter that it does not have, `EOPNOTSUPP` when it
/// has none at all.
fn unsupported(error: io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EOPNOTSUPP) => Refusal::Unsupported,
        _ => Refusal::Io(error),
    }
}

/// A filter of a dump.
struct Filter {
    kind: String,
    priority: u16,
    protocol: u16,
    handle: u32,
    chain: u32,
    name: String,
    program: u32,
}

impl Filter {
    fn read(body: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk()?));
        let [protocol, priority] = halves(word(16)?);
        let mut filter = Self {
            kind: String::new(),
            priority,
            protocol: u16::from_be(protocol),
            handle: word(8)?,
            chain: 0,
            name: String::new(),
            program: 0,
        };
        for (kind, value) in attributes(body.get(MESSAGE..)?) {
            match kind {
                TCA_KIND => filter.kind = text(value),
                TCA_CHAIN => filter.chain = number(value),
                TCA_OPTIONS => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            TCA_BPF_NAME => filter.name = text(value),
                            TCA_BPF_ID => filter.program = number(value),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(filter)
    }

    /// Whether it keeps ours from being there: all filters of one priority are of one kind and one
    /// protocol, and a handle is given once.
    fn is_in_the_way(&self, name: &str) -> bool {
        let other_kind = self.kind != "bpf" || self.protocol != ETH_P_ALL;
        other_kind || (self.is_ours() && self.name != name)
    }

    fn is_ours(&self) -> bool {
        HANDLES.contains(&self.handle)
    }
}

fn message(interface: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [interface, handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// Priority and protocol of our filter.
fn info() -> u32 {
    u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be())
}

fn halves(word: u32) -> [u16; 2] {
    [(word & 0xffff) as u16, (word >> 16) as u16]
}

fn number(value: &[u8]) -> u32 {
    value
        .first_chunk()
        .map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn text(value: &[u8]) -> String {
    CStr::from_bytes_until_nul(value)
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}
