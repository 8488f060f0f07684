//! `bulkhead-agent flows`: the connections that the kernel remembers.

use std::{fmt, net::IpAddr};

use datapath::{
    headers::protocol,
    layout::{Grounds, Opener, flow_kind, flow_state},
};
use policy::service::literal::protocol_word;
use serde::Serialize;

use crate::{
    columns,
    config::Config,
    error::AgentError,
    kernel::{self, KnownFlow},
};

/// What the flow tables hold, the last packet first.
#[derive(Debug)]
pub struct FlowList(Vec<FlowLine>);

/// One flow, seen from this host.
#[derive(Debug, Serialize)]
pub struct FlowLine {
    /// As a policy writes it.
    protocol: String,
    remote_address: IpAddr,
    /// None without ports.
    remote_port: Option<u16>,
    local_address: IpAddr,
    /// None without ports.
    local_port: Option<u16>,
    state: &'static str,
    opened_by: &'static str,
    /// The tables that have judged it.
    generation: u32,
    idle_seconds: u64,
    /// Past its timeout: its next packet is judged anew.
    expired: bool,
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
}

impl FlowList {
    /// Reads the tables; expired flows too with `all`.
    ///
    /// # Errors
    /// When nothing is pinned, or the pins cannot be read.
    pub fn look(config: &Config, all: bool) -> Result<Self, AgentError> {
        let mut lines = Vec::new();
        kernel::flows(&config.pin_dir(), |flow| {
            if all || !flow.expired {
                lines.push(FlowLine::from(flow));
            }
        })
        .map_err(crate::enforcer::EnforceError::from)?;
        lines.sort_by_key(|line| line.idle_seconds);
        Ok(Self(lines))
    }

    /// One by one.
    pub fn lines(&self) -> impl Iterator<Item = &FlowLine> {
        self.0.iter()
    }
}

impl From<KnownFlow> for FlowLine {
    fn from(flow: KnownFlow) -> Self {
        let KnownFlow {
            key,
            record,
            idle,
            expired,
            ingress,
            egress,
        } = flow;
        let has_ports = matches!(key.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        let (packets_in, bytes_in) = ingress;
        let (packets_out, bytes_out) = egress;
        Self {
            protocol: protocol_word(key.protocol),
            remote_address: key.remote,
            remote_port: has_ports.then_some(key.remote_port),
            local_address: key.local,
            local_port: has_ports.then_some(key.local_port),
            state: match (key.kind, record.state()) {
                // Its ports are the transaction id.
                (flow_kind::DHCP_EXCHANGE, _) => "dhcp exchange",
                (flow_kind::DHCP_SERVER, _) => "dhcp server",
                (_, flow_state::NEW) => "new",
                (_, flow_state::ESTABLISHED) => "established",
                (_, flow_state::CLOSING) => "closing",
                (_, _) => "revoked",
            },
            opened_by: match (record.grounds(), record.opener()) {
                (Grounds::Seen, Opener::Remote) => "remote",
                (Grounds::Seen, Opener::Local) => "local",
                (_, Opener::Remote) => "remote, guessed",
                (_, Opener::Local) => "local, guessed",
                (_, Opener::Unknown) => "unknown",
                (_, Opener::Both) => "both",
            },
            generation: record.generation(),
            idle_seconds: idle.as_secs(),
            expired,
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
        }
    }
}

const HEADINGS: [&str; 8] = [
    "PROTOCOL",
    "REMOTE",
    "LOCAL",
    "STATE",
    "OPENED BY",
    "IN",
    "OUT",
    "IDLE",
];

impl FlowLine {
    fn cells(&self) -> [String; 8] {
        let end = |address: IpAddr, port: Option<u16>| match (address, port) {
            (address, None) => address.to_string(),
            (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        };
        let traffic = |packets: u64, bytes: u64| format!("{packets} ({bytes} B)");
        let idle = if self.expired {
            format!("{} s, expired", self.idle_seconds)
        } else {
            format!("{} s", self.idle_seconds)
        };
        [
            self.protocol.clone(),
            end(self.remote_address, self.remote_port),
            end(self.local_address, self.local_port),
            self.state.to_owned(),
            self.opened_by.to_owned(),
            traffic(self.packets_in, self.bytes_in),
            traffic(self.packets_out, self.bytes_out),
            idle,
        ]
    }
}

/// A table for people.
impl fmt::Display for FlowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&columns::table(
            HEADINGS,
            self.0.iter().map(FlowLine::cells),
        ))
    }
}
