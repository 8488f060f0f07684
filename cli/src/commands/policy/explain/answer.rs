//! An explanation as programs read it: what `eval` answers, and the rules behind it.

use std::net::IpAddr;

use policy::{
    Effect,
    evaluate::query::{Query, SideAnswer},
    explain::{Considered, Explanation, Role, SideExplanation},
    words::{Action, Mode, Tier},
};
use serde::Serialize;

use super::{obstacles, why};

/// The fields of an answer of `eval`, and more.
#[derive(Serialize)]
pub struct Answer<'a> {
    #[serde(flatten)]
    query: &'a Query,
    verdict: Effect,
    egress: Side<'a>,
    ingress: Side<'a>,
}

#[derive(Serialize)]
struct Side<'a> {
    #[serde(flatten)]
    verdict: SideAnswer,
    address: IpAddr,
    /// Null where no host has the address.
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined: Option<&'a str>,
    considered: Vec<Line<'a>>,
    /// Rules for other hosts, listed or not.
    not_for_host: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<Nearest<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    tier: Tier,
    rule: &'a str,
    file: &'a str,
    line: u32,
    action: Action,
    mode: Mode,
    enforced: Role,
    staged: Role,
    /// Why it does not match; empty where it does.
    mismatches: Vec<String>,
}

#[derive(Serialize)]
struct Nearest<'a> {
    rule: &'a str,
    file: &'a str,
    line: u32,
    /// What would have to be different.
    but: Vec<String>,
}

impl<'a> Answer<'a> {
    /// With `all`, the rules for other hosts are listed too.
    pub fn new(explanation: &'a Explanation, all: bool) -> Self {
        Self {
            query: &explanation.query,
            verdict: explanation.verdict,
            egress: Side::new(&explanation.egress, all),
            ingress: Side::new(&explanation.ingress, all),
        }
    }
}

impl<'a> Side<'a> {
    fn new(side: &'a SideExplanation, all: bool) -> Self {
        let listed = |rule: &&Considered| all || rule.selects();
        Self {
            verdict: SideAnswer::from(side.verdict.clone()),
            address: side.address,
            host: side.host.as_ref().map(|host| host.0.as_str()),
            quarantined: side.quarantined.as_ref().map(|host| host.0.as_str()),
            considered: side
                .considered
                .iter()
                .filter(listed)
                .map(Line::from)
                .collect(),
            not_for_host: side
                .considered
                .iter()
                .filter(|rule| !rule.selects())
                .count(),
            nearest: side.nearest.map(|nearest| {
                let origin = &side.considered[nearest.rule].origin;
                Nearest {
                    rule: &origin.rule,
                    file: &origin.file,
                    line: origin.line,
                    but: obstacles(side, nearest),
                }
            }),
        }
    }
}

impl<'a> From<&'a Considered> for Line<'a> {
    fn from(rule: &'a Considered) -> Self {
        let Considered {
            tier,
            action,
            mode,
            origin,
            mismatches: _,
            enforced,
            staged,
        } = rule;
        Self {
            tier: *tier,
            rule: &origin.rule,
            file: &origin.file,
            line: origin.line,
            action: *action,
            mode: *mode,
            enforced: *enforced,
            staged: *staged,
            mismatches: why(rule),
        }
    }
}
