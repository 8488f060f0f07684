//! When policy stops allowing a connection, its next packet in either direction is dropped.

use anyhow::{Result, ensure};
use lab::{BusyConnection, Family, HostSpec, LONG, Lab, Tap, wait_until};

use crate::policies::policy;

/// Who opens and who accepts; a host's place here is its end of the connections.
const HOSTS: [HostSpec; 2] = [HostSpec::WEB, HostSpec::APP];

/// Opens connections on two ports over both families, revokes one port at one of the ends, and
/// expects its connections cut in both directions and the others untouched.
fn revoke(before: &[&str], after: &[&str], revoker: usize) -> Result<()> {
    Lab::run(&HOSTS, |lab| {
        lab.apply(&policy(before))?;
        let mut watched = Vec::new();
        let mut kept = Vec::new();
        for family in Family::ALL {
            let connection = lab.busy("web-1", "app-1", revoked_port(family), family)?;
            watched.push(Watched::new(lab, connection, revoker)?);
            kept.push(lab.busy("web-1", "app-1", kept_port(family), family)?);
        }
        for connection in watched.iter().map(|w| &w.connection).chain(&kept) {
            connection.expect_progress()?;
        }
        lab.apply(&policy(after))?;
        // First what has passed of each, then what has not passed since: TCP tries ever more seldom.
        let before: Result<Vec<Seen>> = watched.iter().map(|w| w.once_denied(lab)).collect();
        for (connection, before) in watched.iter().zip(before?) {
            connection.expect_nothing_passes_since(&before, lab)?;
            connection.connection.expect_silence()?;
        }
        for connection in &kept {
            connection.expect_progress()?;
        }
        Ok(())
    })
}

/// A connection, seen from both of its ends. Silence is no proof of a cut in both directions: TCP
/// stalls when one of them is cut. So packets are counted. The host that revokes drops at its egress
/// what it sends, so that none leaves it and none arrives at the other host; and at its ingress what
/// arrives from there, so that none comes through to its TCP.
struct Watched {
    connection: BusyConnection,
    /// The end at the host that revokes.
    revoker: usize,
    taps: [Tap; 2],
}

/// How many packets of a connection have been seen where.
#[derive(Debug)]
struct Seen {
    /// At the interface of each host, of those that each end sent.
    at: [[u64; 2]; 2],
    /// By the TCP of the host that revokes: what came through to it.
    received: u64,
    /// By the same: what it tried to send.
    sent: u64,
    /// In the denials of that host.
    reported: u64,
}

impl Watched {
    fn new(lab: &Lab, connection: BusyConnection, revoker: usize) -> Result<Self> {
        let taps = [
            lab.tap(HOSTS[0].place.name, &connection)?,
            lab.tap(HOSTS[1].place.name, &connection)?,
        ];
        Ok(Self {
            connection,
            revoker,
            taps,
        })
    }

    /// What has been seen of it when the first denial is reported.
    fn once_denied(&self, lab: &Lab) -> Result<Seen> {
        wait_until(
            "the first denial",
            LONG,
            || Ok(self.seen(lab)?.reported > 0),
        )?;
        self.seen(lab)
    }

    fn expect_nothing_passes_since(&self, before: &Seen, lab: &Lab) -> Result<()> {
        let host = HOSTS[self.revoker].place.name;
        let other = 1 - self.revoker;
        wait_until("both ends to try again, and fail", LONG, || {
            let now = self.seen(lab)?;
            Ok(now.at[0][other] > before.at[0][other]
                && now.at[1][other] > before.at[1][other]
                && now.sent > before.sent
                && now.reported > before.reported)
        })?;
        let now = self.seen(lab)?;
        ensure!(
            [0, 1].map(|end: usize| now.at[end][self.revoker] - before.at[end][self.revoker])
                == [0, 0],
            "packets of {host} left it, or arrived at the other host: {before:?}, then {now:?}"
        );
        ensure!(
            now.received == before.received,
            "packets of the other host came through to {host}: {before:?}, then {now:?}"
        );
        Ok(())
    }

    fn seen(&self, lab: &Lab) -> Result<Seen> {
        let host = HOSTS[self.revoker].place.name;
        let [received, sent] = lab.segments(host, &self.connection)?;
        Ok(Seen {
            at: [self.taps[0].counts(), self.taps[1].counts()],
            received,
            sent,
            reported: self.reported(lab)?,
        })
    }

    /// Packets of the connection, in both directions, that the host that revokes has reported.
    fn reported(&self, lab: &Lab) -> Result<u64> {
        let ends = self.connection.addresses();
        let (local, peer) = (ends[self.revoker], ends[1 - self.revoker]);
        let denials = lab.denials(HOSTS[self.revoker].place.name)?;
        let mut packets = 0;
        for denial in denials.iter().filter(|denial| {
            (denial.local_address, denial.local_port) == (local.ip(), local.port())
                && (denial.peer_address, denial.peer_port) == (peer.ip(), peer.port())
        }) {
            ensure!(
                denial.reason == "revoked" && !denial.staged && denial.protocol == "tcp",
                "{denial:?}"
            );
            packets += denial.packets;
        }
        Ok(packets)
    }
}

// A listener takes its port in both families, so each family has ports of its own.
fn revoked_port(family: Family) -> u16 {
    match family {
        Family::V4 => 7004,
        Family::V6 => 7006,
    }
}

fn kept_port(family: Family) -> u16 {
    revoked_port(family) + 100
}

#[test]
fn at_the_host_that_accepted_the_connection() -> Result<()> {
    revoke(
        &["appliesTo: app, ingress: [{ from: [web], allow: [tcp/7000-7999] }]"],
        &["appliesTo: app, ingress: [{ from: [web], allow: [tcp/7100-7999] }]"],
        1,
    )
}

#[test]
fn at_the_host_that_opened_it() -> Result<()> {
    revoke(
        &["appliesTo: web, egress: [{ to: [app], allow: [tcp/7000-7999] }]"],
        &["appliesTo: web, egress: [{ to: [app], allow: [tcp/7100-7999] }]"],
        0,
    )
}

#[test]
fn for_datagrams_too_and_what_is_allowed_again_goes_on() -> Result<()> {
    Lab::run(&HOSTS, |lab| {
        let open = policy(&["appliesTo: app, ingress: [{ from: [web], allow: [udp, tcp] }]"]);
        let shut = policy(&["appliesTo: app, ingress: []"]);
        lab.apply(&open)?;
        let sent = lab.lockstep("web-1", "app-1", 5004, Family::V4)?;
        let pushed = lab.pushed("web-1", "app-1", 5006, Family::V6)?;
        let connection = lab.busy("web-1", "app-1", 7000, Family::V4)?;
        sent.expect_progress(100)?;
        pushed.expect_progress(100)?;
        connection.expect_progress()?;
        lab.apply(&shut)?;
        connection.expect_silence()?;
        for datagrams in [sent, pushed] {
            let lost = datagrams.finish();
            ensure!(lost.is_err(), "no datagram was lost: {lost:?}");
        }
        // TCP has kept what it could not deliver.
        lab.apply(&open)?;
        connection.expect_progress()
    })
}
