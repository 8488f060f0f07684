//! Which resolvers this host asks, so that no policy keeps it from finding a controller that is known by name.

use std::{collections::BTreeSet, fs, net::IpAddr};

/// What the C library reads.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved, which listens on 127.0.0.53, writes the resolvers that it asks.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The resolvers of this host, but for loopback ones, which need no leave; empty where none is configured or
/// the configuration cannot be read.
#[must_use]
pub fn of_this_host() -> BTreeSet<IpAddr> {
    let listed = listed_in(RESOLV_CONF);
    let mut resolvers = listed.clone();
    if listed.iter().any(|address| address.is_loopback()) {
        resolvers.extend(listed_in(BEHIND_RESOLVED));
    }
    resolvers.retain(|address| !address.is_loopback() && !address.is_unspecified());
    resolvers
}

fn listed_in(path: &str) -> BTreeSet<IpAddr> {
    match fs::read_to_string(path) {
        Ok(text) => nameservers(&text),
        Err(error) => {
            tracing::debug!(path, %error, "no resolvers are read");
            BTreeSet::new()
        }
    }
}

/// The `nameserver` lines (resolv.conf(5)); an IPv6 address may name its interface behind a `%`.
fn nameservers(text: &str) -> BTreeSet<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next().filter(|word| *word == "nameserver")?;
            let address = words.next()?;
            let address = address.split_once('%').map_or(address, |(bare, _)| bare);
            Some(address.parse::<IpAddr>().ok()?.to_canonical())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn resolvers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 10.0.0.1\nsearch example.net\nnameserver 10.0.0.2\n\
            nameserver\t fe80::1%eth0 \nnameserver bad\noptions edns0\nnameserver ::ffff:10.0.0.3";
        let expected: BTreeSet<IpAddr> = ["10.0.0.2", "fe80::1", "10.0.0.3"]
            .map(|address| address.parse().unwrap())
            .into();
        assert_eq!(nameservers(text), expected);
    }
}
