//! What passes a policed interface with VLAN tags is judged as what passes it without, also when the device
//! has taken a tag off before the packet is looked at.

use anyhow::{Context, Result, ensure};
use lab::{HostSpec, Lab, Namespace, Place};

use crate::policies::policy;

/// On the link of web-1.
const NEIGHBOUR: HostSpec = HostSpec {
    place: Place {
        name: "web-2",
        subnet: 1,
        number: 20,
    },
    labels: &[("tier", "db")],
};

/// The networks behind one tag, and behind two.
const NETWORKS: [(&str, &str); 2] = [("10.77.1", "eth0.7"), ("10.77.2", "eth0.7.8")];

/// Joins a host to both networks; the kernel hands tags over beside the packet, not in it.
fn join(host: &Namespace, number: u8) -> Result<()> {
    let add = |words: String| -> Result<()> {
        let status = host.command("ip").args(words.split(' ')).status()?;
        ensure!(status.success(), "ip {words}: {status}");
        Ok(())
    };
    add("link add link eth0 name eth0.7 type vlan id 7".to_owned())?;
    add("link add link eth0.7 name eth0.7.8 type vlan id 8".to_owned())?;
    for (network, device) in NETWORKS {
        add(format!("addr add {network}.{number}/24 dev {device}"))?;
        add(format!("link set {device} up"))?;
    }
    Ok(())
}

fn ping(from: &Namespace, to: &str) -> Result<bool> {
    let mut ping = from.command("ping");
    let ping = ping.args(["-n", "-q", "-c", "1", "-W", "1", "-s", "2000", to]);
    let output = ping.output().context("running ping")?;
    Ok(output.status.success())
}

#[test]
fn and_neither_do_two() -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB, NEIGHBOUR], |lab| {
        lab.enrol(&[HostSpec::WEB])?;
        for (host, number) in [("web-1", 10), ("web-2", 20)] {
            join(lab.namespace(host)?, number)?;
        }
        let reaches = |lab: &Lab| -> Result<[bool; 2]> {
            let [one, two] = NETWORKS.map(|(network, _)| {
                let address = format!("{network}.10");
                ping(lab.namespace("web-2")?, &address)
            });
            Ok([one?, two?])
        };
        ensure!(reaches(lab)? == [true, true], "without a policy");
        for (network, expected) in [("10.77.1", [true, false]), ("10.77.2", [false, true])] {
            lab.apply(&policy(&[&format!(
                "appliesTo: web, ingress: [{{ from: [{{ subnet: {network}.0/24 }}], allow: [icmp/8] }}]"
            )]))?;
            let found = reaches(lab)?;
            ensure!(found == expected, "{network}: {found:?}");
        }
        lab.wait_denial("of a tagged packet", "web-1", |denial| {
            denial.peer_address.to_string() == "10.77.2.20"
        })?;
        Ok(())
    })
}
