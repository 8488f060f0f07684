//! Whether pinned maps are what this agent would make. Reusing a pinned map checks nothing by
//! itself, and a map of another shape would be read as garbage.

use std::{collections::HashMap, fs, path::Path};

use aya::maps::MapData;
use aya_obj::Object;

use crate::kernel::{KernelError, exists, raw_fd};

/// What remembers flows.
pub const FLOW_TABLES: [&str; 2] = ["FLOWS_V4", "FLOWS_V6"];

/// What makes two maps interchangeable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            key_size,
            value_size,
            max_entries,
            flags,
        } = self;
        write!(
            f,
            "type {kind}, key {key_size}, value {value_size}, {max_entries} entries, flags {flags:#x}"
        )
    }
}

/// Compares every pinned map with the object's; returns the size that the flow tables have or get.
///
/// Flow tables that are pinned keep their size, as another would mean to forget every flow.
///
/// # Errors
/// [`KernelError::Shape`] names the first map that differs.
pub fn check(object: &[u8], pin_dir: &Path, flows: u32) -> Result<u32, KernelError> {
    let object = Object::parse(object)
        .map_err(|error| KernelError::bpf("parsing the embedded BPF object", error))?;
    let mut flows_in_use = flows;
    for (name, map) in &object.maps {
        // Constants are part of a program and never pinned; a BPF file system takes no dots in names.
        if name.starts_with('.') {
            continue;
        }
        let path = pin_dir.join(name);
        if !exists(&path)? {
            continue;
        }
        let pinned = pinned_shape(&path)?;
        let mut expected = Shape {
            kind: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: map.max_entries(),
            flags: map.map_flags(),
        };
        if FLOW_TABLES.contains(&name.as_str()) {
            if pinned.max_entries != flows {
                tracing::warn!(
                    configured = flows,
                    kept = pinned.max_entries,
                    "the flow tables keep their size: `bulkhead-agent detach` and a start make new ones"
                );
            }
            flows_in_use = pinned.max_entries;
            expected.max_entries = pinned.max_entries;
        }
        if pinned != expected {
            return Err(KernelError::Shape {
                map: name.clone(),
                pin_dir: pin_dir.to_owned(),
                pinned: pinned.to_string(),
                expected: expected.to_string(),
            });
        }
    }
    Ok(flows_in_use)
}

fn pinned_shape(path: &Path) -> Result<Shape, KernelError> {
    let doing = || format!("reading the shape of {}", path.display());
    let map = MapData::from_pin(path).map_err(|error| KernelError::bpf(doing(), error))?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", raw_fd(&map)))
        .map_err(|error| KernelError::io(doing(), error))?;
    let fields: HashMap<&str, u32> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(name, value)| Some((name, number(value.trim())?)))
        .collect();
    let field = |name| fields.get(name).copied().unwrap_or_default();
    Ok(Shape {
        kind: field("map_type"),
        key_size: field("key_size"),
        value_size: field("value_size"),
        max_entries: field("max_entries"),
        flags: field("map_flags"),
    })
}

/// The kernel prints flags in hexadecimal.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
