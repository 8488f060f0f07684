//! Isolation as authors write it.

use crate::{
    parse::{
        collector::Collector,
        document::{
            ordered::{self, Priority},
            policy,
        },
        fields::{Fields, Word, list},
        ports::PortWord,
        values,
        yaml::Node,
    },
    words::Mode,
};

pub(crate) struct IsolationDocument {
    pub name: Word,
    /// None: it is missing or wrong, which is reported.
    pub priority: Option<Priority>,
    pub segments: Vec<Word>,
    pub except: Vec<ExceptDocument>,
    pub mode: Mode,
    /// The line of `segments`.
    pub line: u32,
}

/// What isolation leaves to the tiers below.
pub(crate) struct ExceptDocument {
    /// Where it stands in the list, items with mistakes counted too.
    pub index: usize,
    /// The line of the item.
    pub line: u32,
    pub from: Vec<Word>,
    pub to: Vec<Word>,
    /// None: any port.
    pub ports: Option<Vec<PortWord>>,
}

pub(super) fn read(node: &Node, problems: &mut Collector<'_>) -> Option<IsolationDocument> {
    let what = "an Isolation";
    let known = [
        "apiVersion",
        "kind",
        "name",
        "priority",
        "segments",
        "except",
        "mode",
    ];
    let fields = Fields::read(node, what, &known, problems)?;
    let name = values::name(&fields, what, problems);
    let priority = ordered::priority(&fields, what, problems);
    let field = fields.require("segments", what, problems);
    let segments = field
        .map(|field| values::segments(field.node, "`segments`", problems))
        .unwrap_or_default();
    if let Some(field) = field
        && segments
            .first()
            .is_some_and(|first| segments.iter().all(|it| it.text == first.text))
    {
        problems.report_help(
            field.node.place,
            "one segment alone cannot be isolated from others",
            "name at least two segments".to_owned(),
        );
    }
    let except = fields
        .get("except")
        .and_then(|field| list(field.node, "`except`", problems))
        .unwrap_or_default()
        .iter()
        .enumerate()
        .filter_map(|(index, item)| except(item, index, problems))
        .collect();
    let mode = fields
        .get("mode")
        .and_then(|field| policy::mode(field.node, problems))
        .unwrap_or_default();
    Some(IsolationDocument {
        name: name?,
        priority,
        segments,
        except,
        mode,
        line: field?.key.line,
    })
}

fn except(node: &Node, index: usize, problems: &mut Collector<'_>) -> Option<ExceptDocument> {
    let what = "an exception of an Isolation";
    let help = |field: &str| (field == "allow").then(|| "its ports are in `ports`".to_owned());
    let known = ["from", "to", "ports"];
    let fields = Fields::read_with_help(node, what, &known, help, problems)?;
    let mut segments = |name: &str| {
        let field = fields.require(name, what, problems);
        field
            .map(|field| values::segments(field.node, &format!("`{name}`"), problems))
            .unwrap_or_default()
    };
    let (from, to) = (segments("from"), segments("to"));
    Some(ExceptDocument {
        index,
        line: node.place.line,
        from,
        to,
        ports: ordered::ports(&fields, problems),
    })
}
