//! Any history of changes publishes what compiling from nothing gives, to those whom it concerns.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::{BTreeMap, BTreeSet};

use policy::{
    HostName, HostPolicy, IdentityTable, Inventory, Labels, PolicySet, Population, SourceFile,
    compile,
    testing::{inventory, policies},
};
use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::{
    model::{Host, PolicyFiles, Report},
    publish::Watched,
    state::PolicyInForce,
    store::Known,
};

const POLICY: &str = "\
apiVersion: bulkhead/v1
kind: Segment
name: web
match: {tier: web}
---
apiVersion: bulkhead/v1
kind: Segment
name: db
match: {tier: db}
---
apiVersion: bulkhead/v1
kind: Policy
name: db-ingress
appliesTo: db
ingress:
  - from: [web]
    allow: [tcp/5432]
";

fn parsed(text: &str) -> Arc<PolicySet> {
    let file = SourceFile {
        path: "policy.yaml".into(),
        content: text.into(),
    };
    Arc::new(policy::parse(&[file]).unwrap())
}

fn empty() -> State {
    let known = Known {
        identities: IdentityTable::default(),
        tokens: Vec::new(),
        hosts: Vec::new(),
    };
    State::new(known, PolicyInForce::default())
}

/// As an enrolment does.
fn enrol(state: &mut State, number: u8, name: &str, labels: &Labels) -> HostId {
    let id = HostId([number; 16]);
    let identity_labels = state.policy.set.identity_labels(labels);
    let identity = state.identities.assign(&identity_labels);
    state.insert_host(Host {
        id,
        name: HostName(name.to_owned()),
        labels: labels.clone(),
        identity,
        address_subnets: Vec::new(),
        addresses: BTreeSet::new(),
        quarantine: None,
        report: Report::default(),
    });
    id
}

fn tier(tier: &str) -> Labels {
    Labels::from([("tier".to_owned(), tier.to_owned())])
}

fn publish(state: &mut State) -> usize {
    let (compiled, update) = state.take_work().run();
    state.take_over(compiled, update)
}

/// What an apply would do; nothing has changed then.
fn candidate(state: &mut State, set: &Arc<PolicySet>) -> (Compiled, Update) {
    publish(state);
    let new = state.identified(set).new;
    let mut candidate = Compiled::clone(&state.compiled().unwrap());
    let revision = Revision(state.policy.source.revision.0 + 1);
    let update = candidate.apply(revision, Arc::clone(set), new);
    (candidate, update)
}

fn apply(state: &mut State, set: &Arc<PolicySet>) -> usize {
    let (candidate, update) = candidate(state, set);
    let changes = state.changes(&update);
    let identified = state.identified(set);
    let source = PolicyFiles {
        revision: Revision(state.policy.source.revision.0 + 1),
        files: Vec::new(),
    };
    let set = Arc::clone(set);
    state.put_in_force(PolicyInForce { source, set }, identified);
    assert_eq!(state.take_over(Arc::new(candidate), update), changes);
    changes
}

fn addresses(list: &[&str]) -> BTreeSet<std::net::IpAddr> {
    list.iter().map(|it| it.parse().unwrap()).collect()
}

/// What each host is to enforce; its revision aside.
fn published(state: &State) -> BTreeMap<HostId, HostPolicy> {
    let current = |host: &Host| state.publisher.current(host.id).unwrap();
    state
        .hosts()
        .map(|host| {
            let policy = current(host).policy.clone();
            let revision = Revision(0);
            (host.id, HostPolicy { revision, ..policy })
        })
        .collect()
}

/// The same, compiled from nothing.
fn from_nothing(state: &State) -> BTreeMap<HostId, HostPolicy> {
    let (set, inventory) = (&state.policy.set, state.inventory());
    let mut identities = state.identities.clone();
    let population = Population::new(set, &inventory, &mut identities);
    let policies = state
        .hosts()
        .map(|host| {
            let subject = set.subject(&host.to_policy(), &mut identities);
            let policy = compile(set, Revision(0), &population, &subject);
            (host.id, policy)
        })
        .collect();
    assert_eq!(identities, state.identities, "an identity is not kept");
    policies
}

/// web-1, web-2, db-1 and other-1, with an address each and the policy in force.
fn site() -> (State, [HostId; 4]) {
    let mut state = empty();
    let hosts = [
        ("web-1", "web"),
        ("web-2", "web"),
        ("db-1", "db"),
        ("other-1", "other"),
    ];
    let mut number = 0;
    let ids = hosts.map(|(name, label)| {
        number += 1;
        let id = enrol(&mut state, number, name, &tier(label));
        state.set_addresses(id, addresses(&[&format!("10.0.0.{number}")]));
        id
    });
    apply(&mut state, &parsed(POLICY));
    (state, ids)
}

type Watch = tokio::sync::watch::Receiver<Watched>;

fn watches(state: &mut State) -> BTreeMap<HostId, Watch> {
    let ids: Vec<HostId> = state.hosts().map(|host| host.id).collect();
    ids.into_iter()
        .map(|id| (id, state.publisher.watch(id)))
        .collect()
}

fn fired(watches: &BTreeMap<HostId, Watch>) -> BTreeSet<HostId> {
    let fired = watches
        .iter()
        .filter(|(_, watch)| watch.has_changed().unwrap_or(true));
    fired.map(|(id, _)| *id).collect()
}

#[test]
fn an_address_that_comes_reaches_only_the_hosts_whose_policy_names_its_identity() {
    let (mut state, [web, _, db, other]) = site();
    let watches = watches(&mut state);
    state.set_addresses(web, addresses(&["10.0.0.1", "10.0.9.1"]));
    assert_eq!(publish(&mut state), 1);
    assert_eq!(fired(&watches), [db].into());
    let address = "10.0.9.1".parse().unwrap();
    let book = &state.publisher.current(db).unwrap().policy.addresses;
    assert_eq!(book[&address], state.host(web).unwrap().identity);

    // Nobody names that one.
    state.set_addresses(other, addresses(&[]));
    assert_eq!(publish(&mut state), 0);
    assert_eq!(publish(&mut state), 0, "there is nothing to do");
    assert_eq!(published(&state), from_nothing(&state));
}

#[test]
fn hosts_that_are_alike_share_one_publication() {
    let (mut state, [web, web_2, db, _]) = site();
    let current = |state: &State, id| state.publisher.current(id).unwrap();
    assert!(Arc::ptr_eq(&current(&state, web), &current(&state, web_2)));
    let db_2 = enrol(&mut state, 9, "db-2", &tier("db"));
    assert_eq!(publish(&mut state), 1);
    assert!(Arc::ptr_eq(&current(&state, db), &current(&state, db_2)));
}

#[test]
fn an_apply_reaches_only_the_hosts_that_it_changes_and_the_others_keep_their_revision() {
    let (mut state, [web, _, db, _]) = site();
    let first = state.publisher.current(web).unwrap();
    let watches = watches(&mut state);
    assert_eq!(apply(&mut state, &parsed(POLICY)), 0);
    assert_eq!(fired(&watches), BTreeSet::new());
    assert_eq!(
        apply(&mut state, &parsed(&POLICY.replace("5432", "5433"))),
        1
    );
    assert_eq!(fired(&watches), [db].into());
    assert_eq!(
        state.publisher.current(db).unwrap().policy.revision,
        Revision(3)
    );

    // A segment that comes first gives all others another number, and no host another policy.
    let segment =
        "apiVersion: bulkhead/v1\nkind: Segment\nname: first\nmatch: {tier: first}\n---\n";
    let renumbered = format!("{segment}{POLICY}").replace("5432", "5433");
    let watches = self::watches(&mut state);
    // Its rules stand in other lines, which denials show.
    assert_eq!(apply(&mut state, &parsed(&renumbered)), 1);
    assert_eq!(fired(&watches), [db].into());
    assert!(Arc::ptr_eq(&first, &state.publisher.current(web).unwrap()));
}

#[test]
fn an_apply_that_is_only_tried_changes_nothing() {
    let (mut state, _) = site();
    let mut labels = tier("cache");
    labels.insert("rack".to_owned(), "r1".to_owned());
    enrol(&mut state, 5, "cache-1", &labels);
    publish(&mut state);
    let before = published(&state);
    let identities = state.identities.clone();
    let watches = watches(&mut state);
    // Without its rack the host has another identity, and a new one.
    let schema = format!(
        "{POLICY}---\napiVersion: bulkhead/v1\nkind: LabelSchema\nname: labels\nkeys: {{ tier: any }}\n"
    );
    let set = parsed(&schema);
    let (_, update) = candidate(&mut state, &set);
    assert!(state.changes(&update) > 0);
    assert_eq!(state.identities, identities);
    assert_eq!(fired(&watches), BTreeSet::new());

    let mut large = POLICY.to_owned();
    for number in 0..policy::limits::MAX_RULES {
        let (third, fourth) = (number / 256, number % 256);
        large.push_str(&format!(
            "  - {{from: [{{subnet: 10.9.{third}.{fourth}/32}}], allow: [tcp/22]}}\n"
        ));
    }
    let (candidate, _) = candidate(&mut state, &parsed(&large));
    let unfit: Vec<_> = candidate.unfit().collect();
    assert_eq!(unfit.len(), 1);
    assert_eq!(*unfit[0].0, [HostName("db-1".into())].into());
    drop(candidate);

    let db = state.host_named("db-1").unwrap().id;
    state.set_addresses(db, addresses(&["10.0.0.77"]));
    publish(&mut state);
    assert_eq!(fired(&watches), BTreeSet::new());
    assert_eq!(published(&state), before);
    assert_eq!(published(&state), from_nothing(&state));
}

#[test]
fn a_host_whose_newest_policy_does_not_fit_keeps_the_one_it_has() {
    let (mut state, [web, _, db, _]) = site();
    let before = state.publisher.current(db).unwrap();
    let watches = watches(&mut state);
    let many = (0..policy::limits::MAX_PEERS as u32)
        .map(|number| std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(0x0b00_0000 + number)));
    state.set_addresses(web, many.collect());
    assert_eq!(publish(&mut state), 0);
    assert!(state.unfit[&db].contains("peers"), "{:?}", state.unfit);
    assert_eq!(state.unfit.len(), 1);
    assert!(Arc::ptr_eq(&before, &state.publisher.current(db).unwrap()));

    // Once it means again what the host has, there is nothing to send.
    state.set_addresses(web, addresses(&["10.0.0.1"]));
    assert_eq!(publish(&mut state), 0);
    assert!(state.unfit.is_empty());
    assert_eq!(fired(&watches), BTreeSet::new());
}

#[test]
fn what_a_host_refused_it_is_given_again_by_the_next_apply() {
    let (mut state, [web, _, db, _]) = site();
    let refused = state.publisher.current(web).unwrap();
    state.report(web, |report| report.refused_digest = Some(refused.digest));
    let watches = watches(&mut state);
    assert_eq!(apply(&mut state, &parsed(POLICY)), 0);
    state.try_again(Revision(2));
    assert_eq!(fired(&watches), [web].into());
    assert!(!fired(&watches).contains(&db));
    let again = state.publisher.current(web).unwrap();
    assert_eq!(again.policy.revision, Revision(2));
    assert!(refused.means(&again.policy));
}

#[test]
fn after_a_start_a_host_that_enforces_an_earlier_revision_of_the_same_has_it() {
    let (mut state, [web, _, db, _]) = site();
    let first = state.publisher.current(web).unwrap();
    state.report(web, |report| {
        report.applied_digest = Some(first.digest);
        report.applied_revision = first.policy.revision;
    });
    // This one says a revision that is not that of its digest.
    state.report(db, |report| {
        report.applied_digest = Some(first.digest);
        report.applied_revision = first.policy.revision;
    });
    apply(&mut state, &parsed(POLICY));
    let known = Known {
        identities: state.identities.clone(),
        tokens: Vec::new(),
        hosts: state.hosts().cloned().collect(),
    };
    let mut state = State::new(known, state.policy.clone());
    assert_eq!(publish(&mut state), 4);
    assert_eq!(state.publisher.current(web).unwrap().digest, first.digest);
    assert_eq!(
        state.publisher.current(db).unwrap().policy.revision,
        Revision(2)
    );
    assert_eq!(published(&state), from_nothing(&state));
}

#[test]
fn work_that_is_lost_is_done_again_from_nothing() {
    let (mut state, [web, ..]) = site();
    state.set_addresses(web, addresses(&["10.0.9.1"]));
    drop(state.take_work());
    assert!(state.compiled().is_none());
    assert_eq!(publish(&mut state), 1);
    assert_eq!(published(&state), from_nothing(&state));
}

/// One change.
#[derive(Clone, Debug)]
enum Step {
    /// A host, perhaps of a name that there is already, with the labels of that one.
    Enrol(Index, Index),
    /// Two hosts exchange their addresses.
    Exchange(Index, Index),
    /// A host takes a free address, or loses its first.
    Address(Index, Index),
    Quarantine(Index),
    Apply(Index),
    Try(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        2 => (index(), index()).prop_map(|(a, b)| Step::Enrol(a, b)),
        3 => (index(), index()).prop_map(|(a, b)| Step::Exchange(a, b)),
        3 => (index(), index()).prop_map(|(a, b)| Step::Address(a, b)),
        2 => index().prop_map(Step::Quarantine),
        2 => index().prop_map(Step::Apply),
        1 => index().prop_map(Step::Try),
    ]
}

const FREE: [&str; 4] = ["10.0.1.77", "10.0.9.1", "fd00:1::77", "203.0.113.5"];

fn take(state: &mut State, step: &Step, originals: &Inventory, sets: &[Arc<PolicySet>], next: u8) {
    let ids: Vec<HostId> = state.hosts().map(|host| host.id).collect();
    let held = |state: &State, id| state.host(id).unwrap().addresses.clone();
    match step {
        Step::Enrol(name, like) => {
            let name = format!("h{}", name.index(originals.hosts.len() + 2));
            enrol(state, next, &name, &like.get(&originals.hosts).labels);
        }
        Step::Exchange(one, other) => {
            let (one, other) = (*one.get(&ids), *other.get(&ids));
            let (mine, theirs) = (held(state, one), held(state, other));
            state.set_addresses(one, theirs);
            state.set_addresses(other, mine);
        }
        Step::Address(host, address) => {
            let id = *host.get(&ids);
            let mut addresses = held(state, id);
            let free: Vec<_> = FREE.map(|it| it.parse().unwrap()).into();
            let free = free.into_iter().filter(|it| state.owner(*it).is_none());
            match free.collect::<Vec<_>>().get(address.index(5)) {
                Some(address) => drop(addresses.insert(*address)),
                None => drop(addresses.pop_first()),
            }
            state.set_addresses(id, addresses);
        }
        Step::Quarantine(host) => {
            let id = *host.get(&ids);
            let reason = match state.host(id).unwrap().quarantine {
                Some(_) => None,
                None => Some("it scans".to_owned()),
            };
            state.set_quarantine(id, reason);
        }
        Step::Apply(set) => drop(apply(state, set.get(sets))),
        Step::Try(set) => drop(candidate(state, set.get(sets))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_history_publishes_what_compiling_from_nothing_gives(
        texts in vec(policies(), 1..=3),
        inventory in inventory(),
        rounds in vec(vec(step(), 1..=4), 1..=6),
    ) {
        prop_assume!(!inventory.hosts.is_empty());
        let sets: Vec<_> = texts.iter().map(|text| parsed(text)).collect();
        let mut state = empty();
        let mut next = 0;
        for (number, host) in inventory.hosts.iter().enumerate() {
            next += 1;
            let id = enrol(&mut state, next, &format!("h{number}"), &host.labels);
            state.set_addresses(id, host.addresses.iter().copied().collect());
        }
        publish(&mut state);
        for steps in &rounds {
            let before = published(&state);
            let watches = watches(&mut state);
            for step in steps {
                next += 1;
                take(&mut state, step, &inventory, &sets, next);
            }
            publish(&mut state);
            let after = published(&state);
            prop_assert_eq!(&after, &from_nothing(&state));
            let changed: BTreeSet<HostId> = before
                .iter()
                .filter(|(id, policy)| after.get(*id) != Some(*policy))
                .map(|(id, _)| *id)
                .collect();
            // An apply in the middle of a round publishes, and what follows may take it back.
            prop_assert!(fired(&watches).is_superset(&changed));
            if !steps.iter().any(|step| matches!(step, Step::Apply(_) | Step::Try(_))) {
                prop_assert_eq!(fired(&watches), changed);
            }
        }
    }
}
