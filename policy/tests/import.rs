//! Imports as people meet them: files of other systems in, Bulkhead files or mistakes out; and what
//! the result means.
//!
//! With `BLESS=1` in the environment the files are written instead of compared: read the diff.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use bulkhead_policy::{
    Action, Effect, Flow, Inventory, PortKey, Problems, ProtocolSlot, SourceFile, Tier, evaluate,
    import::{Imported, aws, calico},
    parse, render,
};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/import")
        .join(name)
}

fn inputs(name: &str) -> Vec<SourceFile> {
    let mut paths: Vec<PathBuf> = fs::read_dir(case(name).join("in"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let read = |path: &PathBuf| SourceFile {
        path: path.file_name().unwrap().to_string_lossy().into_owned(),
        content: fs::read_to_string(path).unwrap(),
    };
    paths.iter().map(read).collect()
}

fn import(name: &str) -> Result<Imported, Problems> {
    let files = inputs(name);
    match name.split('-').next() {
        Some("aws") => aws::import(&files, false),
        Some("calico") => calico::import(&files, name == "calico-hosts"),
        _ => panic!("{name} is of no system"),
    }
}

fn compare(path: &Path, found: &str) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, found).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        found,
        expected,
        "{} differs; BLESS=1 writes it anew",
        path.display()
    );
}

const IMPORTED: [&str; 2] = ["aws-shop", "calico-hosts"];
const REFUSED: [&str; 2] = ["aws-refused", "calico-refused"];

#[test]
fn what_can_be_said_becomes_files_that_people_can_read() {
    for name in IMPORTED {
        let Imported { set, inventory } =
            import(name).unwrap_or_else(|problems| panic!("{problems}"));
        compare(&case(name).join("policies.yaml"), &render::policies(&set));
        compare(
            &case(name).join("inventory.yaml"),
            &render::inventory(&inventory),
        );
    }
}

#[test]
fn what_cannot_be_said_is_named_with_its_place() {
    for name in REFUSED {
        let problems = import(name).unwrap_err();
        compare(&case(name).join("problems.txt"), &format!("{problems}\n"));
    }
}

/// The effect of both sides together, and the tier of the one that decided, the outer one if both did.
fn ask(
    imported: &Imported,
    source: &str,
    destination: &str,
    slot: ProtocolSlot,
    key: u16,
) -> (Effect, Tier) {
    let flow = Flow {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        port: PortKey { slot, key },
    };
    let verdict = evaluate(&imported.set, &imported.inventory, &flow);
    let mut sides = [verdict.ingress.enforced, verdict.egress.enforced];
    sides.sort_by_key(|side| (side.effect == Effect::Allow, side.tier));
    (sides[0].effect, sides[0].tier)
}

const ALLOWED: Effect = Effect::Allow;
const DENIED: Effect = Effect::Deny;

use ProtocolSlot::{Icmp, Other, Tcp, Udp};

#[test]
fn security_groups_mean_what_they_mean_at_aws() {
    let shop = import("aws-shop").unwrap();
    let (web, db, other_db, idle, endpoint) = (
        "10.20.1.10",
        "10.20.2.10",
        "10.20.2.20",
        "10.20.3.20",
        "10.20.9.9",
    );
    let world = "198.51.100.7";
    for (source, destination, slot, port, expected) in [
        // A peer that is a group is its members' addresses, all of them.
        (web, db, Tcp, 5432, (ALLOWED, Tier::Policy)),
        ("10.20.1.11", db, Tcp, 5432, (ALLOWED, Tier::Policy)),
        (web, db, Tcp, 22, (DENIED, Tier::Policy)),
        (idle, db, Tcp, 5432, (DENIED, Tier::Policy)),
        // The group allows it in, and not out.
        (db, other_db, Tcp, 5432, (DENIED, Tier::Policy)),
        (other_db, db, Other, 50, (DENIED, Tier::Policy)),
        // Groups add up: this host is in a group that allows nothing, too.
        (world, web, Tcp, 443, (ALLOWED, Tier::Policy)),
        (world, web, Tcp, 80, (DENIED, Tier::Policy)),
        (web, world, Udp, 53, (ALLOWED, Tier::Policy)),
        // A group without rules denies everything, in and out.
        (world, idle, Tcp, 443, (DENIED, Tier::Policy)),
        (idle, world, Tcp, 443, (DENIED, Tier::Policy)),
        // Type 3 with code 4, and -1 for all.
        (world, web, Icmp, 3 << 8 | 4, (ALLOWED, Tier::Policy)),
        (world, web, Icmp, 3 << 8 | 3, (DENIED, Tier::Policy)),
        ("10.20.5.5", db, Icmp, 17 << 8 | 9, (ALLOWED, Tier::Policy)),
        // A prefix list.
        (db, "3.5.135.9", Tcp, 443, (ALLOWED, Tier::Policy)),
        (db, "3.5.136.9", Tcp, 443, (DENIED, Tier::Policy)),
        // No group, no rules.
        (world, endpoint, Tcp, 443, (ALLOWED, Tier::Default)),
    ] {
        let found = ask(&shop, source, destination, slot, port);
        assert_eq!(found, expected, "{source} to {destination} {slot}/{port}");
    }
}

#[test]
fn calico_policies_are_asked_in_order_and_end_in_a_deny() {
    let hosts = import("calico-hosts").unwrap();
    let (db, app, web, world) = ("10.1.0.10", "10.1.0.20", "10.1.0.30", "198.51.100.7");
    for (source, destination, slot, port, expected) in [
        (app, db, Tcp, 5432, (ALLOWED, Tier::Guardrail)),
        (app, db, Tcp, 6010, (ALLOWED, Tier::Guardrail)),
        // A named port with two numbers.
        (app, db, Tcp, 9188, (ALLOWED, Tier::Guardrail)),
        // Nothing matches: the end of the tier.
        (app, db, Tcp, 3306, (DENIED, Tier::Guardrail)),
        (world, app, Tcp, 22, (DENIED, Tier::Guardrail)),
        // A subnet, its exception, and the policy after it.
        ("10.9.1.1", db, Tcp, 8080, (DENIED, Tier::Guardrail)),
        ("10.9.9.1", db, Tcp, 8080, (ALLOWED, Tier::Guardrail)),
        ("203.0.113.9", db, Tcp, 8080, (DENIED, Tier::Guardrail)),
        // `notNets` of IPv4 makes no rule for IPv6.
        (
            "2001:db8::1",
            "fd00:1::10",
            Tcp,
            8080,
            (DENIED, Tier::Guardrail),
        ),
        // Passed to the profiles, and this endpoint has none.
        (world, db, Icmp, 8 << 8, (DENIED, Tier::Baseline)),
        // Type 13 is not passed.
        (world, db, Icmp, 13 << 8, (DENIED, Tier::Guardrail)),
        // Egress: selected, not selected without a profile, not selected with one.
        (db, "10.0.0.53", Udp, 53, (ALLOWED, Tier::Guardrail)),
        (db, "10.0.0.53", Udp, 54, (DENIED, Tier::Guardrail)),
        (web, world, Tcp, 443, (DENIED, Tier::Baseline)),
        (app, world, Tcp, 443, (ALLOWED, Tier::Default)),
    ] {
        let found = ask(&hosts, source, destination, slot, port);
        assert_eq!(found, expected, "{source} to {destination} {slot}/{port}");
    }
    let logged = &hosts.set.guardrails[1].ingress[0];
    assert_eq!((logged.action, logged.log), (Action::Allow, true));
}

fn calico_policies(specs: &[(&str, &str)]) -> Imported {
    let files: Vec<SourceFile> = specs
        .iter()
        .map(|(name, spec)| SourceFile {
            path: format!("{name}.yaml"),
            content: format!(
                "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{ name: {name} }}\nspec: {spec}\n"
            ),
        })
        .collect();
    calico::import(&files, false).unwrap_or_else(|problems| panic!("{problems}"))
}

fn priorities(imported: &Imported) -> Vec<(&str, u32)> {
    let guardrails = imported.set.guardrails.iter();
    guardrails
        .map(|policy| (policy.name.as_str(), policy.priority))
        .collect()
}

#[test]
fn orders_stay_priorities_where_they_can() {
    const RULE: &str = "ingress: [{ action: Deny }]";
    let of = |order: &str| format!("{{ {order} {RULE} }}");
    let kept = calico_policies(&[
        ("b", &of("order: 200,")),
        ("c", &of("")),
        ("a", &of("order: 100.0,")),
        ("d", &of("")),
    ]);
    let end = [("calico-end-ingress", 65_534)];
    let expected = [("a", 100), ("b", 200), ("c", 210), ("d", 220)];
    assert_eq!(priorities(&kept), [&expected[..], &end[..]].concat());
    // Of one order, the name decides.
    let stepped = calico_policies(&[
        ("b", &of("order: 5,")),
        ("a", &of("order: 5,")),
        ("c", &of("order: -1,")),
    ]);
    let expected = [("c", 10), ("a", 20), ("b", 30)];
    assert_eq!(priorities(&stepped), [&expected[..], &end[..]].concat());
}

#[test]
fn a_policy_without_types_is_about_the_directions_that_it_has_rules_for() {
    let ends = |spec: &str| {
        let imported = calico_policies(&[("p", spec)]);
        let last = imported.set.guardrails.last().unwrap().clone();
        (
            !last.ingress.is_empty(),
            !last.egress.is_empty(),
            imported.set.guardrails.len(),
        )
    };
    assert_eq!(ends("{}"), (true, false, 1));
    assert_eq!(ends("{ ingress: [{ action: Allow }] }"), (true, false, 2));
    assert_eq!(ends("{ egress: [{ action: Allow }] }"), (false, true, 2));
    assert_eq!(
        ends("{ ingress: [{ action: Allow }], egress: [{ action: Pass }] }"),
        (true, true, 2)
    );
    assert_eq!(ends("{ types: [Egress] }"), (false, true, 1));
}

#[test]
fn a_group_that_no_file_has_may_be_named_on_request() {
    let files = [SourceFile {
        path: "groups.json".to_owned(),
        content: r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "any", "IpPermissionsEgress": [],
            "IpPermissions": [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-2"}]}]}]}"#
            .to_owned(),
    }];
    assert!(aws::import(&files, false).is_err());
    let imported = aws::import(&files, true).unwrap();
    let names = imported
        .set
        .segments
        .iter()
        .map(|segment| segment.name.as_str());
    // `any` is a word that no segment may take.
    assert_eq!(names.collect::<Vec<_>>(), ["any-2", "sg-2"]);
}

#[test]
fn files_without_what_is_imported_are_no_import() {
    let file = |content: &str| {
        [SourceFile {
            path: "empty".to_owned(),
            content: content.to_owned(),
        }]
    };
    for content in ["", "{\"SecurityGroups\": []}"] {
        let problems = aws::import(&file(content), false).unwrap_err();
        assert_eq!(problems.0[0].message, "no security groups here");
    }
    let problems = calico::import(&file("# nothing\n"), false).unwrap_err();
    assert_eq!(problems.0[0].message, "no Calico policy here");
}

#[test]
fn what_is_imported_and_written_parses_back_to_the_same() {
    IMPORTED.into_iter().for_each(parses_back);
}

fn parses_back(name: &str) {
    let Imported { set, inventory } = import(name).unwrap();
    let file = |content: String| SourceFile {
        path: "rendered.yaml".to_owned(),
        content,
    };
    let parsed =
        parse(&[file(render::policies(&set))]).unwrap_or_else(|problems| panic!("{problems}"));
    let hosts = Inventory::parse(&file(render::inventory(&inventory)))
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(hosts, inventory);
    // Equal but for the places.
    let lines = |set| {
        let text = render::policies(set);
        let lines = text
            .lines()
            .map(|line| line.split("  # ").next().unwrap().to_owned());
        lines
            .filter(|line| !line.starts_with('#'))
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(&parsed), lines(&set), "{name}");
}
