//! The three ways to judge a flow agree: the reference evaluation of the policy set, the first
//! matching rule of the compiled policy, and the lookup tables.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use proptest::prelude::*;

use crate::{
    Action, Direction, Effect, HostPolicy, IdentityTable, Inventory, Mode, Population, PortKey,
    PortSpan, ProtocolSlot, Revision, Rule, RuleId, Timestamp, check_fit,
    classify::{Cell, classify},
    compile::compile,
    evaluate::{Evidence, Flow, SideVerdict, evaluate},
    parse::parse,
    reach::reach,
    service::literal::PortLiteral,
    source::SourceFile,
    testing::{Scenario, policies, scenario},
};

/// The first rules that match, found by asking each.
fn first_match(host: &HostPolicy, direction: Direction, peer: IpAddr, port: PortKey) -> Cell {
    let identity = host.addresses.get(&peer).copied();
    let matching: Vec<(u32, &Rule)> = (0..)
        .zip(&host.rules)
        .filter(|(_, rule)| rule.matches(direction, peer, identity, port))
        .collect();
    let first = |staged: bool| {
        let mut passed = None;
        for (index, rule) in &matching {
            let counts = staged || rule.mode == Mode::Enforce;
            if !counts || passed == Some(rule.tier) {
                continue;
            }
            match rule.action {
                Action::Pass => passed = Some(rule.tier),
                Action::Allow | Action::Deny => return RuleId(*index),
            }
        }
        panic!("no rule decides {direction} {peer} {port}");
    };
    Cell {
        enforced: first(false),
        staged: first(true),
    }
}

fn evidence(host: &HostPolicy, rule: RuleId) -> Evidence {
    let rule = &host.rules[rule.0 as usize];
    Evidence {
        effect: rule
            .action
            .effect()
            .expect("a rule that decides does not pass"),
        tier: rule.tier,
        origin: Arc::clone(&rule.origin),
    }
}

/// What each host of a scenario enforces.
fn compile_all(scenario: &Scenario) -> Vec<HostPolicy> {
    let mut identities = IdentityTable::default();
    let population = Population::new(&scenario.set, &scenario.inventory, &mut identities);
    let hosts = scenario.inventory.hosts.iter();
    hosts
        .map(|host| {
            let subject = scenario.set.subject(host, &mut identities);
            compile(&scenario.set, Revision(1), &population, &subject)
        })
        .collect()
}

fn host_of(inventory: &Inventory, address: IpAddr) -> Option<usize> {
    inventory
        .hosts
        .iter()
        .position(|host| host.addresses.contains(&address))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn evaluation_rules_and_tables_agree(scenario in scenario()) {
        let policies = compile_all(&scenario);
        for host in &policies {
            prop_assert_eq!(host.check(), Ok(()));
        }
        let tables: Vec<_> = policies.iter().map(|host| classify(host).unwrap()).collect();
        for flow in &scenario.flows {
            let verdict = evaluate(&scenario.set, &scenario.inventory, flow);
            let Flow { source, destination, port } = *flow;
            for (direction, own, peer, expected) in [
                (Direction::Egress, source, destination, verdict.egress),
                (Direction::Ingress, destination, source, verdict.ingress),
            ] {
                let Some(host) = host_of(&scenario.inventory, own) else {
                    prop_assert_eq!(expected.enforced.effect, Effect::Allow);
                    prop_assert_eq!(&expected.enforced.origin.rule, "unmanaged");
                    continue;
                };
                let by_rule = first_match(&policies[host], direction, peer, port);
                prop_assert_eq!(tables[host].decide(direction, peer, port), by_rule);
                // Every exception counts: none has ended at the epoch.
                let decided = policies[host].decide(direction, peer, port, Timestamp(0));
                prop_assert_eq!(decided, Some(&policies[host].rules[by_rule.enforced.0 as usize]));
                let found = SideVerdict {
                    enforced: evidence(&policies[host], by_rule.enforced),
                    staged: evidence(&policies[host], by_rule.staged),
                };
                prop_assert_eq!(found, expected, "{} {:?}", direction, flow);
            }
        }
    }

    #[test]
    fn equal_input_gives_equal_output(scenario in scenario()) {
        let (first, second) = (compile_all(&scenario), compile_all(&scenario));
        prop_assert_eq!(&first, &second);
        for (first, second) in first.iter().zip(&second) {
            prop_assert_eq!(classify(first), classify(second));
        }
    }

    #[test]
    fn tables_cover_every_key_once(scenario in scenario()) {
        for host in compile_all(&scenario) {
            let classes = classify(&host).unwrap();
            let mut next = Vec::new();
            for direction in Direction::ALL {
                next.extend(ProtocolSlot::ALL.map(|slot| (direction, slot, 0)));
            }
            let mut covered = Vec::new();
            for span in &classes.ports {
                match covered.last_mut() {
                    Some((direction, slot, last))
                        if (*direction, *slot) == (span.direction, span.slot) =>
                    {
                        prop_assert_eq!(*last + 1, span.first);
                        *last = span.last;
                    }
                    _ => {
                        prop_assert_eq!(span.first, 0);
                        covered.push((span.direction, span.slot, span.last));
                    }
                }
            }
            let whole: Vec<_> =
                next.into_iter().map(|(d, slot, _)| (d, slot, slot.last_table_key())).collect();
            prop_assert_eq!(covered, whole);
            let size = check_fit(&host).unwrap();
            prop_assert_eq!(size.cells, size.peer_classes * size.port_classes);
        }
    }

    #[test]
    fn no_two_classes_of_peers_or_ports_are_alike(scenario in scenario()) {
        for host in compile_all(&scenario) {
            let classes = classify(&host).unwrap();
            let stride = classes.port_classes as usize;
            let rows: BTreeSet<String> =
                classes.matrix.chunks(stride).map(|row| format!("{row:?}")).collect();
            prop_assert_eq!(rows.len(), classes.peer_classes as usize);
            let columns: BTreeSet<String> = (0..stride)
                .map(|column| {
                    let cells = classes.matrix.iter().skip(column).step_by(stride);
                    format!("{:?}", cells.collect::<Vec<_>>())
                })
                .collect();
            prop_assert_eq!(columns.len(), stride);
        }
    }

    #[test]
    fn reach_is_what_evaluation_allows(scenario in scenario()) {
        let found = reach(&scenario.set, &scenario.inventory).unwrap();
        for flow in &scenario.flows {
            let Flow { source, destination, port } = *flow;
            let (Some(from), Some(to)) = (
                host_of(&scenario.inventory, source),
                host_of(&scenario.inventory, destination),
            ) else {
                continue;
            };
            let verdict = evaluate(&scenario.set, &scenario.inventory, flow);
            let allowed = [&verdict.egress, &verdict.ingress]
                .iter()
                .all(|side| side.enforced.effect == Effect::Allow);
            let of_pair: Vec<_> = found
                .iter()
                .filter(|reach| reach.src == scenario.inventory.hosts[from].name)
                .filter(|reach| reach.dst == scenario.inventory.hosts[to].name)
                .filter(|reach| reach.addresses.contains(&(source, destination)))
                .collect();
            prop_assert_eq!(of_pair.len(), 1);
            let passing: Vec<_> =
                of_pair[0].allowed.iter().filter(|item| item.ports.contains(port)).collect();
            prop_assert_eq!(passing.len(), usize::from(allowed), "{:?} {:?}", flow, of_pair);
            if let [passing] = passing[..] {
                prop_assert_eq!(&passing.egress, &verdict.egress.enforced.origin);
                prop_assert_eq!(&passing.ingress, &verdict.ingress.enforced.origin);
            }
        }
    }

    #[test]
    fn every_span_that_is_shown_reads_back_as_it_is(
        slot in proptest::sample::select(ProtocolSlot::ALL.to_vec()),
        ends in (any::<u16>(), any::<u16>()),
        shape in 0..4,
    ) {
        let last_key = slot.last_key();
        let is_icmp = matches!(slot, ProtocolSlot::Icmp | ProtocolSlot::Icmpv6);
        let bounded = |key: u16| match slot {
            ProtocolSlot::Other => key & last_key,
            _ if is_icmp => key,
            // Nobody writes port 0: all ports are all keys.
            _ => key.max(1),
        };
        let (a, b) = (bounded(ends.0), bounded(ends.1));
        let (first, last) = match shape {
            0 => (a, a),
            1 => (0, last_key),
            // Whole types of ICMP.
            2 if is_icmp => (a.min(b) & 0xff00, a.max(b) | 0xff),
            _ => (a.min(b), a.max(b)),
        };
        let span = PortSpan { slot, first, last };
        // By its number alone, a protocol with a name is all of it.
        let literal = match u8::try_from(first).map(ProtocolSlot::of) {
            Ok(named) if slot == ProtocolSlot::Other && first == last && named != slot => {
                PortSpan { slot: named, first: 0, last: named.last_key() }
            }
            _ => span,
        };
        prop_assert_eq!(span.to_string().parse(), Ok(PortLiteral::Span(literal)), "{}", span);
    }

    #[test]
    fn no_text_breaks_the_parser_and_every_problem_lies_in_its_file(
        text in policies(),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), "[-:\\[\\]{}&*!|>'\"#%é\t\r\n a-c0-9/.]{0,8}"), 1..6),
    ) {
        let mut text = text;
        for (at, inserted) in cuts {
            let mut at = at.index(text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            let end = (at + inserted.len()).min(text.len());
            let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap();
            text.replace_range(at..end, &inserted);
        }
        let lines = text.split(['\n', '\r']).count();
        let file = SourceFile { path: "cut.yaml".to_owned(), content: text };
        let _ = Inventory::parse(&file);
        if let Err(problems) = parse(&[file]) {
            prop_assert!(!problems.0.is_empty());
            for problem in &problems.0 {
                prop_assert!((1..=lines).contains(&(problem.line as usize)), "{}", problem.render());
                prop_assert!(problem.mark as usize <= problem.source_line.chars().count());
            }
        }
    }
}
