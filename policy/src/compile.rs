//! From a policy set to what one host enforces.

pub(crate) mod index;
pub(crate) mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    compile::{
        index::{Members, SetIndex},
        rules::{Maker, Rules},
    },
    host_policy::HostPolicy,
    inventory::Host,
    population::{IdentityTable, Population},
    set::{PolicySet, SegmentId},
    words::{Identity, Revision},
};

pub use crate::classify::check_fit;

/// What of a host decides its policy: hosts with equal subjects share one [`HostPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// Whose policy it is.
    pub identity: Identity,
    /// The segments that the host is in, of those that some policy applies to; sorted.
    pub segments: Vec<SegmentId>,
}

impl PolicySet {
    /// What this set makes of a host. A host is in a segment by its labels, or by any address of
    /// its own in the segment's subnets; one in quarantine is in none.
    #[must_use]
    pub fn subject(&self, host: &Host, identities: &mut IdentityTable) -> Subject {
        if host.quarantined {
            return Subject {
                identity: Identity::QUARANTINED,
                segments: Vec::new(),
            };
        }
        let labels = self.identity_labels(&host.labels);
        let segments = self
            .subjects()
            .into_iter()
            .filter(|id| {
                let segment = self.segment(*id);
                segment.selector.matches(&labels)
                    || host
                        .addresses
                        .iter()
                        .any(|address| segment.subnets.iter().any(|net| net.contains(address)))
            })
            .collect();
        Subject {
            identity: identities.assign(&labels),
            segments,
        }
    }

    /// The segments that something applies to.
    fn subjects(&self) -> BTreeSet<SegmentId> {
        let ordered = self.guardrails.iter().chain(&self.baselines);
        let policies = self.policies.iter().map(|policy| &policy.applies_to);
        let exceptions = self.exceptions.iter().flat_map(|it| [&it.from, &it.to]);
        ordered
            .map(|policy| &policy.applies_to)
            .chain(policies)
            .chain(exceptions)
            .flatten()
            .copied()
            .collect()
    }
}

/// Compiles what a subject enforces. Equal input gives equal output.
///
/// The rules of a direction stand in order of precedence: quarantine; guardrails; exceptions; what
/// the policies that select the subject allow, by the policies' names, and the deny that being
/// selected brings; baselines; the default. A written rule becomes several where it names ports that
/// its destinations number differently, and none where no destination names them.
#[must_use]
pub fn compile(
    set: &PolicySet,
    revision: Revision,
    population: &Population,
    subject: &Subject,
) -> HostPolicy {
    Compiler::new(set, population).compile(revision, subject)
}

/// Compiles many subjects of one set and one population: what they share is looked up once.
pub struct Compiler<'a> {
    set: &'a PolicySet,
    population: &'a Population,
    index: SetIndex,
    members: Members,
}

impl<'a> Compiler<'a> {
    /// Takes time in proportion to the set and the population.
    #[must_use]
    pub fn new(set: &'a PolicySet, population: &'a Population) -> Self {
        let index = SetIndex::new(set);
        let members = Members::new(set, &index, population);
        Self {
            set,
            population,
            index,
            members,
        }
    }

    /// As [`PolicySet::subject`], without asking every segment.
    #[must_use]
    pub fn subject(&self, host: &Host, identities: &mut IdentityTable) -> Subject {
        let labels = self.set.identity_labels(&host.labels);
        let identity = if host.quarantined {
            Identity::QUARANTINED
        } else {
            identities.assign(&labels)
        };
        self.index.subject(self.set, host, &labels, identity)
    }

    /// As [`compile()`].
    #[must_use]
    pub fn compile(&self, revision: Revision, subject: &Subject) -> HostPolicy {
        let made = make(
            self.set,
            &self.index,
            self.population,
            &self.members,
            subject,
        );
        HostPolicy {
            revision,
            identity: subject.identity,
            addresses: book(&self.members, &made.named),
            rules: made.rules,
        }
    }
}

/// The rules of one subject.
pub(crate) fn make(
    set: &PolicySet,
    index: &SetIndex,
    population: &Population,
    members: &Members,
    subject: &Subject,
) -> Rules {
    Maker {
        set,
        population,
        members,
        subject,
        concerning: index.concerning(set, subject),
        made: Rules::default(),
    }
    .make()
}

/// The addresses of some identities.
pub(crate) fn book(members: &Members, named: &[Identity]) -> BTreeMap<IpAddr, Identity> {
    let addresses_of = |identity: &Identity| {
        let identity = *identity;
        members
            .held(identity)
            .map(move |address| (address, identity))
    };
    named.iter().flat_map(addresses_of).collect()
}
