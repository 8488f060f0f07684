//! The flow tables, as user space reads them.

use std::{net::IpAddr, path::Path, time::Duration};

use datapath::layout::{Address, Flow, FlowKey, FlowRecord, Ipv4, Ipv6, Layout, flow_kind};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    kernel::{KernelError, batch::Bulk, maps::Raw, ns_per_tick},
    rule_book::address,
};

/// A [`Flow`] as a map value: its fields are words.
type Words = [u64; size_of::<Flow>() / size_of::<u64>()];

/// Ticks are counted from five minutes before 32 bits of them are full (`INITIAL_JIFFIES` in
/// `include/linux/jiffies.h`), in nanoseconds.
const BEFORE_FULL: u64 = 300_000_000_000;

/// A flow that the kernel remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFlow {
    /// Which packets are its own; ports are 0 without.
    pub key: FlowKey<IpAddr>,
    /// What is known of it.
    pub record: FlowRecord,
    /// Since a packet of it passed, to about a second.
    pub idle: Duration,
    /// Whether it is past its timeout: the next packet is judged anew, and its room is free for others.
    pub expired: bool,
    /// Packets and bytes that came in.
    pub ingress: (u64, u64),
    /// Packets and bytes that went out.
    pub egress: (u64, u64),
}

/// How full the flow table of a family is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Flows that are not past their timeouts.
    pub live: u32,
    /// Those that it has room for.
    pub slots: u32,
}

impl Census {
    /// Of all slots, 0 to 100.
    #[must_use]
    pub fn percent(self) -> u32 {
        let percent = u64::from(self.live) * 100 / u64::from(self.slots.max(1));
        u32::try_from(percent).unwrap_or(100).min(100)
    }
}

/// Calls `each` for every flow in the pinned tables, in no order.
///
/// # Errors
/// [`KernelError::Bpf`] and [`KernelError::NotPermitted`].
pub fn flows(pin_dir: &Path, mut each: impl FnMut(KnownFlow)) -> Result<(), KernelError> {
    walk::<Ipv4>(pin_dir, "FLOWS_V4", &mut each)?;
    walk::<Ipv6>(pin_dir, "FLOWS_V6", &mut each)?;
    Ok(())
}

/// How full the pinned tables are: of IPv4, and of IPv6.
///
/// # Errors
/// As [`flows`].
pub fn census(pin_dir: &Path) -> Result<[Census; 2], KernelError> {
    let mut live = [0_u32; 2];
    let mut count = |flow: KnownFlow| {
        let family = usize::from(flow.key.remote.is_ipv6());
        live[family] += u32::from(!flow.expired);
    };
    let slots = [
        walk::<Ipv4>(pin_dir, "FLOWS_V4", &mut count)?,
        walk::<Ipv6>(pin_dir, "FLOWS_V6", &mut count)?,
    ];
    Ok([0, 1].map(|family| Census {
        live: live[family],
        slots: slots[family],
    }))
}

/// Calls `each` for every flow in a table; how many there is room for.
fn walk<A>(
    pin_dir: &Path,
    name: &'static str,
    each: &mut impl FnMut(KnownFlow),
) -> Result<u32, KernelError>
where
    A: Address,
    FlowKey<A>: Layout,
{
    let table: Bulk<Raw<FlowKey<A>>, Words> = Bulk::open(pin_dir, name)?;
    let none = Raw(FlowKey {
        remote: A::UNSPECIFIED,
        local: A::UNSPECIFIED,
        remote_port: 0,
        local_port: 0,
        protocol: 0,
        kind: flow_kind::PACKETS,
        zeros: 0,
    });
    let now = ticks();
    table.walk(none, Words::default(), |Raw(key), words| {
        each(known(key, words, now));
    })?;
    table.max_entries()
}

fn known<A: Address>(key: &FlowKey<A>, words: &Words, now: u64) -> KnownFlow {
    let flow = Flow::from_words(*words);
    let FlowKey {
        remote,
        local,
        remote_port,
        local_port,
        protocol,
        kind,
        zeros,
    } = *key;
    let traffic =
        |traffic: &datapath::layout::Traffic| (traffic.packets.get(), traffic.bytes.get());
    KnownFlow {
        key: FlowKey {
            remote: address(A::FAMILY, remote.widen()),
            local: address(A::FAMILY, local.widen()),
            remote_port,
            local_port,
            protocol,
            kind,
            zeros,
        },
        record: flow.record.get(),
        idle: Duration::from_nanos(now.saturating_sub(flow.last_seen.get())),
        expired: now > flow.expires.get(),
        ingress: traffic(&flow.ingress),
        egress: traffic(&flow.egress),
    }
}

/// The time that the programs would read now, in nanoseconds: the monotonic clock moves the ticks on
/// (`tick_do_update_jiffies64` in `kernel/time/tick-sched.c`).
fn ticks() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    );
    let tick = ns_per_tick().max(1);
    let since_boot = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    (tick << 32)
        .saturating_sub(BEFORE_FULL)
        .saturating_add(since_boot)
}
