//! From documents to a policy set: every name is looked up, and no name is taken twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    host_policy::Origin,
    parse::{
        collector::{Collector, quote},
        document::{Document, PeerWord, PolicyDocument, RuleDocument, SideDocument},
        fields::Word,
        ports::PortWord,
        suggest::did_you_mean,
        yaml::Place,
    },
    service::{literal::PortLiteral, merge},
    set::{Allow, Peer, Peers, Policy, PolicySet, Ports, Segment, SegmentId, Service, Side},
    words::Direction,
};

/// Resolves all documents of all files.
pub(crate) fn resolve(documents: Vec<Document>, problems: &mut Collector<'_>) -> PolicySet {
    let mut segments = BTreeMap::new();
    let mut services = BTreeMap::new();
    let mut policies = BTreeMap::new();
    let mut broken = BTreeSet::new();
    for document in documents {
        match document {
            Document::Segment(segment) => {
                let name = segment.name.clone();
                let origin = Arc::new(Origin {
                    rule: name.text.clone(),
                    file: problems.file(name.place).path.clone(),
                    line: name.place.line,
                });
                let segment = Segment {
                    name: name.text.clone(),
                    selector: segment.selector,
                    subnets: segment.subnets,
                    origin,
                };
                insert(&mut segments, "Segment", name, segment, problems);
            }
            Document::Service(service) => {
                let name = service.name.clone();
                let ports = ports(&service.ports, |_| None).unwrap_or(Ports::Any);
                let service = Service {
                    name: name.text.clone(),
                    ports,
                };
                insert(&mut services, "Service", name, service, problems);
            }
            Document::Policy(policy) => {
                let name = policy.name.clone();
                insert(&mut policies, "Policy", name, policy, problems);
            }
            Document::Broken(name) => {
                broken.insert(name);
            }
        }
    }
    let segment_ids: BTreeMap<&str, SegmentId> = segments
        .keys()
        .map(String::as_str)
        .zip((0..).map(SegmentId))
        .collect();
    let mut resolver = Resolver {
        segment_ids,
        services: &services,
        broken: &broken,
        problems,
    };
    let policies = policies
        .into_values()
        .map(|(_, policy)| resolver.policy(policy))
        .collect();
    PolicySet {
        policies,
        segments: segments.into_values().map(|(_, segment)| segment).collect(),
        services: services.into_values().map(|(_, service)| service).collect(),
        ..PolicySet::default()
    }
}

/// Documents of one kind by name, each with the place of its name.
type Named<T> = BTreeMap<String, (Place, T)>;

fn insert<T>(named: &mut Named<T>, kind: &str, name: Word, value: T, problems: &mut Collector<'_>) {
    if let Some((first, _)) = named.get(&name.text) {
        let message = format!(
            "there is another {kind} named {}, in {}",
            quote(&name.text),
            problems.line_of(*first)
        );
        problems.report_help(
            name.place,
            message,
            format!("each {kind} needs a name of its own"),
        );
    } else {
        named.insert(name.text, (name.place, value));
    }
}

/// What some literals and services stand for together; none if a service is unknown.
fn ports<'a>(
    words: &[PortWord],
    mut service: impl FnMut(&Word) -> Option<&'a Service>,
) -> Option<Ports> {
    let (mut spans, mut named) = (Vec::new(), Vec::new());
    let (mut any, mut complete) = (false, true);
    for word in words {
        match word {
            PortWord::Literal(PortLiteral::Any) => any = true,
            PortWord::Literal(PortLiteral::Span(span)) => spans.push(*span),
            PortWord::Service(word) => match service(word).map(|service| &service.ports) {
                Some(Ports::Any) => any = true,
                Some(Ports::Of {
                    spans: more,
                    named: names,
                }) => {
                    spans.extend(more);
                    named.extend_from_slice(names);
                }
                None => complete = false,
            },
        }
    }
    named.sort_unstable();
    named.dedup();
    let ports = if any {
        Ports::Any
    } else {
        Ports::Of {
            spans: merge(spans),
            named,
        }
    };
    complete.then_some(ports)
}

struct Resolver<'a, 'f> {
    segment_ids: BTreeMap<&'a str, SegmentId>,
    services: &'a Named<Service>,
    /// Names in documents that could not be read.
    broken: &'a BTreeSet<String>,
    problems: &'a mut Collector<'f>,
}

impl<'a> Resolver<'a, '_> {
    fn policy(&mut self, document: PolicyDocument) -> Policy {
        let mut applies_to: Vec<SegmentId> = document
            .applies_to
            .iter()
            .filter_map(|word| self.segment(word))
            .collect();
        applies_to.sort_unstable();
        applies_to.dedup();
        let name = document.name;
        let mut side = |direction, side: Option<_>| Some(self.side(&name, direction, side?));
        Policy {
            applies_to,
            ingress: side(Direction::Ingress, document.ingress),
            egress: side(Direction::Egress, document.egress),
            mode: document.mode,
            name: name.text,
        }
    }

    fn side(&mut self, policy: &Word, direction: Direction, document: SideDocument) -> Side {
        let file = self.problems.file(policy.place).path.clone();
        let rule = format!("{}/{direction}", policy.text);
        let rules = document
            .rules
            .into_iter()
            .map(|document| {
                let (rule, file) = (format!("{rule}[{}]", document.index), file.clone());
                let origin = Arc::new(Origin {
                    rule,
                    file,
                    line: document.line,
                });
                self.allow(document, origin)
            })
            .collect();
        Side {
            origin: Arc::new(Origin {
                rule,
                file,
                line: document.line,
            }),
            rules,
        }
    }

    fn allow(&mut self, document: RuleDocument, origin: Arc<Origin>) -> Allow {
        let peers = match document.peers {
            None => Peers::Any,
            Some(words) => Peers::Of(
                words
                    .into_iter()
                    .filter_map(|word| match word {
                        PeerWord::Segment(word) => self.segment(&word).map(Peer::Segment),
                        PeerWord::Subnet(subnet) => Some(Peer::Subnet(subnet)),
                    })
                    .collect(),
            ),
        };
        let ports = match document.allow {
            None => Ports::Any,
            Some(words) => ports(&words, |word| self.service(word)).unwrap_or(Ports::Any),
        };
        Allow {
            peers,
            ports,
            log: document.log,
            origin,
        }
    }

    fn segment(&mut self, word: &Word) -> Option<SegmentId> {
        let id = self.segment_ids.get(word.text.as_str()).copied();
        if id.is_none() && !self.is_excused(word) {
            let help = did_you_mean(&word.text, self.segment_ids.keys().copied());
            let message = format!("there is no Segment {}", quote(&word.text));
            self.problems.report_help(word.place, message, help);
        }
        id
    }

    fn service(&mut self, word: &Word) -> Option<&'a Service> {
        let services = self.services;
        let service = services.get(&word.text).map(|(_, service)| service);
        if service.is_none() && !self.is_excused(word) {
            let help = did_you_mean(&word.text, services.keys().map(String::as_str))
                .unwrap_or_else(|| "name a Service, or write a port such as tcp/5432".to_owned());
            let message = format!("there is no Service {}", quote(&word.text));
            self.problems.report_help(word.place, message, help);
        }
        service
    }

    /// Whether an unknown name needs no report: its document has one, or there are enough.
    fn is_excused(&self, word: &Word) -> bool {
        self.broken.contains(&word.text) || self.problems.is_full()
    }
}
