//! Executes plans on the in-memory tables.

use std::net::IpAddr;

use datapath::{
    layout::{Ipv4, Ipv6, peer_index, slot_of},
    memory::MemoryTables,
};
use ipnet::IpNet;

use super::Operation;

/// Does to the in-memory tables what the kernel's executor does to the maps.
pub fn execute(tables: &mut MemoryTables, operation: &Operation) {
    match operation {
        Operation::SetPeerClass {
            generation,
            peer,
            class,
        } => {
            tables
                .peer_classes
                .insert(peer_index(*generation, *peer), *class);
        }
        Operation::InsertPeer { prefix, peer } => {
            remove(tables, prefix);
            insert(tables, prefix, *peer);
        }
        Operation::RemovePeer { prefix } => remove(tables, prefix),
        Operation::WritePage { index, page } => {
            tables.port_pages.insert(*index, **page);
        }
        Operation::WriteCell { index, cell } => {
            tables.matrix.insert(*index, *cell);
        }
        Operation::WriteSettings(settings) => {
            tables.settings[slot_of(settings.generation) as usize] = Some(*settings);
        }
        Operation::ZeroRuleCounters { .. } => tables.rule_counters.borrow_mut().clear(),
        Operation::Flip { generation } => tables.generation.set(*generation),
        Operation::Settle => {}
    }
}

fn insert(tables: &mut MemoryTables, prefix: &IpNet, peer: u32) {
    let host = prefix.prefix_len() == prefix.max_prefix_len();
    let bits = prefix.prefix_len();
    match (prefix.network(), host) {
        (IpAddr::V4(address), true) => {
            tables.ipv4.exact.insert(Ipv4(address.octets()), peer);
        }
        (IpAddr::V6(address), true) => {
            tables.ipv6.exact.insert(Ipv6(address.octets()), peer);
        }
        (IpAddr::V4(address), false) => {
            let entry = (bits, Ipv4(address.octets()), peer);
            tables.ipv4.subnets.push(entry);
        }
        (IpAddr::V6(address), false) => {
            let entry = (bits, Ipv6(address.octets()), peer);
            tables.ipv6.subnets.push(entry);
        }
    }
}

fn remove(tables: &mut MemoryTables, prefix: &IpNet) {
    let bits = prefix.prefix_len();
    match prefix.network() {
        IpAddr::V4(address) => {
            let address = Ipv4(address.octets());
            if bits == 32 {
                tables.ipv4.exact.remove(&address);
            }
            let subnets = &mut tables.ipv4.subnets;
            subnets.retain(|(length, network, _)| (*length, *network) != (bits, address));
        }
        IpAddr::V6(address) => {
            let address = Ipv6(address.octets());
            if bits == 128 {
                tables.ipv6.exact.remove(&address);
            }
            let subnets = &mut tables.ipv6.subnets;
            subnets.retain(|(length, network, _)| (*length, *network) != (bits, address));
        }
    }
}
