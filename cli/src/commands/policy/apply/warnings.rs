//! What an operator is told of an apply beside its success: who is open, and who closes to the operator.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::IpAddr,
};

use anyhow::Result;
use policy::Origin;
use proto::{
    convert::address_from_bytes,
    v1::{ApplyPolicyResponse, Direction, LostAccess},
};
use serde::Serialize;

use crate::output::{count, printable, some};

/// More hosts than this are counted.
const MOST_NAMES: usize = 16;

/// What the controller found about an apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Warnings {
    /// Hosts to which something applies that is enforced.
    pub hosts_selected: u32,
    /// The others: they are open.
    pub hosts_not_selected: Vec<String>,
    /// Ways of this operator to hosts that are open before the apply and closed by it.
    pub lost_access: Vec<Lost>,
}

/// A way that is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    host: String,
    from: IpAddr,
    tcp_port: u32,
    /// `ingress` at the host, `egress` at the host where the operator works.
    direction: &'static str,
    rule: String,
    file: String,
    line: u32,
    /// The host's agent is too old to report its failsafe, which may cover it.
    failsafe_unknown: bool,
}

impl TryFrom<&ApplyPolicyResponse> for Warnings {
    type Error = anyhow::Error;

    fn try_from(answer: &ApplyPolicyResponse) -> Result<Self> {
        Ok(Self {
            hosts_selected: answer.hosts_selected,
            hosts_not_selected: answer.hosts_not_selected.clone(),
            lost_access: answer
                .lost_access
                .iter()
                .map(Lost::try_from)
                .collect::<Result<_>>()?,
        })
    }
}

impl TryFrom<&LostAccess> for Lost {
    type Error = anyhow::Error;

    fn try_from(lost: &LostAccess) -> Result<Self> {
        let LostAccess {
            host,
            operator_address,
            port,
            origin,
            direction: _,
            failsafe_unknown,
        } = lost;
        let Origin { rule, file, line } = Origin::from(origin.clone().unwrap_or_default());
        Ok(Self {
            host: host.clone(),
            from: address_from_bytes(operator_address)?,
            tcp_port: *port,
            direction: match lost.direction() {
                Direction::Egress => "egress",
                Direction::Ingress | Direction::Unspecified => "ingress",
            },
            rule,
            file,
            line,
            failsafe_unknown: *failsafe_unknown,
        })
    }
}

impl Warnings {
    /// Who closes to the operator: before the waiting.
    pub fn print_lost(&self, out: &mut impl Write) -> io::Result<()> {
        for lost in self.lost_access.iter().take(MOST_NAMES) {
            writeln!(out, "{}", printable(&lost.text()))?;
        }
        if self.lost_access.len() > MOST_NAMES {
            let hosts: BTreeSet<&str> = self
                .lost_access
                .iter()
                .skip(MOST_NAMES)
                .map(|lost| lost.host.as_str())
                .collect();
            writeln!(
                out,
                "and {} more: -o json lists all",
                count(hosts.len(), "host")
            )?;
        }
        Ok(())
    }

    /// Who is open: the last word, so that nobody takes "confirmed" for "protected".
    pub fn print_open(&self, out: &mut impl Write) -> io::Result<()> {
        let open = &self.hosts_not_selected;
        let all = open.len() + self.hosts_selected as usize;
        if all == 0 {
            return writeln!(
                out,
                "WARNING: no host is enrolled yet, so this protects nothing: `bulkhead token create`"
            );
        }
        if self.hosts_selected == 0 {
            writeln!(
                out,
                "WARNING: no policy selects any host, so nothing is denied anywhere. Compare the labels in \
                 `bulkhead hosts` with `match` of the segments"
            )?;
        }
        if open.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "open, as no policy that is enforced selects them ({} of {}): {}",
            open.len(),
            count(all, "host"),
            some(open, MOST_NAMES, ", ")
        )
    }
}

impl Lost {
    fn text(&self) -> String {
        let Self {
            host,
            from,
            tcp_port,
            direction,
            rule,
            file,
            line,
            failsafe_unknown,
        } = self;
        let place = if file.is_empty() {
            String::new()
        } else {
            format!(" ({file}:{line})")
        };
        let at = if *direction == "egress" {
            format!(" at the host that has {from}")
        } else {
            String::new()
        };
        let verb = if *failsafe_unknown {
            "may close"
        } else {
            "closes"
        };
        let unknown = if *failsafe_unknown {
            "; its agent is too old to say whether its failsafe covers you"
        } else {
            ""
        };
        format!(
            "{host} {verb} tcp/{tcp_port} to you at {from}: {rule}{place} denies it{at}{unknown}"
        )
    }
}
