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
    kernel::{KernelError, batch::Bulk},
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
    peers_v4: HashMap<MapData, [u8; 4], u32>,
    peers_v6: HashMap<MapData, [u8; 16], u32>,
    subnets_v4: LpmTrie<MapData, [u8; 4], u32>,
    subnets_v6: LpmTrie<MapData, [u8; 16], u32>,
    rule_counters: PerCpuArray<MapData, Raw<Counter>>,
    bulk: Bulks,
    reason_counters: PerCpuArray<MapData, Raw<Counter>>,
}

/// Those that are written in bulk.
struct Bulks {
    peer_classes: Bulk<u32, u32>,
    port_pages: Bulk<u32, Raw<PortPage>>,
    matrix: Bulk<u32, Raw<MatrixCell>>,
    peers_v4: Bulk<[u8; 4], u32>,
    peers_v6: Bulk<[u8; 16], u32>,
    rule_counters: Bulk<u32, Raw<Counter>>,
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
            peers_v4: open_map(pin_dir, "PEERS_V4")?,
            peers_v6: open_map(pin_dir, "PEERS_V6")?,
            subnets_v4: open_map(pin_dir, "SUBNETS_V4")?,
            subnets_v6: open_map(pin_dir, "SUBNETS_V6")?,
            rule_counters: open_map(pin_dir, "RULE_COUNTERS")?,
            bulk: Bulks {
                peer_classes: Bulk::open(pin_dir, "PEER_CLASSES")?,
                port_pages: Bulk::open(pin_dir, "PORT_PAGES")?,
                matrix: Bulk::open(pin_dir, "MATRIX")?,
                peers_v4: Bulk::open(pin_dir, "PEERS_V4")?,
                peers_v6: Bulk::open(pin_dir, "PEERS_V6")?,
                rule_counters: Bulk::open(pin_dir, "RULE_COUNTERS")?,
            },
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

    /// Executes operations of one kind; what a packet may be judged by soon is read back.
    ///
    /// # Errors
    /// As [`Maps::open`], and [`KernelError::ReadBack`]: some of them may be done.
    pub fn execute(&mut self, run: &[Operation]) -> Result<(), KernelError> {
        if let Some(operation) = run.first() {
            fail::step(operation.name())?;
        }
        let (mut indices, mut classes) = (Vec::new(), Vec::new());
        let (mut pages, mut cells, mut new_peers) = (Vec::new(), Vec::new(), Vec::new());
        for operation in run {
            match operation {
                Operation::SetPeerClass {
                    generation,
                    peer,
                    class,
                } => {
                    indices.push(peer_index(*generation, *peer));
                    classes.push(*class);
                }
                Operation::WritePage { index, page } => {
                    indices.push(*index);
                    pages.push(Raw(**page));
                }
                Operation::WriteCell { index, cell } => {
                    indices.push(*index);
                    cells.push(Raw(*cell));
                }
                Operation::InsertPeer { prefix, peer } => new_peers.push((*prefix, *peer)),
                Operation::RemovePeer { prefix } => self.remove_peer(prefix)?,
                Operation::WriteSettings(settings) => {
                    let index = slot_of(settings.generation);
                    write(&mut self.settings, "SETTINGS", index, Raw(*settings))?;
                }
                Operation::ZeroRuleCounters { generation, rules } => {
                    self.zero_rule_counters(*generation, *rules)?;
                }
                Operation::Flip { generation } => {
                    write(&mut self.generation, "GENERATION", 0, *generation)?;
                }
                Operation::Settle => settle(),
            }
        }
        match run.first() {
            Some(Operation::SetPeerClass { .. }) => {
                self.bulk.peer_classes.write_array(&indices, &classes)
            }
            Some(Operation::WritePage { .. }) => self.bulk.port_pages.write_array(&indices, &pages),
            Some(Operation::WriteCell { .. }) => self.bulk.matrix.write_array(&indices, &cells),
            _ => self.insert_peers(&new_peers),
        }
    }

    /// Packets and bytes under each reason, all CPUs together, since the maps were made.
    ///
    /// # Errors
    /// As [`Maps::open`].
    pub fn reasons(&self) -> Result<Vec<(Reason, Counter)>, KernelError> {
        Reason::ALL
            .into_iter()
            .map(|reason| Ok((reason, self.reason(reason)?)))
            .collect()
    }

    /// Packets under one reason, all CPUs together.
    ///
    /// # Errors
    /// As [`Maps::open`].
    pub fn reason(&self, reason: Reason) -> Result<Counter, KernelError> {
        sum(&self.reason_counters, "REASON_COUNTERS", reason as u32)
    }

    /// What a rule of a generation decided alone: exact, all CPUs together.
    ///
    /// # Errors
    /// As [`Maps::open`].
    pub fn rule(&self, generation: u32, rule: u32) -> Result<Counter, KernelError> {
        sum(
            &self.rule_counters,
            "RULE_COUNTERS",
            rule_index(generation, rule),
        )
    }

    fn insert_peers(&mut self, peers: &[(IpNet, u32)]) -> Result<(), KernelError> {
        let (mut v4, mut v6) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (prefix, peer) in peers {
            let host = prefix.prefix_len() == prefix.max_prefix_len();
            let length = u32::from(prefix.prefix_len());
            match (prefix.network(), host) {
                (IpAddr::V4(address), true) => {
                    v4.0.push(address.octets());
                    v4.1.push(*peer);
                }
                (IpAddr::V6(address), true) => {
                    v6.0.push(address.octets());
                    v6.1.push(*peer);
                }
                // Older kernels write no tries in bulk.
                (IpAddr::V4(address), false) => self
                    .subnets_v4
                    .insert(&Key::new(length, address.octets()), *peer, 0)
                    .map_err(writing("SUBNETS_V4"))?,
                (IpAddr::V6(address), false) => self
                    .subnets_v6
                    .insert(&Key::new(length, address.octets()), *peer, 0)
                    .map_err(writing("SUBNETS_V6"))?,
            }
        }
        self.bulk.peers_v4.write(&v4.0, &v4.1, 1)?;
        self.bulk.peers_v6.write(&v6.0, &v6.1, 1)?;
        Ok(())
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
        let rules = rules.min(MAX_RULES);
        let indices: Vec<u32> = (0..rules)
            .map(|rule| rule_index(generation, rule))
            .collect();
        let none = vec![Raw(Counter::default()); indices.len() * cpus];
        if self.bulk.rule_counters.write(&indices, &none, cpus)? {
            return Ok(());
        }
        // Linux before 5.13.
        for rule in 0..rules {
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
