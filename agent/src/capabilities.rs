//! Privileges: the agent keeps what the kernel side needs and gives the rest away for good.

use rustix::{
    io,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    },
};

use crate::error::AgentError;

/// Loading and pinning programs and maps (`BPF`), programs that look into packets (`PERFMON`),
/// attaching them (`NET_ADMIN`), and on kernels below 5.11, which charge maps to the locked memory
/// of the process, its limit (`SYS_RESOURCE`).
const KEPT: CapabilitySet = REQUIRED.union(CapabilitySet::SYS_RESOURCE);

/// Those without which nothing works on any kernel.
const REQUIRED: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_ADMIN);

/// Looks whether the process may do what it is for, before it changes anything.
///
/// # Errors
/// [`AgentError::Privileges`] names what is missing.
pub fn require() -> Result<(), AgentError> {
    let held = capabilities(None).map_err(|error| AgentError::Process {
        action: "read the process's capabilities",
        source: error.into(),
    })?;
    match names_of_missing(held.effective) {
        None => Ok(()),
        Some(names) => Err(AgentError::Privileges(names)),
    }
}

/// The required capabilities that are not among these, such as "CAP_BPF, CAP_PERFMON are"; `None` when all are.
#[must_use]
pub fn names_of_missing(effective: CapabilitySet) -> Option<String> {
    let missing = REQUIRED.difference(effective);
    let names: Vec<_> = missing
        .iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    (!names.is_empty()).then(|| format!("{} {verb}", names.join(", ")))
}

/// Gives away every capability that the agent does not need, for this thread and those it starts:
/// call it before there are others. What is missing is not noticed here but where it is needed.
///
/// # Errors
/// When the kernel refuses.
pub fn drop_unneeded() -> io::Result<()> {
    let held = capabilities(None)?;
    if held.permitted.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(KEPT) {
            // A kernel older than a capability does not know it.
            if capability_is_in_bounding_set(capability) == Ok(true) {
                remove_capability_from_bounding_set(capability)?;
            }
        }
    }
    clear_ambient_capability_set()?;
    let kept = held.permitted.intersection(KEPT);
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: none,
        },
    )?;
    set_no_new_privs(true)
}
