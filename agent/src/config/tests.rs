#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn refusal(text: &str) -> String {
    Config::parse(text).unwrap_err()
}

#[test]
fn the_controllers_alone_are_a_complete_configuration() {
    let config = Config::parse("controllers = ['10.0.0.1']").unwrap();
    let controllers: Vec<_> = config.controllers.iter().map(ToString::to_string).collect();
    assert_eq!(controllers, ["10.0.0.1:7443"]);
    assert_eq!(config.state_dir, Path::new("/var/lib/bulkhead-agent"));
    assert_eq!(config.pin_dir(), Path::new("/sys/fs/bpf/bulkhead/v3"));
    assert_eq!(
        config.host_name,
        rustix::system::uname().nodename().to_str().unwrap()
    );
    assert_eq!(
        config.failsafe,
        Failsafe {
            subnets: vec![],
            tcp_ports: vec![Port::SSH]
        }
    );
    assert_eq!(config.maps.flows, None);
    assert_eq!(
        config.behaviour().timeouts,
        datapath::layout::Timeouts::DEFAULT
    );
    assert_eq!(
        config.behaviour().limits,
        datapath::layout::EventLimits::DEFAULT
    );
    assert_eq!(config.spool.limit_mib, 64);
    assert_eq!(config.token_file, None);
    assert!(config.interfaces.is_empty());
    assert_eq!(config.other_ethertypes, OtherEthertypes::Drop);
    assert_eq!(config.hooking, HookingChoice::Automatic);
}

#[test]
fn the_effective_configuration_reads_back_as_the_same() {
    let config = Config::parse(
        "controllers = ['[fd00::1]:7000', 'controller.example', 'fd00::2']\n\
         token_file = '/run/token'\n\
         interfaces = ['eth0']\n\
         other_ethertypes = 'pass'\n\
         hooking = 'clsact'\n\
         [failsafe]\n\
         subnets = ['10.9.0.0/24', 'fd00:9::/64']\n\
         tcp_ports = [22, 2222]\n\
         [maps]\n\
         flows = 4096\n",
    )
    .unwrap();
    let controllers: Vec<_> = config.controllers.iter().map(ToString::to_string).collect();
    assert_eq!(
        controllers,
        [
            "[fd00::1]:7000",
            "controller.example:7443",
            "[fd00::2]:7443"
        ]
    );
    assert_eq!(
        Config::parse(&toml::to_string(&config).unwrap()).unwrap(),
        config
    );
}

#[test]
fn a_mistake_is_shown_with_its_line_and_what_to_write() {
    for (text, line, help) in [
        ("controllers = []", 1, "at least one"),
        ("controllers = ['a b']", 1, "10.0.0.1:7443"),
        ("controllers = ['a:0']", 1, "10.0.0.1:7443"),
        ("controllers = ['a:70000']", 1, "10.0.0.1:7443"),
        (
            "controllers = ['a']\ncontroler = 'b'",
            2,
            "unknown field `controler`",
        ),
        (
            "controllers = ['a']\ninterfaces = ['eth0', 'a/b']",
            2,
            "ip link",
        ),
        (
            "controllers = ['a']\nhooking = 'xdp'",
            2,
            "`automatic`, `tcx`, `clsact`",
        ),
        (
            "controllers = ['a']\n[maps]\nflows = 12",
            3,
            "1024 to 16777216",
        ),
        (
            "controllers = ['a']\n[failsafe]\ntcp_ports = [22, 0]",
            3,
            "1 to 65535",
        ),
        (
            "controllers = ['a']\n[failsafe]\nsubnets = ['10.0.0.0/33']",
            3,
            "subnets",
        ),
        (
            "controllers = ['a']\nother_ethertypes = 'allow'",
            2,
            "expected `drop` or `pass`",
        ),
        ("controllers = ['a'", 1, "expected"),
    ] {
        let message = refusal(text);
        assert!(
            message.contains(&format!("line {line}")),
            "{text:?} gave {message}"
        );
        assert!(message.contains(help), "{text:?} gave {message}");
    }
}

#[test]
fn values_that_do_not_fit_together_are_refused_by_name() {
    for (text, help) in [
        ("controllers = ['a']\nstate_dir = 'state'", "begins with /"),
        (
            "controllers = ['a']\nhost_name = ''",
            "`host_name` is empty",
        ),
        (
            "controllers = ['a']\n[failsafe]\nsubnets = ['10.0.0.1/24']",
            "write 10.0.0.0/24",
        ),
        ("controllers = ['a']\n[spool]\nlimit_mib = 0", "1 to 65535"),
    ] {
        assert!(
            refusal(text).contains(help),
            "{text:?} gave {}",
            refusal(text)
        );
    }
}

#[test]
fn a_missing_file_says_what_to_write() {
    let error = Config::load(Path::new("/nonexistent/agent.toml")).unwrap_err();
    assert!(error.to_string().contains("controllers = "), "{error}");
}

#[test]
fn an_operator_without_a_way_in_is_warned() {
    let bare = Config::parse("controllers = ['10.0.0.1']").unwrap();
    assert!(bare.warning().unwrap().contains("failsafe.subnets"));
    let text = "controllers = ['10.0.0.1']\n[failsafe]\nsubnets = ['10.9.0.0/24']";
    assert_eq!(Config::parse(text).unwrap().warning(), None);
    let no_ports = format!("{text}\ntcp_ports = []");
    assert!(Config::parse(&no_ports).unwrap().warning().is_some());
}

#[test]
fn flow_tables_are_sized_from_memory_within_limits() {
    let slots = |text: &str, mebibytes: u64| {
        let config = Config::parse(&format!("controllers = ['a']\n[maps]\n{text}\n")).unwrap();
        config.maps.flow_slots(mebibytes << 20)
    };
    // One percent, two tables, 160 bytes an entry.
    assert_eq!(slots("", 16 << 10), 524_288);
    assert_eq!(slots("", 256), 32_768);
    assert_eq!(slots("", 1 << 20), 1_048_576);
    assert_eq!(slots("memory_percent = 4", 4 << 10), 524_288);
    assert_eq!(slots("flows_max = 4096\nflows_min = 1024", 4 << 10), 4_096);
    assert_eq!(slots("flows = 2048", 1 << 20), 2_048);
}

#[test]
fn a_setting_out_of_range_says_what_to_write() {
    for (text, said) in [
        ("warm_start = 601", "write 0 to 600"),
        (
            "[timeouts]\nudp_new = 0",
            "a timeout cannot be 0 seconds; write 1 to 2678400",
        ),
        (
            "[events]\nper_peer = 0",
            "0 times a second; write 1 to 1000000",
        ),
        ("[maps]\nmemory_percent = 60", "write 1 to 50"),
    ] {
        let error = Config::parse(&format!("controllers = ['a']\n{text}\n")).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}
