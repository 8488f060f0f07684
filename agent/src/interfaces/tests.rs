//! The choice of interfaces, by what the kernel says of them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use super::*;
use crate::{
    enforcer::tests::attaching::ip,
    kernel::testing::{enter_new_namespace, in_own_namespace},
};

/// A link that is up: `eth0` of a driver, `veth0:veth`, `eth0:veth@` with its other end elsewhere, and
/// `eth0:veth@/br0` as a port.
fn network(links: &[&str], addresses: &[(&str, &str)]) -> Network {
    let mut names: Vec<&str> = Vec::new();
    let mut found: Vec<LinkInfo> = Vec::new();
    for (index, text) in (2..).zip(links) {
        let (text, master) = text.split_once('/').unwrap_or((text, ""));
        let (text, reaches_elsewhere) = match text.strip_suffix('@') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let (name, kind) = text.split_once(':').unwrap_or((text, ""));
        let no_frames = ["wireguard", "tun", "ipip"].contains(&kind);
        names.push(name);
        found.push(LinkInfo {
            index,
            name: name.to_owned(),
            kind: (!kind.is_empty()).then(|| kind.to_owned()),
            is_ethernet: !no_frames,
            is_up: true,
            master: names
                .iter()
                .position(|of| *of == master)
                .map(|at| at as u32 + 2),
            reaches_elsewhere,
            packets: 7,
            is_loopback: name == "lo",
        });
    }
    let index = |name: &str| names.iter().position(|of| *of == name).unwrap() as u32 + 2;
    let addresses = addresses
        .iter()
        .map(|(name, address)| (index(name), address.parse().unwrap()))
        .collect();
    Network {
        links: found,
        addresses,
    }
}

/// The names of those that the automatic choice polices, and the words for all others.
fn choice(network: &Network) -> (Vec<String>, Vec<(String, &'static str)>) {
    let Survey { policed, unpoliced } = network.survey(&[]);
    let unpoliced = unpoliced
        .into_iter()
        .map(|unpoliced| {
            assert!(!unpoliced.is_problem);
            assert!(unpoliced.carries_traffic);
            (unpoliced.name, unpoliced.reason.word())
        })
        .collect();
    (
        policed
            .into_iter()
            .map(|interface| interface.name)
            .collect(),
        unpoliced,
    )
}

#[track_caller]
fn check(links: &[&str], addresses: &[(&str, &str)], policed: &[&str], unpoliced: &[(&str, &str)]) {
    let (found, others) = choice(&network(links, addresses));
    assert_eq!(found, policed);
    let others: Vec<(&str, &str)> = others
        .iter()
        .map(|(name, word)| (name.as_str(), *word))
        .collect();
    assert_eq!(others, unpoliced);
}

#[test]
fn a_device_is_policed_before_it_has_an_address_and_as_a_port() {
    check(
        &[
            "lo",
            "eth0",
            "br0:bridge",
            "eth1/br0",
            "bond0:bond",
            "eth2/bond0",
        ],
        &[("lo", "127.0.0.1"), ("br0", "10.0.0.1")],
        &["eth0", "eth1", "eth2"],
        &[("bond0", "unused"), ("br0", "bridge")],
    );
}

#[test]
fn an_interface_with_only_a_link_local_address_is_policed() {
    check(
        &["lo", "eth0", "eth0.5:vlan", "mac0:macvlan"],
        &[("eth0.5", "fe80::5"), ("mac0", "169.254.3.1")],
        &["eth0", "eth0.5", "mac0"],
        &[],
    );
}

#[test]
fn a_container_is_policed_on_its_uplink_before_that_has_an_address_and_as_a_port_of_a_bridge() {
    // LXC before its lease; nspawn's `host0`; a container whose uplink is in a bridge inside.
    for (links, policed) in [
        (&["lo", "eth0:veth@"][..], "eth0"),
        (&["lo", "host0:veth@"], "host0"),
        (&["lo", "mac0:macvlan@"], "mac0"),
        (&["lo", "br0:bridge", "eth0:veth@/br0"], "eth0"),
    ] {
        let network = network(links, &[]);
        assert_eq!(choice(&network).0, [policed], "{links:?}");
    }
    // kind: containers inside the container.
    check(
        &[
            "lo",
            "eth0:veth@",
            "veth12:veth@",
            "cali5:veth@",
            "cni0:bridge",
            "vethab:veth@/cni0",
        ],
        &[
            ("eth0", "172.18.0.2"),
            ("cali5", "fe80::5"),
            ("cni0", "10.244.0.1"),
        ],
        &["eth0"],
        &[
            ("cali5", "container"),
            ("cni0", "bridge"),
            ("veth12", "container"),
            ("vethab", "container"),
        ],
    );
}

#[test]
fn the_ways_to_a_hosts_own_containers_and_guests_are_listed_and_not_policed() {
    check(
        &[
            "lo",
            "eth0",
            "docker0:bridge",
            "veth1:veth@/docker0",
            "virbr0:bridge",
            "vnet0:tun",
            "web:veth@",
        ],
        &[("eth0", "10.0.0.5"), ("docker0", "172.17.0.1")],
        &["eth0"],
        &[
            ("docker0", "bridge"),
            ("veth1", "container"),
            ("virbr0", "bridge"),
            ("vnet0", "not-ethernet"),
            ("web", "container"),
        ],
    );
}

#[test]
fn overlays_of_network_plug_ins_are_recognised_and_a_vxlan_of_the_hosts_own_is_policed() {
    check(
        &[
            "lo",
            "eth0",
            "flannel.1:vxlan",
            "vxlan.calico:vxlan",
            "cilium_vxlan:vxlan",
            "cilium_host:veth",
            "cilium_net:veth",
            "tunl0:ipip",
            "kube-ipvs0:dummy",
            "cni0:bridge",
            "vxlan100:vxlan",
            "wg0:wireguard",
            "flannel.7:dummy",
        ],
        &[
            ("eth0", "10.0.0.5"),
            ("flannel.1", "10.244.1.0"),
            ("vxlan.calico", "10.244.2.0"),
            ("cilium_host", "10.0.1.9"),
            ("kube-ipvs0", "10.96.0.1"),
            ("vxlan100", "10.8.0.1"),
            ("flannel.7", "10.7.0.1"),
        ],
        &["eth0", "flannel.7", "vxlan100"],
        &[
            ("cilium_host", "overlay"),
            ("cilium_net", "overlay"),
            ("cilium_vxlan", "overlay"),
            ("cni0", "bridge"),
            ("flannel.1", "overlay"),
            ("kube-ipvs0", "overlay"),
            ("tunl0", "overlay"),
            ("vxlan.calico", "overlay"),
            ("wg0", "not-ethernet"),
        ],
    );
}

#[test]
fn an_interface_that_the_configuration_names_and_that_is_not_there_is_a_problem() {
    let network = network(&["lo", "eth0", "wg0:wireguard"], &[("eth0", "10.0.0.5")]);
    let configured = ["ens3".to_owned(), "wg0".to_owned()];
    let Survey { policed, unpoliced } = network.survey(&configured);
    assert_eq!(policed, []);
    let found: Vec<_> = unpoliced
        .iter()
        .map(|it| (it.name.as_str(), it.reason, it.is_problem))
        .collect();
    assert_eq!(
        found,
        [
            ("ens3", Reason::Missing, true),
            ("eth0", Reason::NotConfigured, false),
            ("wg0", Reason::NotEthernet, true)
        ]
    );
}

#[test]
fn interfaces_are_those_of_the_agents_own_namespace_whatever_sys_shows() {
    // As under `nsenter --net`: the thread is in another network namespace, and `/sys` is not.
    in_own_namespace(|| {
        ip("link add s0 type veth peer name s1");
        ip("link set s0 up");
        ip("link set s1 up");
        ip("addr add 10.9.3.1/24 dev s0");
        assert!(std::path::Path::new("/sys/class/net/s0").exists());
        enter_new_namespace();
        ip("link add t0 type veth peer name t1");
        ip("link set t0 up");
        ip("addr add 10.9.4.1/24 dev t0");
        let network = Network::read().unwrap();
        let Survey { policed, unpoliced } = network.survey(&["t0".to_owned()]);
        assert_eq!(policed.len(), 1);
        assert_eq!(policed[0].name, "t0");
        assert_eq!(unpoliced, []);
        assert_eq!(
            network.addresses_of(&policed),
            ["10.9.4.1".parse::<IpAddr>().unwrap()]
        );
        assert!(!network.all().iter().any(|interface| interface.name == "s0"));
    });
}

#[test]
fn the_kernel_tells_kinds_masters_and_ends_elsewhere() {
    in_own_namespace(|| {
        ip("link add br0 type bridge");
        ip("link add p0 type veth peer name p1");
        ip("link set p0 master br0 up");
        ip("link set p1 up");
        ip("link set br0 up");
        ip("addr add 10.9.5.1/24 dev br0");
        let network = Network::read().unwrap();
        let link = |name: &str| network.links.iter().find(|it| it.name == name).unwrap();
        assert_eq!(link("br0").kind.as_deref(), Some("bridge"));
        assert_eq!(link("p0").kind.as_deref(), Some("veth"));
        assert_eq!(link("p0").master, Some(link("br0").index));
        assert!(link("p0").is_up && link("p0").is_ethernet);
        assert!(!link("p0").reaches_elsewhere);
        assert!(link("lo").is_loopback);
        let port = Interface {
            index: link("p0").index,
            name: "p0".into(),
        };
        assert_eq!(
            network.addresses_of(&[port]),
            ["10.9.5.1".parse::<IpAddr>().unwrap()]
        );
        // Another namespace, as long as a process is in it.
        let mut other = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo in; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(other.stdout.as_mut().unwrap())
            .read_line(&mut said)
            .unwrap();
        ip(&format!("link set p1 netns {}", other.id()));
        let network = Network::read().unwrap();
        let p0 = network.links.iter().find(|it| it.name == "p0").unwrap();
        assert!(p0.reaches_elsewhere);
        other.kill().unwrap();
        other.wait().unwrap();
    });
}
