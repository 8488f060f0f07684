//! The programs that the datapath is compared with, and what the maps of an agent weigh.

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions},
};

const OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BULKHEAD_LIMIT_OBJECT"));

/// Two programs on an interface, for as long as this lives.
pub struct Programs {
    ebpf: Ebpf,
    names: [&'static str; 2],
}

/// Does nothing, in both directions.
pub const EMPTY: [&str; 2] = ["empty", "empty"];
/// The least that a stateful filter does.
pub const LIMIT: [&str; 2] = ["limit_ingress", "limit_egress"];

impl Programs {
    pub fn attach(names: [&'static str; 2], interface: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("loading the programs to compare with")?;
        for (place, (name, at)) in names
            .into_iter()
            .zip([TcAttachType::Ingress, TcAttachType::Egress])
            .enumerate()
        {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .context("no such program")?
                .try_into()?;
            if place == 0 || names[0] != name {
                program.load().with_context(|| format!("loading {name}"))?;
            }
            program
                .attach(interface, at)
                .with_context(|| format!("attaching {name}"))?;
        }
        Ok(Self { ebpf, names })
    }

    /// Lets these come to a port.
    pub fn allow(&mut self, pairs: impl Iterator<Item = (Ipv4Addr, u16)>) -> Result<()> {
        let map = self.ebpf.map_mut("ALLOWED").context("no such map")?;
        let mut allowed: HashMap<&mut MapData, [u32; 2], u32> = HashMap::try_from(map)?;
        for (address, port) in pairs {
            let key = [
                u32::from_ne_bytes(address.octets()),
                u32::from(port.to_be()),
            ];
            allowed.insert(key, 1, 0)?;
        }
        Ok(())
    }

    /// Nanoseconds that a program takes for a frame.
    pub fn time(&mut self, ingress: bool, frame: &[u8], repeat: u32) -> Result<f64> {
        let name = self.names[usize::from(!ingress)];
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(name)
            .context("no such program")?
            .try_into()?;
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::default()
        };
        Ok(program.test_run(options)?.duration.as_nanos() as f64)
    }
}

/// Bytes that the kernel counts for the maps pinned in a directory, without the flow tables.
pub fn map_bytes(pin_dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(pin_dir).context("listing the pinned maps")? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() || name.to_string_lossy().starts_with("FLOWS_") {
            continue;
        }
        let map = MapData::from_pin(entry.path())
            .with_context(|| format!("opening {}", entry.path().display()))?;
        let fdinfo = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let fdinfo = fs::read_to_string(fdinfo)?;
        let memory = fdinfo
            .lines()
            .find_map(|line| line.strip_prefix("memlock:"));
        let memory = memory.context("the kernel does not tell what a map weighs")?;
        bytes += memory
            .trim()
            .parse::<u64>()
            .context("reading a map's weight")?;
    }
    Ok(bytes)
}
