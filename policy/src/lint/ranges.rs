//! Sets of addresses as ranges, for exact answers about containment.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::host_policy::SubnetMatch;

/// A set of addresses: sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range>);

/// The addresses of one family from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    is_v6: bool,
    first: u128,
    last: u128,
}

impl Ranges {
    /// Whether every address of the other set is in this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|inner| {
            let after = self
                .0
                .partition_point(|outer| (outer.is_v6, outer.first) <= (inner.is_v6, inner.first));
            let outer = after.checked_sub(1).map(|at| self.0[at]);
            outer.is_some_and(|outer| outer.is_v6 == inner.is_v6 && outer.last >= inner.last)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it holds every address of IPv4, or every one of IPv6.
    pub(super) fn holds_a_family(&self) -> bool {
        self.0.iter().any(Range::is_whole)
    }

    /// Whether it holds every address.
    pub(super) fn is_everything(&self) -> bool {
        self.0.len() == 2 && self.0.iter().all(Range::is_whole)
    }

    /// The subnet less its exceptions.
    fn add(ranges: &mut Vec<Range>, subnet: &SubnetMatch) {
        let mut rest = Some(Range::from(subnet.subnet));
        let holes: Self = subnet
            .except
            .iter()
            .copied()
            .map(SubnetMatch::from)
            .collect();
        for hole in holes.0 {
            let Some(range) = rest else { break };
            if hole.is_v6 != range.is_v6 || hole.last < range.first || range.last < hole.first {
                continue;
            }
            if range.first < hole.first {
                ranges.push(Range {
                    last: hole.first - 1,
                    ..range
                });
            }
            rest = (hole.last < range.last).then(|| Range {
                first: hole.last + 1,
                ..range
            });
        }
        ranges.extend(rest);
    }
}

impl FromIterator<SubnetMatch> for Ranges {
    fn from_iter<I: IntoIterator<Item = SubnetMatch>>(subnets: I) -> Self {
        let mut ranges = Vec::new();
        for subnet in subnets {
            if subnet.except.is_empty() {
                ranges.push(Range::from(subnet.subnet));
            } else {
                Self::add(&mut ranges, &subnet);
            }
        }
        ranges.sort_unstable();
        let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last)
                    if last.is_v6 == range.is_v6 && range.first <= last.last.saturating_add(1) =>
                {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl Range {
    fn is_whole(&self) -> bool {
        let last = if self.is_v6 {
            u128::MAX
        } else {
            u32::MAX.into()
        };
        (self.first, self.last) == (0, last)
    }
}

impl From<IpNet> for Range {
    fn from(subnet: IpNet) -> Self {
        let number = |address| match address {
            IpAddr::V4(address) => u32::from(address).into(),
            IpAddr::V6(address) => u128::from(address),
        };
        Self {
            is_v6: subnet.addr().is_ipv6(),
            first: number(subnet.network()),
            last: number(subnet.broadcast()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn ranges(texts: &[&str]) -> Ranges {
        texts
            .iter()
            .map(|text| {
                let mut parts = text.split('-').map(|part| part.parse::<IpNet>().unwrap());
                SubnetMatch {
                    subnet: parts.next().unwrap(),
                    except: parts.collect(),
                }
            })
            .collect()
    }

    #[test]
    fn halves_cover_the_whole_and_a_hole_is_not_covered() {
        let halves = ranges(&["10.0.0.0/9", "10.128.0.0/9"]);
        assert!(halves.covers(&ranges(&["10.0.0.0/8"])));
        assert!(halves.covers(&ranges(&["10.0.0.0/8-10.1.0.0/16", "10.3.0.0/16"])));
        assert!(!halves.covers(&ranges(&["10.0.0.0/7"])));
        assert!(!halves.covers(&ranges(&["a00::/16"])));
        assert!(!ranges(&["10.0.0.0/8-10.1.0.7/32"]).covers(&ranges(&["10.1.0.0/24"])));
        assert!(ranges(&["10.0.0.0/8-10.1.0.7/32"]).covers(&ranges(&["10.1.0.0/30"])));
    }

    #[test]
    fn a_subnet_wholly_excepted_is_empty() {
        assert!(ranges(&["10.0.0.0/8-10.0.0.0/9-10.128.0.0/9"]).is_empty());
        assert!(ranges(&["::/0-::/0"]).is_empty());
        assert!(!ranges(&["10.0.0.0/8-10.0.0.0/9-10.129.0.0/16"]).is_empty());
    }

    #[test]
    fn everything_is_both_families() {
        assert!(ranges(&["0.0.0.0/1", "128.0.0.0/1"]).holds_a_family());
        assert!(!ranges(&["0.0.0.0/0"]).is_everything());
        assert!(ranges(&["::/0", "0.0.0.0/0"]).is_everything());
        assert!(!ranges(&["0.0.0.0/0-8.8.8.8/32"]).holds_a_family());
    }
}
