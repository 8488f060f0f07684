//! What devices need to join their network, beside IP and ARP. Policy speaks of none of it, and no rule can.

/// Whether a frame that is neither IP nor ARP passes, by its addresses and its EtherType:
///
/// - spanning tree, link aggregation, LLDP, pause: to the sixteen addresses that bridges do not forward (IEEE
///   802.1Q, table 8-1); registration of VLANs and multicast groups, MVRP and MMRP (802.1Q, table 10-1);
/// - port authentication (IEEE 802.1X);
/// - the time of PTP, to its own address (IEEE 1588, annex E);
/// - RARP to all: what announces a machine that has moved to another host to the switches between;
/// - the same of Cisco: CDP, VTP, DTP, PAgP, UDLD and PVST+;
/// - a frame to its own sender, by which bonds of mode `balance-alb` teach switches, and switches look for loops
///   (Ethernet configuration testing, EtherType 0x9000).
///
/// Ports of bridges and bonds would drop off their network without.
#[inline(always)]
pub(super) const fn is_link_control(
    destination: [u8; 6],
    source: [u8; 6],
    ether_type: u16,
) -> bool {
    match (destination, ether_type) {
        ([0x01, 0x80, 0xc2, 0, 0, 0..=0x0f | 0x20 | 0x21], _) => true,
        (_, 0x888e) => true,
        ([0x01, 0x1b, 0x19, 0, 0, 0], 0x88f7) => true,
        ([0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 0x8035) => true,
        ([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc | 0xcd], ..1536) => true,
        ([a, b, c, d, e, f], 0x9000) => {
            let [g, h, i, j, k, l] = source;
            a == g && b == h && c == i && d == j && e == k && f == l
        }
        _ => false,
    }
}
