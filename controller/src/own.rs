//! Where this controller is: the addresses that it announces to agents, and those of its machine.
//!
//! Announced are the addresses that `init --address` wrote to the file [`ADDRESSES`] of the data
//! directory, resolved. Those of the machine tell which host is the controller's own.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::files::write_private;

/// `HOST:PORT` a line: where agents and operators reach the controller.
pub const ADDRESSES: &str = "addresses";

/// The addresses at which the controller's own machine is reached. Loopback is none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Of both families.
    pub addresses: BTreeSet<IpAddr>,
    /// Those of them that agents are told.
    pub announced: BTreeSet<IpAddr>,
    /// The TCP port on which the controller listens.
    pub port: u16,
}

/// What is said of where the controller is.
#[derive(Clone, Debug)]
pub struct Names {
    /// `host:port` each, as agents are to dial.
    names: Vec<String>,
}

impl Names {
    /// Writes the file for a new controller.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(dir: &Path, addresses: &[String]) -> Result<()> {
        let mut text = String::from(
            "# Where agents and operators reach this controller, HOST:PORT a line. Agents are told these\n\
             # addresses and keep the way to them open. After a change: systemctl reload bulkhead-controller\n",
        );
        for address in addresses {
            text.push_str(address);
            text.push('\n');
        }
        write_private(&dir.join(ADDRESSES), &text)
    }

    /// Reads the file. One that an older version made has none: then it is the names in the
    /// controller's certificate, with the port on which it listens.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn read(dir: &Path, certificate_names: &[String], port: u16) -> Result<Self> {
        let path: PathBuf = dir.join(ADDRESSES);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let names = certificate_names.iter();
                let named = names.map(|name| match name.parse::<IpAddr>() {
                    Ok(address) => SocketAddr::new(address, port).to_string(),
                    Err(_) => format!("{name}:{port}"),
                });
                return Ok(Self {
                    names: named.collect(),
                });
            }
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", path.display()));
            }
        };
        let lines = text.lines().map(str::trim);
        let names = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Ok(Self {
            names: names.map(ToOwned::to_owned).collect(),
        })
    }

    /// The addresses behind the names, sorted; loopback and unspecified ones are left out, as they
    /// mean nothing to another host. None when a name does not resolve now: what was announced before
    /// stays.
    pub async fn resolve(&self) -> Option<Vec<SocketAddr>> {
        let mut found = BTreeSet::new();
        for name in &self.names {
            match tokio::net::lookup_host(name).await {
                Ok(addresses) => {
                    found.extend(addresses.map(|address| {
                        SocketAddr::new(address.ip().to_canonical(), address.port())
                    }))
                }
                Err(error) => {
                    tracing::warn!(
                        name,
                        %error,
                        "the controller's name does not resolve: agents keep the addresses that they have"
                    );
                    return None;
                }
            }
        }
        let elsewhere =
            |address: &SocketAddr| !address.ip().is_loopback() && !address.ip().is_unspecified();
        Some(found.into_iter().filter(elsewhere).collect())
    }
}

/// The addresses of this machine's interfaces, in the controller's network namespace, loopback left
/// out. What the kernel does not tell is left out too.
pub fn of_this_machine() -> BTreeSet<IpAddr> {
    let read = |name: &str| fs::read_to_string(name).unwrap_or_default();
    let v4 = local_v4(&read("/proc/self/net/fib_trie"));
    let v6 = local_v6(&read("/proc/self/net/if_inet6"));
    let all = v4.into_iter().map(IpAddr::V4);
    all.chain(v6.into_iter().map(IpAddr::V6))
        .filter(|address| !address.is_loopback())
        .collect()
}

/// The local addresses in the kernel's routes: `|-- ADDRESS`, and below it `/32 host LOCAL`.
fn local_v4(fib_trie: &str) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last);
        }
    }
    found
}

/// The addresses of interfaces: 32 hexadecimal digits begin each line. Link-local ones are left out.
fn local_v6(if_inet6: &str) -> BTreeSet<Ipv6Addr> {
    let address = |line: &str| u128::from_str_radix(line.get(..32)?, 16).ok();
    if_inet6
        .lines()
        .filter_map(address)
        .map(Ipv6Addr::from_bits)
        .filter(|address| !address.is_unicast_link_local())
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let trie = "\
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.0.0.0
        /24 link UNICAST
     |-- 10.0.0.5
        /32 host LOCAL
     |-- 10.0.0.255
        /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
";
        let addresses = ["10.0.0.5", "127.0.0.1"].map(|it| it.parse().unwrap());
        assert_eq!(local_v4(trie), BTreeSet::from(addresses));
        let inet6 = "\
fd000000000000000000000000000005 02 40 00 80     eth0
fe800000000000005054fffffe123456 02 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
";
        let addresses = ["fd00::5", "::1"].map(|it| it.parse().unwrap());
        assert_eq!(local_v6(inet6), BTreeSet::from(addresses));
        assert!(!of_this_machine().iter().any(IpAddr::is_loopback));
    }

    #[tokio::test]
    async fn what_init_was_given_is_announced_without_what_means_nothing_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let given = ["192.0.2.1:7443", "[fd00::1]:8443", "127.0.0.1:7443"].map(str::to_owned);
        Names::write(dir.path(), &given).unwrap();
        let names = Names::read(dir.path(), &[], 1).unwrap();
        let expected = ["192.0.2.1:7443", "[fd00::1]:8443"].map(|it| it.parse().unwrap());
        assert_eq!(names.resolve().await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_directory_of_an_older_version_announces_the_names_of_its_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["192.0.2.1".to_owned(), "fd00::1".to_owned()];
        let names = Names::read(dir.path(), &names, 9443).unwrap();
        let expected = ["192.0.2.1:9443", "[fd00::1]:9443"].map(|it| it.parse().unwrap());
        assert_eq!(names.resolve().await.unwrap(), expected);
        let unknown = Names::read(dir.path(), &["no-such-name.invalid".to_owned()], 1).unwrap();
        assert_eq!(unknown.resolve().await, None);
    }
}
