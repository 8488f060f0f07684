//! What user space hears of packets that are dropped before any rule can judge them: of those that have reason,
//! direction, interface, EtherType, protocol and the other end's MAC address in common one event an interval.
//!
//! They have rates of their own, of each reason and of each MAC address: whoever floods with frames that nobody can
//! read takes nothing from the events of denied flows, and nothing from those of another reason.

use crate::{
    decide::{
        Judge, SECOND,
        report::{BURST, RESERVE},
    },
    layout::{
        Address, Direction, Event, Ipv4, Ipv6, Ruling, Shared, UnparsedKey, UnparsedSum, budget,
        event_kind,
    },
    packet::Packet,
    reason::Reason,
    tables::Tables,
};

/// The part of all events that a reason may take, and the part that a MAC address may take of it.
const OF_ALL: u64 = 50;
const OF_MAC: u64 = 5;

/// Eight bytes of a packet; zeros where it ends before. A function of its own in the kernel, as loads take much of the
/// stack.
#[inline(never)]
fn word<P: Packet + ?Sized>(packet: &P, at: u32) -> u64 {
    match packet.load_far(at) {
        Some(bytes) => u64::from_be_bytes(bytes),
        None => 0,
    }
}

/// Two words as the bytes of an address.
#[inline(always)]
fn wide(high: u64, low: u64) -> [u8; 16] {
    let [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]] =
        [high.to_be_bytes(), low.to_be_bytes()];
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

impl<T: Tables> Judge<'_, T> {
    /// Sums a packet that is dropped, and reports what is to be heard of. It returns the same number whatever it
    /// does, for the kernel's verifier.
    #[inline(never)]
    pub(super) fn tell_unparsed<P: Packet + ?Sized>(&self, packet: &P, reason: Reason) -> u32 {
        let from = match self.direction {
            Direction::Ingress => 6,
            Direction::Egress => 0,
        };
        let [a, b, c, d, e, f, _, _] = word(packet, from).to_be_bytes();
        let mut key = UnparsedKey {
            mac: [a, b, c, d, e, f],
            ether_type: 0,
            interface: packet.interface(),
            reason: reason as u8,
            direction: self.direction.number(),
            protocol: 0,
            zero: 0,
        };
        let mut at = 12;
        for _ in 0..3 {
            key.ether_type = (word(packet, at) >> 48) as u16;
            at += 2;
            if !matches!(key.ether_type, 0x8100 | 0x88a8) {
                break;
            }
            at += 2;
        }
        let head = word(packet, at);
        let family = match (key.ether_type, head >> 60) {
            (0x0800, 4) => {
                key.protocol = (word(packet, at + 2) & 0xff) as u8;
                Ipv4::FAMILY
            }
            (0x86dd, 6) => {
                key.protocol = (head >> 8) as u8;
                Ipv6::FAMILY
            }
            _ => 0,
        };
        let Some(packets) = self.unparsed_repeats(&key) else {
            return 0;
        };
        let mut words = [0; 4];
        if family == Ipv4::FAMILY {
            let both = word(packet, at + 12);
            words = [both & 0xffff_ffff_0000_0000, 0, both << 32, 0];
        } else if family == Ipv6::FAMILY {
            words = [
                word(packet, at + 8),
                word(packet, at + 16),
                word(packet, at + 24),
                word(packet, at + 32),
            ];
        }
        if matches!(self.direction, Direction::Egress) {
            let [a, b, c, d] = words;
            words = [c, d, a, b];
        }
        self.hand_over(&Event {
            time: self.now,
            packets,
            generation: self.generation,
            ruling: Ruling::NO_ANSWER,
            remote: wide(words[0], words[1]),
            local: wide(words[2], words[3]),
            remote_port: 0,
            local_port: 0,
            protocol: key.protocol,
            family,
            direction: key.direction,
            reason: key.reason,
            kind: event_kind::UNPARSED,
            staged_allows: 0,
            ether_type: key.ether_type,
            lost: self.lost(),
            interface: key.interface,
            mac: key.mac,
            padding: [0; 2],
            zero: 0,
        });
        0
    }

    /// The packets that a report stands for; `None` while the last one is fresh, and where the rates are used up.
    /// What is not reported now is summed for later.
    #[inline(always)]
    fn unparsed_repeats(&self, key: &UnparsedKey) -> Option<u64> {
        let Some(sum) = self.tables.unparsed(key) else {
            let may = self.may_report_unparsed(key);
            let sum = UnparsedSum {
                reported: Shared::new(self.now),
                packets: Shared::new(u64::from(!may)),
            };
            self.tables.insert_unparsed(key, &sum);
            return may.then_some(1);
        };
        let packets = sum.packets.get() + 1;
        sum.packets.set(packets);
        let settings = self.tables.settings(self.generation);
        let interval = settings.map_or(SECOND, |settings| settings.report_interval);
        if self.now.saturating_sub(sum.reported.get()) < interval {
            return None;
        }
        sum.reported.set(self.now);
        let may = self.may_report_unparsed(key);
        if may {
            sum.packets.set(0);
        }
        may.then_some(packets)
    }

    /// Takes an event from the rates of its reason and of its MAC address. One that has not been reported for a
    /// while finds a part left for it.
    #[inline(never)]
    fn may_report_unparsed(&self, key: &UnparsedKey) -> bool {
        let buckets = (
            self.tables.budget(budget::of_reason(key.reason)),
            self.tables.budget(budget::of_mac(key.mac)),
            self.tables.settings(self.generation),
        );
        let (Some(reason), Some(mac), Some(settings)) = buckets else {
            self.lose(Reason::EventLimited);
            return false;
        };
        let now = self.now;
        let most = if mac.get() <= now {
            BURST
        } else {
            BURST - RESERVE
        };
        let used = |bucket: &Shared<u64>| bucket.get().saturating_sub(now);
        if used(reason) > most || used(mac) > BURST {
            self.lose(Reason::EventLimited);
            return false;
        }
        let interval = u64::from(settings.limits.total) * OF_ALL;
        reason.set(reason.get().max(now) + interval);
        mac.set(mac.get().max(now) + interval * OF_MAC);
        true
    }
}
