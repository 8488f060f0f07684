//! Graphs in Graphviz's language (<https://graphviz.org/doc/info/lang.html>).

use std::{
    collections::BTreeSet,
    fmt,
    io::{self, Write},
};

use crate::output::printable;

/// What is drawn.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: BTreeSet<String>,
    edges: Vec<Edge>,
}

/// An arrow.
#[derive(Debug)]
pub struct Edge {
    from: String,
    to: String,
    label: String,
    line: Line,
}

/// How an arrow is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It holds.
    Plain,
    /// It holds for some.
    Some,
    /// It becomes possible.
    Opens,
    /// It stops.
    Closes,
}

impl Edge {
    pub fn new(from: &str, to: &str, label: &str, line: Line) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            label: label.to_owned(),
            line,
        }
    }
}

impl Graph {
    /// Adds nodes, those that no arrow has too.
    pub fn nodes(&mut self, names: [&str; 2]) {
        for name in names {
            if !self.nodes.contains(name) {
                self.nodes.insert(name.to_owned());
            }
        }
    }

    pub fn edge(&mut self, edge: Edge) {
        self.edges.push(edge);
    }

    pub fn print(&self) -> io::Result<()> {
        write!(io::stdout(), "{self}")
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "digraph reach {{\n  rankdir=LR;\n  node [shape=box];")?;
        for node in &self.nodes {
            writeln!(f, "  {};", quoted(node))?;
        }
        for Edge {
            from,
            to,
            label,
            line,
        } in &self.edges
        {
            let style = match line {
                Line::Plain => "",
                Line::Some => ", style=dashed",
                Line::Opens => ", color=red, fontcolor=red",
                Line::Closes => ", color=gray, fontcolor=gray, style=dotted",
            };
            let [from, to, label] = [from, to, label].map(|text| quoted(text));
            writeln!(f, "  {from} -> {to} [label={label}{style}];")?;
        }
        f.write_str("}\n")
    }
}

/// A quoted string. A backslash stays one only when it is doubled.
fn quoted(text: &str) -> String {
    let text = printable(text).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_their_quotes() {
        let mut graph = Graph::default();
        graph.nodes(["a\"b", "c\\"]);
        graph.edge(Edge::new("a\"b", "c\\", "tcp/80", Line::Some));
        assert_eq!(
            graph.to_string(),
            "digraph reach {\n  rankdir=LR;\n  node [shape=box];\n  \"a\\\"b\";\n  \"c\\\\\";\n  \
             \"a\\\"b\" -> \"c\\\\\" [label=\"tcp/80\", style=dashed];\n}\n"
        );
    }
}
