//! What to do with a token, on the host: a configuration that is filled in, and the commands.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

/// What is known about the host and about the way to it.
pub struct NextSteps<'a> {
    /// `host:port` each, as the operator's file has them.
    pub controllers: &'a [String],
    /// The name that the token fixes.
    pub host: Option<&'a str>,
    /// From where operators come; empty: nobody knows.
    pub failsafe: Vec<IpNet>,
    /// The operator named the failsafe.
    pub is_named: bool,
    /// When the token ends.
    pub expires: Option<Timestamp>,
}

/// The failsafe of an operator who names none: the addresses from which the operator works, alone.
pub fn failsafe_of(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpNet> {
    let mut subnets: Vec<IpNet> = addresses.into_iter().map(IpNet::from).collect();
    subnets.sort_unstable();
    subnets.dedup();
    subnets
}

impl NextSteps<'_> {
    /// `agent.toml`.
    pub fn config(&self) -> String {
        let subnets: Vec<String> = self.failsafe.iter().map(ToString::to_string).collect();
        let host_name = self.host.map_or_else(String::new, |host| {
            format!("host_name = {host:?}        # the token is for this name\n")
        });
        let comment = match (self.failsafe.is_empty(), self.is_named) {
            (true, _) => "EMPTY: a policy can close SSH to you; write your subnet here",
            (false, true) => "your way in: from here TCP 22 is open, whatever policy says",
            (false, false) => {
                "your way in: from here TCP 22 is open, whatever policy says. It is where you are now; widen it to your subnet"
            }
        };
        format!(
            "controllers = {:?}\n{host_name}[failsafe]\nsubnets = {subnets:?}        # {comment}\n",
            self.controllers
        )
    }

    /// What people read beside the token.
    pub fn text(&self) -> String {
        let until = self
            .expires
            .map(|time| format!(", until {time:.0}"))
            .unwrap_or_default();
        let host = self.host.unwrap_or("the new host");
        let config = self.config();
        let mut text = format!(
            "
It enrols one host, once{until}. On {host}, as root:

  install -d -m 0700 /etc/bulkhead
  (umask 077; cat > /etc/bulkhead/token)        # paste the token, end with Ctrl-D
  cat > /etc/bulkhead/agent.toml <<'END'
{config}END
  bulkhead-agent enroll --config /etc/bulkhead/agent.toml --token-file /etc/bulkhead/token
  rm /etc/bulkhead/token
  systemctl enable --now bulkhead-agent        # where the unit is installed; else: bulkhead-agent run --config /etc/bulkhead/agent.toml
"
        );
        if self.controllers.iter().any(|it| is_loopback(it)) {
            text.push_str(
                "\nNOTE: 127.0.0.1 is the controller for its own machine alone. On any other host, write the \
                 controller's\naddress there; `bulkhead-controller init --address HOST:PORT` puts it here.\n",
            );
        }
        if self.failsafe.is_empty() {
            text.push_str(
                "\nNOTE: the failsafe is empty, as this command was run at the controller itself. Give --failsafe \
                 SUBNET, or\nwrite your subnet there: without it a policy can close SSH to you.\n",
            );
        }
        text
    }
}

fn is_loopback(controller: &str) -> bool {
    let host = controller.rsplit_once(':').map_or(controller, |it| it.0);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn steps<'a>(controllers: &'a [String], failsafe: &[&str]) -> NextSteps<'a> {
        NextSteps {
            controllers,
            host: Some("web-1"),
            failsafe: failsafe.iter().map(|it| it.parse().unwrap()).collect(),
            is_named: false,
            expires: None,
        }
    }

    #[test]
    fn the_configuration_is_whole_and_nothing_is_left_empty_in_silence() {
        let controllers = ["10.0.0.1:7443".to_owned()];
        let filled = steps(&controllers, &["10.0.0.5/32"]).text();
        for line in [
            "controllers = [\"10.0.0.1:7443\"]\n",
            "host_name = \"web-1\"",
            "subnets = [\"10.0.0.5/32\"]",
        ] {
            assert!(filled.contains(line), "{filled}");
        }
        assert!(!filled.contains("NOTE"), "{filled}");
        let empty = steps(&controllers, &[]).text();
        assert!(
            empty.contains("EMPTY") && empty.contains("--failsafe"),
            "{empty}"
        );
        let local = ["127.0.0.1:7443".to_owned()];
        let local = steps(&local, &["10.0.0.5/32"]).text();
        assert!(local.contains("--address HOST:PORT"), "{local}");
    }

    #[test]
    fn loopback_is_seen_in_every_spelling() {
        for local in ["127.0.0.1:7443", "[::1]:7443", "localhost:7443"] {
            assert!(is_loopback(local), "{local}");
        }
        assert!(!is_loopback("ctl.example:7443") && !is_loopback("[fd00::1]:7443"));
    }
}
