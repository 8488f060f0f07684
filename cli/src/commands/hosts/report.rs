//! What a host reports of itself, for programs.

use anyhow::Result;
use ipnet::IpNet;
use jiff::Timestamp;
use proto::{
    host_report::HostReport,
    v1::{self, Standing},
};
use serde::Serialize;

use crate::{standing, time};

/// A host's report.
#[derive(Serialize)]
pub struct ReportLine {
    enforcement: &'static str,
    problems: Vec<String>,
    policed: Vec<String>,
    unpoliced: Vec<Unpoliced>,
    failsafe_subnets: Vec<IpNet>,
    failsafe_tcp_ports: Vec<u16>,
    incidents: Vec<Incident>,
}

#[derive(Serialize)]
struct Unpoliced {
    name: String,
    reason: String,
    carries_traffic: bool,
    is_problem: bool,
}

#[derive(Serialize)]
struct Incident {
    time: Timestamp,
    text: String,
}

impl ReportLine {
    /// Why the host falls short, in a sentence without its name.
    pub fn explain(&self, standing: Standing) -> String {
        let report = v1::HostReport {
            problems: self.problems.clone(),
            ..v1::HostReport::default()
        };
        standing::explain(standing, Some(&report))
    }

    /// The newest of what was done to the host's programs.
    pub fn newest_incident(&self) -> Option<String> {
        let Incident { time, text } = self.incidents.last()?;
        Some(format!("{time:.0}: {text}"))
    }
}

impl TryFrom<v1::HostReport> for ReportLine {
    type Error = anyhow::Error;

    fn try_from(report: v1::HostReport) -> Result<Self> {
        let HostReport {
            enforcement,
            policed,
            unpoliced,
            problems,
            failsafe_subnets,
            failsafe_tcp_ports,
            hosts_controller: _,
            incidents,
        } = HostReport::try_from(report)?;
        let unpoliced = unpoliced.into_iter().map(|it| Unpoliced {
            name: it.name,
            reason: it.reason,
            carries_traffic: it.carries_traffic,
            is_problem: it.is_problem,
        });
        let incidents = incidents.into_iter().map(|it| Incident {
            time: time::from_unix_ns(it.time_ns),
            text: it.text,
        });
        Ok(Self {
            enforcement: enforcement.word(),
            problems,
            policed: policed.into_iter().map(|it| it.name).collect(),
            unpoliced: unpoliced.collect(),
            failsafe_subnets,
            failsafe_tcp_ports,
            incidents: incidents.collect(),
        })
    }
}
