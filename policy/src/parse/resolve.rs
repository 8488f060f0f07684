//! From documents to a policy set: every name is looked up, and no name is taken twice.

mod claims;
mod ordered;
mod schema;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    host_policy::Origin,
    parse::{
        collector::{Collector, quote},
        document::{
            AssertionDocument, Document, ExceptionDocument, IsolationDocument, OrderedDocument,
            PeerWord, PolicyDocument, RuleDocument, SchemaDocument, SegmentDocument, SideDocument,
        },
        fields::Word,
        ports::PortWord,
        suggest::did_you_mean,
        yaml::Place,
    },
    service::{
        literal::{PortLiteral, words},
        merge,
    },
    set::{Allow, Peer, Peers, Policy, PolicySet, Ports, Segment, SegmentId, Service, Side},
    words::Direction,
};

/// Ports and peers that services and isolations may stand for in all places that name them: a few
/// bytes in a file can mean very many of those.
const MAX_EXPANDED: usize = 4_000_000;

/// Resolves all documents of all files.
pub(crate) fn resolve(documents: Vec<Document>, problems: &mut Collector<'_>) -> PolicySet {
    let sorted = Sorted::new(documents, problems);
    let Sorted {
        segments,
        services,
        policies,
        guardrails,
        baselines,
        isolations,
        exceptions,
        assertions,
        schema,
        broken,
    } = sorted;
    let segment_ids: BTreeMap<&str, SegmentId> = segments
        .keys()
        .map(String::as_str)
        .zip((0..).map(SegmentId))
        .collect();
    if let Some((_, schema)) = &schema {
        schema::check(
            &schema.schema,
            segments.values().map(|(_, it)| it),
            problems,
        );
    }
    let mut resolver = Resolver {
        segment_ids,
        services: &services,
        broken: &broken,
        room: MAX_EXPANDED,
        problems,
    };
    let policies = policies
        .into_values()
        .map(|(_, policy)| resolver.policy(policy))
        .collect();
    let guardrails = resolver.guardrails(guardrails, isolations);
    let baselines = resolver.baselines(baselines);
    let exceptions = exceptions
        .into_values()
        .map(|(_, exception)| resolver.exception(exception))
        .collect();
    let assertions = assertions
        .into_values()
        .map(|(_, assertion)| resolver.assertion(assertion))
        .collect();
    PolicySet {
        policies,
        guardrails,
        baselines,
        exceptions,
        assertions,
        schema: schema.map(|(_, schema)| schema.schema),
        segments: segments
            .into_values()
            .map(|(_, segment)| Segment {
                origin: Arc::new(Origin {
                    rule: segment.name.text.clone(),
                    file: problems.file(segment.name.place).path.clone(),
                    line: segment.name.place.line,
                }),
                name: segment.name.text,
                selector: segment.selector.selector,
                subnets: segment.subnets,
            })
            .collect(),
        services: services.into_values().map(|(_, service)| service).collect(),
    }
}

/// The documents by kind and name.
#[derive(Default)]
struct Sorted {
    segments: Named<SegmentDocument>,
    services: Named<Service>,
    policies: Named<PolicyDocument>,
    guardrails: Named<OrderedDocument>,
    baselines: Named<OrderedDocument>,
    isolations: Named<IsolationDocument>,
    exceptions: Named<ExceptionDocument>,
    assertions: Named<AssertionDocument>,
    schema: Option<(Place, SchemaDocument)>,
    /// Names in documents that could not be read.
    broken: BTreeSet<String>,
}

impl Sorted {
    /// Reports what is there twice.
    fn new(documents: Vec<Document>, problems: &mut Collector<'_>) -> Self {
        let mut all = Self::default();
        for document in documents {
            match document {
                Document::Segment(it) => {
                    insert(&mut all.segments, "Segment", it.name.clone(), it, problems);
                }
                Document::Service(it) => {
                    let ports = ports(&it.ports, |_| None).unwrap_or(Ports::Any);
                    let service = Service {
                        name: it.name.text.clone(),
                        ports,
                    };
                    insert(&mut all.services, "Service", it.name, service, problems);
                }
                Document::Policy(it) => {
                    insert(&mut all.policies, "Policy", it.name.clone(), it, problems);
                }
                Document::Guardrail(it) => {
                    let name = it.name.clone();
                    insert(&mut all.guardrails, "Guardrail", name, it, problems);
                }
                Document::Baseline(it) => {
                    insert(
                        &mut all.baselines,
                        "Baseline",
                        it.name.clone(),
                        it,
                        problems,
                    );
                }
                Document::Isolation(it) => {
                    let name = it.name.clone();
                    insert(&mut all.isolations, "Isolation", name, it, problems);
                }
                Document::Exception(it) => {
                    let name = it.name.clone();
                    insert(&mut all.exceptions, "Exception", name, it, problems);
                }
                Document::Assertion(it) => {
                    let name = it.name.clone();
                    insert(&mut all.assertions, "Assertion", name, it, problems);
                }
                Document::LabelSchema(it) => match &all.schema {
                    Some((first, _)) => {
                        let message = format!(
                            "there is another LabelSchema, in {}",
                            problems.line_of(*first)
                        );
                        let help = "a set has one at most: write all keys in one";
                        problems.report_help(it.name.place, message, help.to_owned());
                    }
                    None => all.schema = Some((it.name.place, it)),
                },
                Document::Broken(name) => {
                    all.broken.insert(name);
                }
            }
        }
        all
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
            PortWord::Literal(PortLiteral::Named(port)) => named.push(port.clone()),
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
    /// What is left of [`MAX_EXPANDED`].
    room: usize,
    problems: &'a mut Collector<'f>,
}

impl<'a> Resolver<'a, '_> {
    /// Segments by their names, sorted, each once.
    fn segments(&mut self, words: &[Word]) -> Vec<SegmentId> {
        let mut ids: Vec<SegmentId> = words.iter().filter_map(|it| self.segment(it)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn ports(&mut self, words: Option<&[PortWord]>) -> Ports {
        match words {
            None => Ports::Any,
            Some(words) => ports(words, |word| self.service(word)).unwrap_or(Ports::Any),
        }
    }

    fn peers(&mut self, words: Option<Vec<PeerWord>>) -> Peers {
        let Some(words) = words else {
            return Peers::Any;
        };
        let peer = |word| match word {
            PeerWord::Segment(word) => self.segment(&word).map(Peer::Segment),
            PeerWord::Subnet(subnet) => Some(Peer::Subnet(subnet)),
        };
        Peers::Of(words.into_iter().filter_map(peer).collect())
    }

    /// Where a rule of a document stands.
    fn origin(&self, document: &Word, rule: String, line: u32) -> Arc<Origin> {
        let file = self.problems.file(document.place).path.clone();
        Arc::new(Origin { rule, file, line })
    }

    fn policy(&mut self, document: PolicyDocument) -> Policy {
        let applies_to = self.segments(&document.applies_to);
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
        let name = format!("{}/{direction}", policy.text);
        let rules = document
            .rules
            .into_iter()
            .map(|document| {
                let rule = format!("{name}[{}]", document.index);
                let origin = self.origin(policy, rule, document.line);
                self.allow(document, origin)
            })
            .collect();
        Side {
            origin: self.origin(policy, name, document.line),
            rules,
        }
    }

    fn allow(&mut self, document: RuleDocument, origin: Arc<Origin>) -> Allow {
        let peers = self.peers(document.peers);
        let ports = self.ports(document.allow.as_deref());
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
            let help = self
                .problems
                .wants_suggestion()
                .then(|| did_you_mean(&word.text, self.segment_ids.keys().copied()))
                .flatten();
            let message = format!("there is no Segment {}", quote(&word.text));
            self.problems.report_help(word.place, message, help);
        }
        id
    }

    fn service(&mut self, word: &Word) -> Option<&'a Service> {
        let services = self.services;
        let service = services.get(&word.text).map(|(_, service)| service);
        if service.is_none() && !self.is_excused(word) {
            let help = self
                .problems
                .wants_suggestion()
                .then(|| {
                    let services = services.keys().map(String::as_str);
                    did_you_mean(&word.text, services).or_else(|| did_you_mean(&word.text, words()))
                })
                .flatten()
                .unwrap_or_else(|| "name a Service, or write a port such as tcp/5432".to_owned());
            let message = format!("there is no Service {}", quote(&word.text));
            self.problems.report_help(word.place, message, help);
        }
        let size = match &service?.ports {
            Ports::Any => 0,
            Ports::Of { spans, named } => spans.len() + named.len(),
        };
        service.filter(|_| self.has_room(size, word.place))
    }

    /// Takes room for what a name stands for; the first time that none is left, that is reported.
    fn has_room(&mut self, size: usize, place: Place) -> bool {
        let has_room = size <= self.room;
        if !has_room && self.room > 0 {
            let message = format!(
                "services and isolations stand for more than {MAX_EXPANDED} ports and peers up to here"
            );
            let help = "name fewer ports in one Service, or fewer segments in one Isolation";
            self.problems.report_help(place, message, help.to_owned());
        }
        self.room = if has_room { self.room - size } else { 0 };
        has_room
    }

    /// Whether an unknown name needs no report: its document has one.
    fn is_excused(&self, word: &Word) -> bool {
        self.broken.contains(&word.text)
    }
}
