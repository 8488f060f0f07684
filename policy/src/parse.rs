//! From YAML text to a policy set.
//!
//! A document is read in three steps. `yaml` makes a tree in which every node knows its place,
//! `document` checks what can be checked in one document, and `resolve` looks up names across
//! all files. Each step reports what it finds and goes on with the rest, so that an author sees
//! all mistakes at once.

pub(crate) mod collector;
mod document;
pub(crate) mod fields;
mod inventory;
mod ports;
mod resolve;
mod selector;
pub(crate) mod suggest;
pub(crate) mod values;
pub(crate) mod yaml;

use crate::{
    parse::{
        collector::Collector,
        yaml::{Node, Place},
    },
    problem::Problems,
    set::PolicySet,
    source::SourceFile,
};

/// Bytes in one file. Larger ones are refused unread.
pub const MAX_FILE_BYTES: usize = 16 << 20;

/// Parses, resolves and checks a set of policy files. No files make the empty set; inventories
/// among them (`hosts:` without `kind:`) are passed over.
///
/// # Errors
/// All mistakes of all documents of all files at once, sorted by file and position.
pub fn parse(files: &[SourceFile]) -> Result<PolicySet, Problems> {
    let mut problems = Collector::new(files);
    let mut documents = Vec::new();
    for file in 0..files.len() {
        let (nodes, broken) = read_file(file, &mut problems);
        documents.extend(broken.into_iter().map(document::Document::Broken));
        documents.extend(
            nodes
                .iter()
                .filter_map(|node| document::read(node, &mut problems)),
        );
    }
    let set = resolve::resolve(documents, &mut problems);
    problems.finish(set)
}

/// The documents of a file that are YAML, and the names that those which are not seem to have.
pub(crate) fn read_file(file: usize, problems: &mut Collector<'_>) -> (Vec<Node>, Vec<String>) {
    let content = problems.files[file].content.as_str();
    if content.len() > MAX_FILE_BYTES {
        let place = Place {
            file,
            line: 1,
            column: 1,
            width: 1,
        };
        let message = format!(
            "the file has {} bytes; {MAX_FILE_BYTES} is the most",
            content.len()
        );
        problems.report_help(place, message, "split it into several files".to_owned());
        return (Vec::new(), Vec::new());
    }
    let (mut nodes, mut broken) = (Vec::new(), Vec::new());
    for piece in yaml::documents(content) {
        match yaml::read(&piece, file) {
            Ok(node) => nodes.extend(node),
            Err((place, message)) => {
                problems.report(place, message);
                broken.extend(document::likely_name(piece.text));
            }
        }
    }
    (nodes, broken)
}
