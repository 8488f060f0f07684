//! The kernel maps: what a plan's operations write, and what they are observed to hold.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use aya::{
    Pod,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key,
    },
    util::nr_cpus,
};
use datapath::{
    Reason,
    layout::{
        Counter, Layout, MAX_RULES, MatrixCell, PortPage, Settings, WORLD, peer_index, rule_index,
        slot_of,
    },
};
use ipnet::IpNet;

use crate::{
    fail,
    kernel::KernelError,
    plan::{Observed, Operation},
};

/// A shared layout as a map value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Raw<T>(pub T);

// SAFETY: `Layout` promises no padding and no invalid bit pattern, and `Raw` is transparent.
unsafe impl<T: Layout> Pod for Raw<T> {}

/// The maps that user space writes or reads, opened by their pins.
pub struct Maps {
    generation: Array<MapData, u32>,
    settings: Array<MapData, Raw<Settings>>,
    peer_classes: Array<MapData, u32>,
    port_pages: Array<MapData, Raw<PortPage>>,
    matrix: Array<MapData, Raw<MatrixCell>>,
    peers_v4: HashMap<MapData, [u8; 4], u32>,
    peers_v6: HashMap<MapData, [u8; 16], u32>,
    subnets_v4: LpmTrie<MapData, [u8; 4], u32>,
    subnets_v6: LpmTrie<MapData, [u8; 16], u32>,
    rule_counters: PerCpuArray<MapData, Raw<Counter>>,
    reason_counters: PerCpuArray<MapData, Raw<Counter>>,
}

/// Opens one pinned map as the type it is used as.
pub fn open_map<M>(pin_dir: &Path, name: &'static str) -> Result<M, KernelError>
where
    M: TryFrom<Map, Error = MapError>,
{
    MapData::from_pin(pin_dir.join(name))
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(|error| KernelError::bpf(format!("opening the pinned map {name}"), error))
}

fn writing(map: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |error| KernelError::bpf(format!("writing the map {map}"), error)
}

fn reading(map: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |error| KernelError::bpf(format!("reading the map {map}"), error)
}

/// Writes an entry and reads it back.
fn write<V: Pod + PartialEq>(
    array: &mut Array<MapData, V>,
    name: &'static str,
    index: u32,
    value: V,
) -> Result<(), KernelError> {
    array.set(index, value, 0).map_err(writing(name))?;
    let found = array.get(&index, 0).map_err(reading(name))?;
    if found == value {
        Ok(())
    } else {
        Err(KernelError::ReadBack { map: name, index })
    }
}

impl<T: PartialEq> PartialEq for Raw<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Maps {
    /// Opens what is pinned in a directory.
    ///
    /// # Errors
    /// [`KernelError::Bpf`] and [`KernelError::NotPermitted`].
    pub fn open(pin_dir: &Path) -> Result<Self, KernelError> {
        Ok(Self {
            generation: open_map(pin_dir, "GENERATION")?,
            settings: open_map(pin_dir, "SETTINGS")?,
            peer_classes: open_map(pin_dir, "PEER_CLASSES")?,
            port_pages: open_map(pin_dir, "PORT_PAGES")?,
            matrix: open_map(pin_dir, "MATRIX")?,
            peers_v4: open_map(pin_dir, "PEERS_V4")?,
            peers_v6: open_map(pin_dir, "PEERS_V6")?,
            subnets_v4: open_map(pin_dir, "SUBNETS_V4")?,
            subnets_v6: open_map(pin_dir, "SUBNETS_V6")?,
            rule_counters: open_map(pin_dir, "RULE_COUNTERS")?,
            reason_counters: open_map(pin_dir, "REASON_COUNTERS")?,
        })
    }

    /// The live generation's settings; `None` before the first flip.
    ///
    /// # Errors
    /// As [`Maps::open`].
    pub fn live(&self) -> Result<Option<Settings>, KernelError> {
        let generation = self.generation.get(&0, 0).map_err(reading("GENERATION"))?;
        if generation == 0 {
            return Ok(None);
        }
        let Raw(settings) = self
            .settings
            .get(&slot_of(generation), 0)
            .map_err(reading("SETTINGS"))?;
        Ok(Some(settings))
    }

    /// What the maps hold.
    ///
    /// # Errors
    /// As [`Maps::open`].
    pub fn observe(&self) -> Result<Observed, KernelError> {
        let generation = self.generation.get(&0, 0).map_err(reading("GENERATION"))?;
        let mut peers = BTreeMap::new();
        for entry in self.peers_v4.iter() {
            let (address, peer) = entry.map_err(reading("PEERS_V4"))?;
            peers.insert(IpNet::from(IpAddr::from(address)), peer);
        }
        for entry in self.peers_v6.iter() {
            let (address, peer) = entry.map_err(reading("PEERS_V6"))?;
            peers.insert(IpNet::from(IpAddr::from(address)), peer);
        }
        for entry in self.subnets_v4.iter() {
            let (key, peer) = entry.map_err(reading("SUBNETS_V4"))?;
            insert_subnet(&mut peers, IpAddr::from(key.data()), key.prefix_len(), peer);
        }
        for entry in self.subnets_v6.iter() {
            let (key, peer) = entry.map_err(reading("SUBNETS_V6"))?;
            insert_subnet(&mut peers, IpAddr::from(key.data()), key.prefix_len(), peer);
        }
        let mut classes = BTreeMap::new();
        for peer in peers.values().copied().chain([WORLD]) {
            let index = peer_index(generation, peer);
            let class = self
                .peer_classes
                .get(&index, 0)
                .map_err(reading("PEER_CLASSES"))?;
            classes.insert(peer, class);
        }
        Ok(Observed {
            generation,
            peers,
            classes,
        })
    }

    /// Executes one operation; what a packet may be judged by soon is read back.
    ///
    /// # Errors
    /// As [`Maps::open`], and [`KernelError::ReadBack`].
    pub fn execute(&mut self, operation: &Operation) -> Result<(), KernelError> {
        fail::step(operation.name())?;
        match operation {
            Operation::SetPeerClass {
                generation,
                peer,
                class,
            } => {
                let index = peer_index(*generation, *peer);
                write(&mut self.peer_classes, "PEER_CLASSES", index, *class)
            }
            Operation::InsertPeer { prefix, peer } => self.insert_peer(prefix, *peer),
            Operation::RemovePeer { prefix } => self.remove_peer(prefix),
            Operation::WritePage { index, page } => {
                write(&mut self.port_pages, "PORT_PAGES", *index, Raw(**page))
            }
            Operation::WriteCell { index, cell } => {
                write(&mut self.matrix, "MATRIX", *index, Raw(*cell))
            }
            Operation::WriteSettings(settings) => {
                let index = slot_of(settings.generation);
                write(&mut self.settings, "SETTINGS", index, Raw(*settings))
            }
            Operation::ZeroRuleCounters { generation, rules } => {
                self.zero_rule_counters(*generation, *rules)
            }
            Operation::Flip { generation } => {
                write(&mut self.generation, "GENERATION", 0, *generation)
            }
            Operation::Settle => {
                settle();
                Ok(())
            }
        }
    }

    /// Packets and bytes under each reason, all CPUs together, since the maps were made.
    ///
    /// # Errors
    /// As [`Maps::open`].
    pub fn reasons(&self) -> Result<Vec<(Reason, Counter)>, KernelError> {
        Reason::ALL
            .into_iter()
            .map(|reason| {
                Ok((
                    reason,
                    sum(&self.reason_counters, "REASON_COUNTERS", reason as u32)?,
                ))
            })
            .collect()
    }

    /// What a rule of a generation decided alone: exact, all CPUs together.
    ///
    /// # Errors
    /// As [`Maps::open`].
    #[cfg(test)]
    pub fn rule(&self, generation: u32, rule: u32) -> Result<Counter, KernelError> {
        sum(
            &self.rule_counters,
            "RULE_COUNTERS",
            rule_index(generation, rule),
        )
    }

    fn insert_peer(&mut self, prefix: &IpNet, peer: u32) -> Result<(), KernelError> {
        let host = prefix.prefix_len() == prefix.max_prefix_len();
        let length = u32::from(prefix.prefix_len());
        match (prefix.network(), host) {
            (IpAddr::V4(address), true) => self
                .peers_v4
                .insert(address.octets(), peer, 0)
                .map_err(writing("PEERS_V4")),
            (IpAddr::V6(address), true) => self
                .peers_v6
                .insert(address.octets(), peer, 0)
                .map_err(writing("PEERS_V6")),
            (IpAddr::V4(address), false) => self
                .subnets_v4
                .insert(&Key::new(length, address.octets()), peer, 0)
                .map_err(writing("SUBNETS_V4")),
            (IpAddr::V6(address), false) => self
                .subnets_v6
                .insert(&Key::new(length, address.octets()), peer, 0)
                .map_err(writing("SUBNETS_V6")),
        }
    }

    fn remove_peer(&mut self, prefix: &IpNet) -> Result<(), KernelError> {
        let host = prefix.prefix_len() == prefix.max_prefix_len();
        let length = u32::from(prefix.prefix_len());
        match (prefix.network(), host) {
            (IpAddr::V4(address), true) => self
                .peers_v4
                .remove(&address.octets())
                .map_err(writing("PEERS_V4")),
            (IpAddr::V6(address), true) => self
                .peers_v6
                .remove(&address.octets())
                .map_err(writing("PEERS_V6")),
            (IpAddr::V4(address), false) => self
                .subnets_v4
                .remove(&Key::new(length, address.octets()))
                .map_err(writing("SUBNETS_V4")),
            (IpAddr::V6(address), false) => self
                .subnets_v6
                .remove(&Key::new(length, address.octets()))
                .map_err(writing("SUBNETS_V6")),
        }
    }

    fn zero_rule_counters(&mut self, generation: u32, rules: u32) -> Result<(), KernelError> {
        let failed = writing("RULE_COUNTERS");
        let cpus =
            nr_cpus().map_err(|(path, error)| KernelError::io(format!("reading {path}"), error))?;
        for rule in 0..rules.min(MAX_RULES) {
            let zeros = PerCpuValues::try_from(vec![Raw(Counter::default()); cpus])
                .map_err(|error| KernelError::io("sizing per-CPU values", error))?;
            if let Err(error) = self
                .rule_counters
                .set(rule_index(generation, rule), zeros, 0)
            {
                return Err(failed(error));
            }
        }
        Ok(())
    }
}

fn insert_subnet(peers: &mut BTreeMap<IpNet, u32>, address: IpAddr, length: u32, peer: u32) {
    // The trie holds only what was inserted, so the length always fits.
    let prefix = u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok());
    if let Some(prefix) = prefix {
        peers.insert(prefix, peer);
    }
}

fn sum(
    counters: &PerCpuArray<MapData, Raw<Counter>>,
    name: &'static str,
    index: u32,
) -> Result<Counter, KernelError> {
    let values = counters.get(&index, 0).map_err(reading(name))?;
    Ok(values
        .iter()
        .fold(Counter::default(), |total, Raw(counter)| Counter {
            packets: total.packets + counter.packets,
            bytes: total.bytes + counter.bytes,
        }))
}

/// Waits until every program that runs now has ended: programs run under RCU, and the global
/// membarrier is an RCU grace period (`kernel/sched/membarrier.c`).
fn settle() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Kernels with `nohz_full` refuse it. A program runs for microseconds, with preemption off
        // or within one softirq: this is longer than any by orders of magnitude.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Reads a shared layout from the bytes of a ring buffer entry, which has exactly its size.
pub fn read_layout<T: Layout>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "the caller compares the sizes");
    // SAFETY: there are as many bytes as the layout has, and every bit pattern is a value of it.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}
