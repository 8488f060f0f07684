//! Selector expressions of Calico, as Bulkhead's: `||` becomes several segments.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    host_policy::Origin,
    import::{calico::Reader, segments::name_of},
    parse::{
        collector::quote,
        fields::word,
        values::{MAX_NAME, is_name},
        yaml::{Node, Place},
    },
    render::simplified,
    selector::{Requirement, Selector, Test},
    set::SegmentId,
};

/// Brackets and negations within each other.
const MAX_DEPTH: usize = 32;
/// Bytes of one expression.
const MAX_LENGTH: usize = 8_192;
/// Segments that one expression may become.
const MAX_SEGMENTS: usize = 64;
/// Nobody has this label: not to have it is to be anybody.
pub(super) const EXCLUDED: &str = "projectcalico.org/excluded";
/// What endpoints without a namespace do not have.
const NAMESPACE: &str = "projectcalico.org/namespace";

/// An expression as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    All,
    Test(String, Test),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

impl Reader<'_> {
    pub(super) fn expression(&mut self, node: &Node) -> Option<Expression> {
        let text = word(node, "a selector", &mut self.problems)?;
        match parse(&text.text) {
            Ok(expression) => Some(expression),
            Err(Mistake { message, help }) => {
                self.problems.report_help(text.place, message, help);
                None
            }
        }
    }

    /// The segments that together are the workloads of an expression; none if it matches nobody.
    pub(super) fn segments_of(
        &mut self,
        expression: &Expression,
        place: Place,
        origin: &Arc<Origin>,
    ) -> Vec<SegmentId> {
        let Some(selectors) = alternatives(expression, false) else {
            self.problems.report_help(
                place,
                format!("this selector becomes more than {MAX_SEGMENTS} segments"),
                "give the workloads that it means a label of their own".to_owned(),
            );
            return Vec::new();
        };
        selectors
            .iter()
            .map(|selector| {
                if selector.requirements.is_empty() {
                    let everybody = Selector::from_iter([Requirement {
                        key: EXCLUDED.to_owned(),
                        test: Test::DoesNotExist,
                    }]);
                    self.segments.id(&everybody, "all-endpoints", origin)
                } else {
                    self.segments.id(selector, &name_of(selector), origin)
                }
            })
            .collect()
    }
}

/// Selectors of which a workload must match any: the disjunctive normal form, without what cannot
/// match. One without requirements matches everybody, and is then the only one. None: too many.
fn alternatives(expression: &Expression, is_negated: bool) -> Option<BTreeSet<Selector>> {
    let found = match expression {
        Expression::Not(inner) => alternatives(inner, !is_negated)?,
        Expression::All if is_negated => BTreeSet::new(),
        Expression::All => BTreeSet::from([Selector::default()]),
        Expression::Test(key, test) => {
            let test = if is_negated {
                negation(test)
            } else {
                test.clone()
            };
            let requirement = Requirement {
                key: key.clone(),
                test,
            };
            // An empty list of values is in no label and not in any.
            match &requirement.test {
                Test::NotIn(values) if values.is_empty() => BTreeSet::from([Selector::default()]),
                _ => simplified(&Selector::from_iter([requirement]))
                    .into_iter()
                    .collect(),
            }
        }
        // De Morgan: what is not "and" is "or" of what is not.
        Expression::Or(parts) if !is_negated => either(parts, is_negated)?,
        Expression::And(parts) if is_negated => either(parts, is_negated)?,
        Expression::And(parts) | Expression::Or(parts) => {
            let parts: Option<Vec<BTreeSet<Selector>>> = parts
                .iter()
                .map(|part| alternatives(part, is_negated))
                .collect();
            let (single, many): (Vec<_>, Vec<_>) =
                parts?.into_iter().partition(|part| part.len() == 1);
            // Those without a choice at once: an expression may have thousands of them.
            let requirements = single
                .into_iter()
                .flatten()
                .flat_map(|only| only.requirements);
            let mut all: BTreeSet<Selector> =
                simplified(&requirements.collect()).into_iter().collect();
            for part in many {
                let pairs = all
                    .iter()
                    .flat_map(|a| part.iter().map(move |b| both(a, b)));
                all = pairs.flatten().collect();
                if all.len() > MAX_SEGMENTS {
                    return None;
                }
            }
            all
        }
    };
    if found.contains(&Selector::default()) {
        return Some(BTreeSet::from([Selector::default()]));
    }
    (found.len() <= MAX_SEGMENTS).then_some(found)
}

fn either(parts: &[Expression], is_negated: bool) -> Option<BTreeSet<Selector>> {
    let mut any = BTreeSet::new();
    for part in parts {
        any.extend(alternatives(part, is_negated)?);
        if any.len() > MAX_SEGMENTS {
            return None;
        }
    }
    Some(any)
}

/// The workloads of both selectors; none if there can be none.
fn both(a: &Selector, b: &Selector) -> Option<Selector> {
    let requirements = a.requirements.iter().chain(&b.requirements);
    simplified(&requirements.cloned().collect())
}

fn negation(test: &Test) -> Test {
    match test {
        Test::In(values) => Test::NotIn(values.clone()),
        Test::NotIn(values) => Test::In(values.clone()),
        Test::Exists => Test::DoesNotExist,
        Test::DoesNotExist => Test::Exists,
    }
}

struct Mistake {
    message: String,
    help: Option<String>,
}

impl Mistake {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }
}

fn parse(text: &str) -> Result<Expression, Mistake> {
    if text.len() > MAX_LENGTH {
        let message = format!("this selector is longer than {MAX_LENGTH} bytes");
        return Err(Mistake::new(message));
    }
    let mut parser = Parser { rest: text };
    parser.space();
    if parser.rest.is_empty() {
        return Ok(Expression::All);
    }
    let expression = parser.or(0)?;
    if parser.rest.is_empty() {
        Ok(expression)
    } else {
        Err(parser.unexpected("`&&`, `||` or the end"))
    }
}

/// Reads an expression from the left; what is left always starts with a word, not with space.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes a sign or word if it comes next.
    fn take(&mut self, word: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(word) else {
            return false;
        };
        // `inside` is not `in`.
        if word.ends_with(|c: char| c.is_ascii_alphabetic()) && rest.starts_with(is_key) {
            return false;
        }
        self.rest = rest;
        self.space();
        true
    }

    fn expect(&mut self, word: &str) -> Result<(), Mistake> {
        if self.take(word) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("`{word}`")))
        }
    }

    fn unexpected(&self, wanted: &str) -> Mistake {
        let found = match self.rest {
            "" => "it ends".to_owned(),
            rest => format!("it goes on with {}", quote(rest)),
        };
        Mistake::new(format!(
            "this selector cannot be read: {found} where {wanted} is expected"
        ))
    }

    fn or(&mut self, depth: usize) -> Result<Expression, Mistake> {
        let mut parts = vec![self.and(depth)?];
        while self.take("||") {
            parts.push(self.and(depth)?);
        }
        Ok(single(parts, Expression::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Expression, Mistake> {
        let mut parts = vec![self.operand(depth)?];
        while self.take("&&") {
            parts.push(self.operand(depth)?);
        }
        Ok(single(parts, Expression::And))
    }

    fn operand(&mut self, depth: usize) -> Result<Expression, Mistake> {
        if depth > MAX_DEPTH {
            return Err(Mistake::new(format!(
                "this selector is nested more than {MAX_DEPTH} deep"
            )));
        }
        if self.take("!") {
            return Ok(Expression::Not(Box::new(self.operand(depth + 1)?)));
        }
        if self.take("(") {
            let inner = self.or(depth + 1)?;
            self.expect(")")?;
            return Ok(inner);
        }
        let word = self.key()?;
        if self.take("(") {
            let expression = match word {
                "all" => Expression::All,
                "global" => Expression::Test(NAMESPACE.to_owned(), Test::DoesNotExist),
                "has" => Expression::Test(self.label()?, Test::Exists),
                other => {
                    let message = format!("a selector has no function {}", quote(other));
                    return Err(Mistake::new(message));
                }
            };
            self.expect(")")?;
            return Ok(expression);
        }
        check_key(word)?;
        let key = word.to_owned();
        let one = |value| BTreeSet::from([value]);
        if self.take("==") {
            return Ok(Expression::Test(key, Test::In(one(self.value()?))));
        }
        if self.take("!=") {
            return Ok(Expression::Test(key, Test::NotIn(one(self.value()?))));
        }
        if self.take("in") {
            return Ok(Expression::Test(key, Test::In(self.values()?)));
        }
        if self.take("not") {
            self.expect("in")?;
            return Ok(Expression::Test(key, Test::NotIn(self.values()?)));
        }
        for operator in ["contains", "starts with", "ends with"] {
            if self.rest.starts_with(operator) {
                return Err(Mistake {
                    message: format!("`{operator}` cannot be expressed in Bulkhead policy"),
                    help: Some("name the values: `key in { 'a', 'b' }`".to_owned()),
                });
            }
        }
        Err(self.unexpected("`==`, `!=`, `in` or `not in`"))
    }

    fn key(&mut self) -> Result<&'a str, Mistake> {
        let length = self.rest.find(|c| !is_key(c)).unwrap_or(self.rest.len());
        let (key, rest) = self.rest.split_at(length);
        if key.is_empty() {
            return Err(self.unexpected("a label"));
        }
        self.rest = rest;
        self.space();
        Ok(key)
    }

    fn label(&mut self) -> Result<String, Mistake> {
        let key = self.key()?;
        check_key(key)?;
        Ok(key.to_owned())
    }

    fn value(&mut self) -> Result<String, Mistake> {
        let quotation = self.rest.chars().next().filter(|c| "'\"".contains(*c));
        let Some(quotation) = quotation else {
            return Err(self.unexpected("a quoted value"));
        };
        let Some((value, rest)) = self.rest[1..].split_once(quotation) else {
            return Err(Mistake::new(
                "this selector cannot be read: a quotation does not end",
            ));
        };
        if !value.is_empty() && !is_name(value, MAX_NAME) {
            return Err(Mistake::new(format!(
                "{} is not a label's value",
                quote(value)
            )));
        }
        self.rest = rest;
        self.space();
        Ok(value.to_owned())
    }

    fn values(&mut self) -> Result<BTreeSet<String>, Mistake> {
        self.expect("{")?;
        let mut values = BTreeSet::new();
        if self.take("}") {
            return Ok(values);
        }
        loop {
            values.insert(self.value()?);
            if self.take("}") {
                return Ok(values);
            }
            self.expect(",")?;
        }
    }
}

fn is_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_./-".contains(c)
}

fn check_key(key: &str) -> Result<(), Mistake> {
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("a", key));
    if is_name(name, MAX_NAME) && is_name(prefix, 253) {
        Ok(())
    } else {
        Err(Mistake::new(format!("{} is not a label's key", quote(key))))
    }
}

fn single(mut parts: Vec<Expression>, many: impl Fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.len() {
        1 => parts.remove(0),
        _ => many(parts),
    }
}

#[cfg(test)]
mod tests;
