#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{self, Write};

use datapath::layout::Ruling;
use policy::{Action, Identity, Mode, PeerMatch, Rule};

use super::*;

/// Where a test's log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a piece of work returns, and what it logs.
fn logged<T>(work: impl FnOnce() -> T) -> (T, String) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let result = tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (result, text)
}

/// Rules 0 and 1, in lines 10 and 11 of a file of this revision.
fn policy(revision: u64) -> HostPolicy {
    let rule = |line: u32, action| Rule {
        direction: Direction::Ingress,
        tier: Tier::Policy,
        action,
        mode: Mode::Enforce,
        peers: PeerMatch::Any,
        ports: Vec::new(),
        log: action == Action::Allow,
        expires: None,
        origin: Arc::new(Origin {
            rule: format!("db-ingress/ingress[{line}]"),
            file: format!("policies/{revision}.yaml"),
            line,
        }),
    };
    HostPolicy {
        revision: Revision(revision),
        identity: Identity::FIRST,
        rules: vec![rule(10, Action::Allow), rule(11, Action::Deny)],
        addresses: Default::default(),
    }
}

fn event(kind: u8, generation: u32, ruling: Ruling) -> Event {
    let address = |last| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[10, 0, 0, last]);
        bytes
    };
    Event {
        time: 0,
        packets: 1,
        generation,
        ruling,
        remote: address(2),
        local: address(1),
        remote_port: 40_000,
        local_port: 5432,
        protocol: 6,
        family: 4,
        direction: datapath::Direction::Ingress.number(),
        reason: Reason::Policy as u8,
        kind,
        staged_allows: 0,
        ether_type: 0,
        lost: 0,
        interface: 0,
        mac: [0; 6],
        padding: [0; 2],
        zero: 0,
    }
}

#[test]
fn a_flow_that_a_logged_rule_allows_is_logged_with_its_rule_and_is_no_denial() {
    let book = RuleBook::default();
    book.insert(3, &policy(7));
    let event = event(event_kind::LOGGED, 3, Ruling::new(0, true).logged());
    let (denial, log) = logged(|| book.resolve(&event));
    assert_eq!(denial, None);
    for part in [
        "flow allowed",
        "direction=ingress",
        "local=10.0.0.1",
        "local_port=5432",
        "peer=10.0.0.2",
        "rule=\"db-ingress/ingress[10]\"",
        "file=\"policies/7.yaml\"",
        "line=10",
    ] {
        assert!(log.contains(part), "no {part} in {log}");
    }
}

#[test]
fn a_denial_names_its_rule_and_says_whether_the_packet_passed() {
    let book = RuleBook::default();
    book.insert(3, &policy(7));
    for (kind, staged) in [(event_kind::DENIED, false), (event_kind::STAGED, true)] {
        let event = event(kind, 3, Ruling::new(1, false));
        let (denial, log) = logged(|| book.resolve(&event));
        let denial = denial.unwrap();
        assert_eq!(denial.staged, staged);
        assert_eq!((denial.revision, denial.generation), (Revision(7), 3));
        let rule = denial.rule.unwrap();
        assert_eq!(rule.tier, Tier::Policy);
        assert_eq!(*rule.origin, *policy(7).rules[1].origin);
        assert_eq!(log, "", "a denial is spooled, not logged");
    }
}

#[test]
fn quick_changes_of_policy_lose_no_names() {
    let book = RuleBook::default();
    for generation in 1..=64 {
        book.insert(generation, &policy(generation.into()));
    }
    for generation in 1..=64 {
        let event = event(event_kind::DENIED, generation, Ruling::new(1, false));
        let denial = book.resolve(&event).unwrap();
        assert_eq!(
            denial.rule.unwrap().origin.file,
            format!("policies/{generation}.yaml")
        );
    }
    // As many and no more: the oldest makes room.
    book.insert(65, &policy(65));
    let event = event(event_kind::DENIED, 1, Ruling::new(1, false));
    assert_eq!(book.resolve(&event).unwrap().rule.unwrap().origin.file, "");
}

#[test]
fn generations_with_the_same_names_share_them() {
    let book = RuleBook::default();
    book.insert(1, &policy(7));
    book.insert(
        2,
        &HostPolicy {
            revision: Revision(8),
            ..policy(7)
        },
    );
    let mut longer = policy(7);
    longer.rules.insert(0, policy(9).rules.remove(0));
    book.insert(3, &longer);
    let pages = book.pages();
    let [third, second, first] = [&pages[0], &pages[1], &pages[2]];
    assert!(Arc::ptr_eq(&first.rules, &second.rules));
    assert_eq!(
        (first.revision, second.revision),
        (Revision(7), Revision(8))
    );
    assert!(Arc::ptr_eq(&first.rules[1].origin, &third.rules[2].origin));
}

#[test]
fn a_frame_that_no_rule_judged_names_no_rule_and_says_what_was_seen() {
    let book = RuleBook::default();
    book.insert(3, &policy(7));
    let mpls = Event {
        reason: Reason::EtherType as u8,
        protocol: 0,
        family: 0,
        ether_type: 0x8847,
        // The loopback interface is the first in every network namespace.
        interface: 1,
        mac: [2, 0, 0, 0, 0, 9],
        packets: 5,
        ..event(event_kind::UNPARSED, 3, Ruling::NO_ANSWER)
    };
    let denial = book.resolve(&mpls).unwrap();
    assert_eq!(denial.reason, "ethertype");
    assert_eq!((denial.rule, denial.revision), (None, Revision(7)));
    assert_eq!((denial.local_address, denial.peer_address), (None, None));
    let frame = Frame {
        ether_type: 0x8847,
        peer_mac: [2, 0, 0, 0, 0, 9],
        interface: "lo".into(),
    };
    assert_eq!(denial.frame, Some(frame));
    let fragment = Event {
        reason: Reason::FragmentOrphan as u8,
        ether_type: 0x0800,
        ..event(event_kind::UNPARSED, 3, Ruling::NO_ANSWER)
    };
    let denial = book.resolve(&fragment).unwrap();
    assert_eq!(denial.peer_address, Some("10.0.0.2".parse().unwrap()));
    // Neither is lost on the way through the spool.
    let text = serde_json::to_string(&denial).unwrap();
    assert_eq!(serde_json::from_str::<Denial>(&text).unwrap(), denial);
}
