//! Attaching to real interfaces, by TCX links and by clsact filters, in network namespaces of their own.

use std::{
    net::{Ipv4Addr, UdpSocket},
    process::Command,
};

use super::{Bpffs, *};
use crate::{
    kernel::testing::{has_filter, in_own_namespace, kill_link, link_pins, slot_is_foreign},
    status::Status,
};

pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

pub(super) fn veth(name: &str) -> Interface {
    ip(&format!("link add {name} type veth peer name {name}-peer"));
    ip(&format!("link set {name}-peer up"));
    ip(&format!("link set {name} up"));
    interface(name)
}

pub(super) fn interface(name: &str) -> Interface {
    let network = Network::read().unwrap();
    let Survey { mut policed, .. } = network.survey(&[name.to_owned()]);
    policed.remove(0)
}

/// An enforcer that denies everything on these interfaces.
pub(super) fn enforcer(bpffs: &Bpffs, hooking: HookingChoice, names: &[&str]) -> Enforcer {
    let options = EnforcerOptions {
        interfaces: names.iter().map(ToString::to_string).collect(),
        hooking,
        ..bpffs.options()
    };
    let mut enforcer = Enforcer::open(options).unwrap();
    let local = LocalTiers::default();
    enforcer
        .apply(&uniform(Action::Deny), [1; 32], &local, DAWN)
        .unwrap();
    enforcer
}

fn policed(bpffs: &Bpffs) -> Vec<String> {
    let inspection = Enforcer::inspect(&bpffs.pin_dir()).unwrap().unwrap();
    inspection.interfaces
}

/// Sends a packet to a neighbour; true when the programs judged it.
fn is_judged(enforcer: &Enforcer, neighbour: Ipv4Addr) -> bool {
    let denied = || enforcer.counters().unwrap().packets_denied;
    let before = denied();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    // A drop may be told as an error; the counter is what is asked.
    let _ = socket.send_to(b"x", (neighbour, 9));
    denied() > before
}

#[test]
fn enforcement_outlives_the_agent_is_adopted_and_ends_with_detach() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let bpffs = Bpffs::new();
            veth("bh0");
            ip("addr add 10.9.0.1/24 dev bh0");
            ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev bh0");
            let neighbour = Ipv4Addr::new(10, 9, 0, 2);

            let mut first = enforcer(&bpffs, hooking, &["bh0"]);
            assert!(policed(&bpffs).is_empty());
            assert!(!is_judged(&first, neighbour));
            assert_eq!(first.attach().unwrap(), ["bh0"]);
            assert!(first.attach().unwrap().is_empty(), "it stands already");
            assert!(is_judged(&first, neighbour));
            drop(first);
            assert_eq!(policed(&bpffs), ["bh0"], "{hooking:?}");

            let mut second = enforcer(&bpffs, hooking, &["bh0"]);
            assert!(is_judged(&second, neighbour), "the first one's programs");
            assert_eq!(second.attach().unwrap(), ["bh0"]);
            assert!(is_judged(&second, neighbour));
            assert_eq!(policed(&bpffs), ["bh0"]);

            let pin_dir = bpffs.pin_dir();
            let detached = Enforcer::detach(&pin_dir).unwrap();
            assert_eq!(detached, Some(vec!["bh0".to_owned()]), "{hooking:?}");
            assert!(!is_judged(&second, neighbour));
            assert!(Enforcer::inspect(&pin_dir).unwrap().is_none());
            assert_eq!(Enforcer::detach(&pin_dir).unwrap(), None);
        });
    }
}

#[test]
fn another_way_of_hooking_takes_over_and_leaves_nothing_of_the_first() {
    for (from, to) in [(HOOKINGS[0], HOOKINGS[1]), (HOOKINGS[1], HOOKINGS[0])] {
        in_own_namespace(|| {
            let bpffs = Bpffs::new();
            let interface = veth("bh0");
            let mut first = enforcer(&bpffs, from, &["bh0"]);
            assert_eq!(first.attach().unwrap(), ["bh0"]);
            drop(first);
            let mut second = enforcer(&bpffs, to, &["bh0"]);
            assert_eq!(second.attach().unwrap(), ["bh0"]);
            assert!(second.attach().unwrap().is_empty(), "it stands already");
            assert_eq!(policed(&bpffs), ["bh0"], "{from:?} to {to:?}");
            let tcx = to == HookingChoice::Tcx;
            assert_eq!(link_pins(&bpffs.pin_dir()).is_empty(), !tcx);
            assert_eq!(has_filter(&interface), !tcx);
        });
    }
}

#[test]
fn filters_are_found_and_removed_also_when_the_pins_are_lost() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        veth("bh0");
        enforcer(&bpffs, HookingChoice::Clsact, &["bh0"])
            .attach()
            .unwrap();
        drop(bpffs);
        let bpffs = Bpffs::new();
        let detached = Enforcer::detach(&bpffs.pin_dir()).unwrap();
        assert_eq!(detached, Some(vec!["bh0".to_owned()]));
        assert_eq!(Enforcer::detach(&bpffs.pin_dir()).unwrap(), None);
    });
}

#[test]
fn another_tools_filter_stays_and_the_other_interfaces_are_policed() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let taken = veth("bh0");
        veth("bh1");
        let mut enforcer = enforcer(&bpffs, HookingChoice::Clsact, &["bh0", "bh1"]);
        enforcer.programs.occupy_slot(&taken);
        for _ in 0..2 {
            let error = enforcer.attach().unwrap_err();
            assert_eq!(error.exit_code(), 78);
            let text = error.to_string();
            assert!(
                text.contains("interface bh0: another program's tc filter (bpf foreign)"),
                "{text}"
            );
            assert_eq!(policed(&bpffs), ["bh1"]);
        }
        let detached = Enforcer::detach(&bpffs.pin_dir()).unwrap();
        assert_eq!(detached, Some(vec!["bh1".to_owned()]));
        assert!(slot_is_foreign(&taken));
    });
}

#[test]
fn an_ingress_qdisc_is_refused_with_what_to_do() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        veth("bh0");
        let mut tc = Command::new("tc");
        let status = tc.args(["qdisc", "add", "dev", "bh0", "ingress"]).status();
        assert!(status.unwrap().success());
        let error = enforcer(&bpffs, HookingChoice::Clsact, &["bh0"])
            .attach()
            .unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(
            error.to_string().contains("tc qdisc del dev bh0"),
            "{error}"
        );
    });
}

#[test]
fn another_tools_link_stays() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let shared = veth("bh0");
        let mut enforcer = enforcer(&bpffs, HookingChoice::Tcx, &["bh0"]);
        let elsewhere = Bpffs::new();
        let foreign = elsewhere.enforcer().programs.foreign_link(&shared);
        assert_eq!(enforcer.attach().unwrap(), ["bh0"]);
        assert_eq!(foreign.state().unwrap().interface, Some(shared.index));
        Enforcer::detach(&bpffs.pin_dir()).unwrap();
        assert_eq!(foreign.state().unwrap().interface, Some(shared.index));
    });
}

#[test]
fn a_link_that_has_died_is_made_anew_at_the_next_look() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        let interface = veth("bh0");
        let mut enforcer = enforcer(&bpffs, HookingChoice::Tcx, &["bh0"]);
        enforcer.attach().unwrap();
        kill_link(&bpffs.pin_dir(), &interface, "egress");
        assert!(policed(&bpffs).is_empty(), "half of it is not policed");
        assert_eq!(enforcer.attach().unwrap(), ["bh0"]);
        assert_eq!(policed(&bpffs), ["bh0"]);
        let pins = ["egress", "ingress"].map(|hook| format!("{}-{hook}", interface.index));
        assert_eq!(link_pins(&bpffs.pin_dir()), pins);
    });
}

#[test]
fn the_pins_of_an_interface_that_is_gone_go_and_those_of_others_stay() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        veth("bh0");
        let stays = veth("bh1");
        let mut enforcer = enforcer(&bpffs, HookingChoice::Tcx, &["bh0", "bh1"]);
        assert_eq!(enforcer.attach().unwrap(), ["bh0", "bh1"]);
        ip("link del bh0");
        assert!(enforcer.attach().unwrap().is_empty());
        let pins = ["egress", "ingress"].map(|hook| format!("{}-{hook}", stays.index));
        assert_eq!(link_pins(&bpffs.pin_dir()), pins);
        assert_eq!(policed(&bpffs), ["bh1"]);
        veth("bh0");
        assert_eq!(enforcer.attach().unwrap(), ["bh0"]);
    });
}

#[test]
fn interfaces_that_change_names_are_both_policed() {
    for hooking in HOOKINGS {
        in_own_namespace(|| {
            let bpffs = Bpffs::new();
            veth("bh0");
            veth("other");
            let mut enforcer = enforcer(&bpffs, hooking, &["bh0"]);
            assert_eq!(enforcer.attach().unwrap(), ["bh0"]);
            for name in ["bh0", "other", "moved"] {
                ip(&format!("link set {name} down"));
                match name {
                    "bh0" => ip("link set bh0 name moved"),
                    "other" => ip("link set other name bh0"),
                    _ => ip("link set moved name other"),
                }
            }
            assert_eq!(enforcer.attach().unwrap(), ["bh0"], "{hooking:?}");
            assert_eq!(policed(&bpffs), ["bh0", "other"], "{hooking:?}");
        });
    }
}

#[test]
fn the_addresses_of_a_bridge_are_those_of_its_policed_port() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        veth("bh0");
        ip("link add br0 type bridge");
        ip("link set bh0 master br0");
        ip("addr add 10.9.1.1/24 dev br0");
        let mut enforcer = enforcer(&bpffs, HookingChoice::Tcx, &["bh0"]);
        enforcer.list_network().unwrap();
        let address: IpAddr = "10.9.1.1".parse().unwrap();
        assert_eq!(enforcer.addresses(), [address]);
    });
}

#[test]
fn every_address_of_the_host_is_known_and_those_of_policed_interfaces_name_it() {
    in_own_namespace(|| {
        let bpffs = Bpffs::new();
        veth("bh0");
        ip("addr add 10.9.1.1/24 dev bh0");
        ip("link add br1 type bridge");
        ip("addr add 172.18.0.1/16 dev br1");
        ip("link set lo up");
        ip("addr add 10.9.9.9/32 dev lo");
        ip("addr add fd00::9/128 dev lo");
        let mut enforcer = enforcer(&bpffs, HookingChoice::Tcx, &["bh0"]);
        enforcer.list_network().unwrap();
        let addresses = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(enforcer.addresses(), addresses(&["10.9.1.1"]));
        let all = ["10.9.1.1", "10.9.9.9", "172.18.0.1", "fd00::9"];
        assert_eq!(enforcer.local_addresses(), addresses(&all));
    });
}

#[test]
fn an_interface_with_addresses_that_cannot_be_policed_is_told() {
    in_own_namespace(|| {
        ip("tuntap add dev tun0 mode tun");
        ip("addr add 10.9.2.1/24 dev tun0");
        ip("link set tun0 up");
        // Nothing passes this one.
        ip("addr add 10.9.2.2/32 dev lo");
        let survey = Network::read().unwrap().survey(&[]);
        assert!(survey.policed.is_empty());
        assert_eq!(survey.unpoliced.len(), 1);
        assert_eq!(survey.unpoliced[0].name, "tun0");
        assert_eq!(survey.unpoliced[0].reason, Reason::NotEthernet);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let config =
            format!("controllers = ['10.0.0.9:7443']\nstate_dir = '{path}'\nbpffs = '{path}'");
        let status = Status::look(&toml::from_str(&config).unwrap()).unwrap();
        let shown = status.to_string();
        assert!(
            shown.contains("\nnot policed       tun0 (carries no Ethernet frames"),
            "{shown}"
        );
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["not_policed"]["tun0"]["reason"], "not-ethernet");
    });
}
