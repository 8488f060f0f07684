//! A fleet after any history is what compiling from nothing gives, and it reports exactly what changed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::{collection::vec, option, prelude::*, sample::Index};

use super::*;
use crate::{
    compile::compile,
    parse::parse,
    source::SourceFile,
    testing::{inventory, policies},
};

/// One change: to the host at a place, or to the set.
#[derive(Clone, Debug)]
enum Step {
    /// Becomes as another one is, but for its addresses.
    Relabel(Index, Index),
    Readdress(Index, Index),
    Quarantine(Index),
    Remove(Index),
    Apply(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        3 => (index(), index()).prop_map(|(a, b)| Step::Relabel(a, b)),
        3 => (index(), index()).prop_map(|(a, b)| Step::Readdress(a, b)),
        1 => index().prop_map(Step::Quarantine),
        1 => index().prop_map(Step::Remove),
        2 => index().prop_map(Step::Apply),
    ]
}

/// Sets that differ much, and sets that differ in one line.
fn sets() -> impl Strategy<Value = Vec<PolicySet>> {
    vec((policies(), option::of(any::<Index>())), 1..=3).prop_map(|texts| {
        let mut sets = Vec::new();
        for (text, less) in texts {
            let file = SourceFile {
                path: "random.yaml".to_owned(),
                content: text,
            };
            let set = parse(&[file]).unwrap();
            if let Some(less) = less
                && !set.policies.is_empty()
            {
                let mut without = set.clone();
                without.policies.remove(less.index(set.policies.len()));
                sets.push(without);
            }
            sets.push(set);
        }
        sets
    })
}

/// What every subject enforces.
fn all(fleet: &Fleet) -> BTreeMap<Arc<Subject>, HostPolicy> {
    let subjects = fleet.subjects();
    subjects
        .map(|subject| (Arc::clone(subject), fleet.policy(subject).unwrap()))
        .collect()
}

fn subjects_of(fleet: &Fleet) -> BTreeMap<HostName, Arc<Subject>> {
    let hosts = fleet.hosts.keys();
    hosts
        .map(|name| (name.clone(), Arc::clone(fleet.subject_of(name).unwrap())))
        .collect()
}

/// Takes to the policies what the changes say.
fn follow(
    policies: &mut BTreeMap<Arc<Subject>, HostPolicy>,
    changes: &Changes,
    fleet: &Fleet,
) -> Result<(), TestCaseError> {
    for (subject, change) in &changes.subjects {
        match change {
            Change::Policy => {
                let new = fleet.policy(subject).unwrap();
                let old = policies.insert(Arc::clone(subject), new.clone());
                if let Some(mut old) = old {
                    old.revision = new.revision;
                    prop_assert_ne!(old, new, "nothing changed");
                }
            }
            Change::Gone => prop_assert!(policies.remove(subject).is_some()),
            Change::Addresses(changed) => {
                prop_assert!(!changed.is_empty());
                let book = &mut policies.get_mut(subject).unwrap().addresses;
                for (address, identity) in changed {
                    let before = match identity {
                        Some(identity) => book.insert(*address, *identity),
                        None => book.remove(address),
                    };
                    prop_assert_ne!(before, *identity, "nothing changed");
                }
            }
        }
    }
    for policy in policies.values_mut() {
        policy.revision = fleet.revision;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_where_compiling_from_nothing_does(
        sets in sets(),
        inventory in inventory(),
        steps in vec(step(), 1..=12),
    ) {
        let mut fleet =
            Fleet::new(Revision(1), sets[0].clone(), &inventory, IdentityTable::default());
        let mut told = all(&fleet);
        let mut hosts = inventory.hosts;
        let originals = hosts.clone();
        for step in steps {
            let known = subjects_of(&fleet);
            let changes = match step {
                Step::Apply(at) => {
                    fleet.apply(Revision(fleet.revision.0 + 1), at.get(&sets).clone())
                }
                _ if hosts.is_empty() => continue,
                Step::Remove(at) => fleet.remove(&hosts.remove(at.index(hosts.len())).name),
                Step::Relabel(at, like) => {
                    let host = at.index(hosts.len());
                    hosts[host].labels = like.get(&originals).labels.clone();
                    fleet.put(hosts[host].clone()).unwrap()
                }
                Step::Quarantine(at) => {
                    let host = at.index(hosts.len());
                    hosts[host].quarantined ^= true;
                    fleet.put(hosts[host].clone()).unwrap()
                }
                Step::Readdress(at, like) => {
                    // An address that nobody holds, or none of its own.
                    let free = ["10.0.1.77", "10.0.9.1", "fd00:1::77", "203.0.113.5"];
                    let mut free: Vec<IpAddr> =
                        free.iter().map(|address| address.parse().unwrap()).collect();
                    free.retain(|address| {
                        !hosts.iter().any(|host| host.addresses.contains(address))
                    });
                    let host = at.index(hosts.len());
                    let addresses = &mut hosts[host].addresses;
                    match free.get(like.index(5)) {
                        Some(address) => addresses.push(*address),
                        None => drop(addresses.pop()),
                    }
                    fleet.put(hosts[host].clone()).unwrap()
                }
            };
            follow(&mut told, &changes, &fleet)?;
            prop_assert_eq!(&told, &all(&fleet), "what was told is not what is");

            let moved: BTreeSet<HostName> = known
                .keys()
                .chain(fleet.hosts.keys())
                .filter(|name| known.get(*name) != fleet.subject_of(name))
                .cloned()
                .collect();
            prop_assert_eq!(&changes.hosts, &moved);

            let inventory = Inventory { hosts: hosts.clone() };
            let mut identities = fleet.identities().clone();
            let population = Population::new(fleet.set(), &inventory, &mut identities);
            let mut fresh = BTreeMap::new();
            for host in &hosts {
                let subject = fleet.set().subject(host, &mut identities);
                prop_assert_eq!(&subject, &**fleet.subject_of(&host.name).unwrap());
                let policy = compile(fleet.set(), fleet.revision, &population, &subject);
                fresh.insert(Arc::new(subject), policy);
            }
            prop_assert_eq!(&identities, fleet.identities());
            prop_assert_eq!(&told, &fresh);
        }
    }
}

#[test]
fn an_address_has_one_holder() {
    let host = |name: &str| Host {
        name: HostName(name.to_owned()),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        labels: Labels::new(),
        quarantined: false,
    };
    let inventory = Inventory {
        hosts: vec![host("a")],
    };
    let mut fleet = Fleet::new(
        Revision(1),
        PolicySet::default(),
        &inventory,
        IdentityTable::default(),
    );
    let before = all(&fleet);
    let error = fleet.put(host("b")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "10.0.0.1 cannot be an address of b: another host holds it"
    );
    assert_eq!(all(&fleet), before);
    assert_eq!(fleet.put(host("a")), Ok(Changes::default()));
}
