//! Where the operator works.

use std::{env, net::IpAddr};

/// The far end of the SSH session in which the tool runs: where the operator sits. None outside one.
pub fn own_ssh() -> Option<IpAddr> {
    far_end(&env::var("SSH_CONNECTION").ok()?)
}

/// `CLIENT PORT SERVER PORT`, as sshd sets it. An address of this machine or this link is none.
fn far_end(connection: &str) -> Option<IpAddr> {
    let address = connection.split_whitespace().next()?;
    let address: IpAddr = address.parse::<IpAddr>().ok()?.to_canonical();
    let is_elsewhere = !address.is_loopback()
        && match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        };
    is_elsewhere.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_end_of_an_ssh_session_is_read() {
        let address = |text| far_end(text).map(|address| address.to_string());
        assert_eq!(
            address("198.51.100.7 53122 10.0.0.1 22").as_deref(),
            Some("198.51.100.7")
        );
        assert_eq!(
            address("::ffff:198.51.100.7 53122 ::1 22").as_deref(),
            Some("198.51.100.7")
        );
        for none in [
            "",
            "127.0.0.1 1 127.0.0.1 22",
            "fe80::1%eth0 1 fe80::2 22",
            "x 1 y 2",
        ] {
            assert_eq!(address(none), None, "{none}");
        }
    }
}
