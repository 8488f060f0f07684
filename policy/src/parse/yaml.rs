//! YAML as a tree in which every node knows its place.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, MessageFormatter, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Options, Spanned, UserMessageFormatter};

/// Mappings and lists within each other.
const MAX_DEPTH: usize = 32;
/// Scalars, lists and mappings in one document.
const MAX_NODES: usize = 2_000_000;

/// A run of characters on one line of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Index into the files that are parsed.
    pub file: usize,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// In characters; the end of the line cuts it.
    pub width: u32,
}

/// One YAML node.
#[derive(Debug)]
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Debug)]
pub(crate) enum Value {
    Null,
    /// Any scalar but null, as the author wrote it: `1.10` stays `1.10`, and `no` is a word.
    Scalar {
        text: String,
        kind: ScalarKind,
    },
    List(Vec<Node>),
    /// Pairs in the order of the file; keys may repeat.
    Map(Vec<(Node, Node)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScalarKind {
    Text,
    Bool(bool),
    Number,
}

/// One document of a file, as text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub text: &'a str,
    /// Lines of the file before it.
    pub lines_before: u32,
}

/// Splits a file into documents, so that one that YAML cannot read hides no other. A line that
/// starts with `---` or `...` is a marker wherever it stands (YAML 1.2, 9.1.2): neither quoted
/// text nor a block scalar may hold one.
pub(crate) fn documents(content: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let (mut offset, mut line) = (0, 0);
    // Directives belong to the document after them, so only real content ends with a marker.
    let mut has_content = false;
    for text in lines(content) {
        let begins = is_marker(text, "---");
        let ends = is_marker(text, "...");
        if begins && has_content {
            pieces.push(Piece {
                text: &content[start..offset],
                lines_before: start_line,
            });
            (start, start_line, has_content) = (offset, line, false);
        }
        offset += text.len();
        line += 1;
        has_content |= begins || !(text.trim().is_empty() || text.starts_with(['#', '%']));
        if ends {
            pieces.push(Piece {
                text: &content[start..offset],
                lines_before: start_line,
            });
            (start, start_line, has_content) = (offset, line, false);
        }
    }
    pieces.push(Piece {
        text: &content[start..],
        lines_before: start_line,
    });
    pieces
}

/// The lines of a text with their breaks: CR LF, LF, or a CR alone (YAML 1.2, 5.4).
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = match rest.find(['\r', '\n']) {
            Some(at) if rest[at..].starts_with("\r\n") => at + 2,
            Some(at) => at + 1,
            None if rest.is_empty() => return None,
            None => rest.len(),
        };
        let (line, after) = rest.split_at(end);
        rest = after;
        Some(line)
    })
}

/// The line of a document, from 1, that a tab indents where its content begins. YAML counts
/// spaces only (YAML 1.2, 6.1); the parser takes the tab of the outermost mapping for nothing. JSON
/// may stand anywhere.
fn begins_with_a_tab(text: &str) -> Option<u32> {
    (1..)
        .zip(lines(text))
        .find(|(_, line)| {
            let content = line.trim_start();
            !(content.is_empty() || content.starts_with(['#', '%']) || is_marker(line, "---"))
        })
        .filter(|(_, line)| line.starts_with('\t') && !line.trim_start().starts_with(['{', '[']))
        .map(|(number, _)| number)
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Reads one document; none if it is empty.
///
/// # Errors
/// The place and the message of the first thing that is not YAML, or is more than anybody's
/// policy needs: nesting, aliases that multiply, nodes.
pub(crate) fn read(piece: &Piece<'_>, file: usize) -> Result<Option<Node>, (Place, String)> {
    let reader = Reader {
        text: piece.text,
        file,
        lines_before: piece.lines_before,
    };
    if let Some(line) = begins_with_a_tab(piece.text) {
        let place = Place {
            file,
            line: piece.lines_before.saturating_add(line),
            column: 1,
            width: 1,
        };
        return Err((
            place,
            "a tab indents this line; indent with spaces".to_owned(),
        ));
    }
    match serde_saphyr::from_str_with_options::<Option<Spanned<Raw>>>(piece.text, options()) {
        Ok(root) => Ok(root.map(|root| reader.node(root))),
        Err(error) => {
            let error = error.without_snippet();
            let place = reader.place(error.location().unwrap_or(Location::UNKNOWN));
            Err((place, message(error)))
        }
    }
}

/// The parser's message, but for the limits: those it calls by the names of its own options.
fn message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::{Error, budget::BudgetBreach};
    match error {
        Error::AliasError { error, .. } => message(error),
        Error::Budget {
            breach: BudgetBreach::Depth { .. },
            ..
        } => {
            format!("nested more than {MAX_DEPTH} deep")
        }
        Error::Budget {
            breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. },
            ..
        } => format!("more than {MAX_NODES} values in one document"),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "aliases that multiply into more than anybody's policy needs".to_owned()
        }
        error => {
            let message = UserMessageFormatter.format_message(error).into_owned();
            // The scanner has a limit of its own, which comes first for `[[[[...`.
            if message.contains("recursion limit exceeded") {
                return format!("nested more than {MAX_DEPTH} deep");
            }
            message
        }
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: 2 * MAX_DEPTH,
            max_documents: 1,
            max_events: 3 * MAX_NODES,
            max_nodes: MAX_NODES,
            max_anchors: 1_000,
            max_aliases: 10_000,
            max_recorded_anchor_events: 100_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 8,
        },
        // The tree keeps repeated keys, and the strict reader reports every one.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        merge_keys: MergeKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

/// What the deserializer says of a node, before the text of the document is asked.
enum Raw {
    Null,
    Bool(bool),
    Number,
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Number)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::Number)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Number)
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Raw, E> {
        Err(E::custom("binary values have no place here"))
    }
}

/// Turns what the deserializer says into nodes of the file.
struct Reader<'a> {
    text: &'a str,
    file: usize,
    lines_before: u32,
}

impl Reader<'_> {
    fn node(&self, raw: Spanned<Raw>) -> Node {
        let place = self.place(raw.referenced);
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Bool(value) => self.scalar(raw.defined, ScalarKind::Bool(value)),
            Raw::Number => self.scalar(raw.defined, ScalarKind::Number),
            Raw::Text(text) => Value::Scalar {
                text,
                kind: ScalarKind::Text,
            },
            Raw::List(items) => {
                Value::List(items.into_iter().map(|item| self.node(item)).collect())
            }
            Raw::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (self.node(key), self.node(value)))
                    .collect(),
            ),
        };
        Node { place, value }
    }

    fn scalar(&self, location: Location, kind: ScalarKind) -> Value {
        let span = location.span();
        let text = span
            .byte_offset()
            .zip(span.byte_len())
            .and_then(|(start, length)| {
                let start = usize::try_from(start).ok()?;
                self.text.get(start..start + usize::try_from(length).ok()?)
            });
        Value::Scalar {
            text: text.unwrap_or_default().trim().to_owned(),
            kind,
        }
    }

    fn place(&self, location: Location) -> Place {
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Place {
            file: self.file,
            line: self
                .lines_before
                .saturating_add(narrow(location.line()).max(1)),
            column: narrow(location.column()).max(1),
            width: narrow(location.span().len()).max(1),
        }
    }
}
