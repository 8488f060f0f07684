//! Assertions as authors write them.

use crate::{
    parse::{
        collector::Collector,
        fields::{Fields, Word, filled_list},
        ports::{self, PortWord},
        values,
        yaml::{Node, Value},
    },
    set::Claim,
};

pub(crate) struct AssertionDocument {
    pub name: Word,
    pub claim: Claim,
    /// The line of `never` or `always`.
    pub line: u32,
    pub from: Vec<Word>,
    pub to: Vec<Word>,
    /// None: any port.
    pub ports: Option<Vec<PortWord>>,
}

pub(super) fn read(node: &Node, problems: &mut Collector<'_>) -> Option<AssertionDocument> {
    let what = "an Assertion";
    let known = ["apiVersion", "kind", "name", "never", "always"];
    let fields = Fields::read(node, what, &known, problems)?;
    let name = values::name(&fields, what, problems);
    let (claim, field) = match (fields.get("never"), fields.get("always")) {
        (Some(field), None) => (Claim::Never, field),
        (None, Some(field)) => (Claim::Always, field),
        (found, _) => {
            let message = match found {
                Some(_) => "an Assertion has either `never` or `always`",
                None => "an Assertion needs `never` or `always`",
            };
            problems.report_help(
                fields.place,
                message,
                "write never: { from: dev, to: payments }".to_owned(),
            );
            return None;
        }
    };
    let what = match claim {
        Claim::Never => "`never`",
        Claim::Always => "`always`",
    };
    let line = field.key.line;
    let help = |field: &str| {
        let ports = ["ports", "allow"].contains(&field);
        ports.then(|| "its ports are in `service`".to_owned())
    };
    let known = ["from", "to", "service"];
    let fields = Fields::read_with_help(field.node, what, &known, help, problems)?;
    let mut segments = |name: &str| {
        let field = fields.require(name, what, problems);
        field
            .map(|field| values::segments(field.node, &format!("`{name}`"), problems))
            .unwrap_or_default()
    };
    let (from, to) = (segments("from"), segments("to"));
    let ports = fields.get("service").map(|field| {
        let items = match &field.node.value {
            Value::Scalar { .. } => std::slice::from_ref(field.node),
            _ => {
                let absent = "leave the field out for any port";
                filled_list(field.node, "`service`", absent, problems).unwrap_or_default()
            }
        };
        items
            .iter()
            .filter_map(|item| ports::word(item, problems))
            .collect()
    });
    Some(AssertionDocument {
        name: name?,
        claim,
        line,
        from,
        to,
        ports,
    })
}
