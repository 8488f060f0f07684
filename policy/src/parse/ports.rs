//! Protocols and ports in documents: literals, and the names of services.

use crate::{
    parse::{
        collector::{Collector, quote},
        fields::{Word, word as read_word},
        suggest::did_you_mean,
        yaml::Node,
    },
    service::{
        ProtocolSlot,
        literal::{PortLiteral, PortLiteralError, is_literal, protocol_names, words},
        names,
    },
};

const PORT_HELP: &str = "write tcp/5432, tcp/http, tcp/8000-8010, icmp/8, gre, protocol/47 or any; \
                         a Service names no other";

/// One item of `allow` or `ports`.
pub(crate) enum PortWord {
    Literal(PortLiteral),
    Service(Word),
}

/// A literal or the name of a service.
pub(crate) fn word(node: &Node, problems: &mut Collector<'_>) -> Option<PortWord> {
    let word = read_word(node, "a port or service", problems)?;
    if is_literal(&word.text) || literal_instead(&word.text).is_some() {
        return parse(&word, problems).map(PortWord::Literal);
    }
    Some(PortWord::Service(word))
}

/// A literal only: services are not made of services.
pub(crate) fn literal(node: &Node, problems: &mut Collector<'_>) -> Option<PortWord> {
    parse(&read_word(node, "a port", problems)?, problems).map(PortWord::Literal)
}

/// Refuses names that would be read as literals.
pub(crate) fn check_service_name(name: &Word, problems: &mut Collector<'_>) {
    if is_literal(&name.text) || literal_instead(&name.text).is_some() {
        problems.report_help(
            name.place,
            format!(
                "a Service cannot be named {}: that reads as a port",
                quote(&name.text)
            ),
            "name it for what it serves, such as `postgres`".to_owned(),
        );
    }
}

fn parse(word: &Word, problems: &mut Collector<'_>) -> Option<PortLiteral> {
    match word.text.parse() {
        Ok(literal) => Some(literal),
        Err(error) => {
            match literal_instead(&word.text) {
                Some(instead) => problems.report_help(
                    word.place,
                    format!("{} names no protocol and port", quote(&word.text)),
                    format!("write {instead}"),
                ),
                None if is_literal(&word.text) => {
                    let protocol = word.text.split('/').next().unwrap_or_default();
                    let meant = match &error {
                        PortLiteralError::IcmpType(name) => did_you_mean(name, types(protocol)),
                        _ => did_you_mean(protocol, words()).filter(|_| !is_literal(protocol)),
                    };
                    problems.report_help(word.place, error.to_string(), meant);
                }
                None => problems.report_help(
                    word.place,
                    format!("{} names no protocol and port", quote(&word.text)),
                    // Most that is no literal was meant as a port's or a service's name: `http` is
                    // close to `tcp`, but not it.
                    did_you_mean(&word.text, protocol_names())
                        .unwrap_or_else(|| PORT_HELP.to_owned()),
                ),
            }
            None
        }
    }
}

/// The names of the types of ICMP or ICMPv6.
fn types(protocol: &str) -> impl Iterator<Item = &'static str> {
    let slot = match protocol {
        "icmpv6" => ProtocolSlot::Icmpv6,
        _ => ProtocolSlot::Icmp,
    };
    names::icmp_types(slot).iter().map(|(name, _)| *name)
}

/// What a word that is no literal, but nearly one, was meant to be: `5432`, `TCP/5432`, `tcp:80`,
/// `protocol/gre`, `ip/47`.
fn literal_instead(text: &str) -> Option<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let range = text
        .split_once('-')
        .is_some_and(|(first, last)| digits(first) && digits(last));
    let instead = match text.split_once('/') {
        Some(("protocol" | "ip", name)) if words().any(|word| word == name) => name.to_owned(),
        Some(("ip", number)) => format!("protocol/{number}"),
        _ if digits(text) || range => format!("tcp/{text}"),
        _ => text.to_ascii_lowercase().replace(':', "/"),
    };
    (instead != text && is_literal(&instead) && instead.parse::<PortLiteral>().is_ok())
        .then_some(instead)
}
