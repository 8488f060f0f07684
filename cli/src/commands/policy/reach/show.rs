//! Answers as tables, JSON lines and graphs.

use std::io;

use policy::reach::{Change, Extent, Reach, SegmentChange, SegmentReach, summary};
use serde::Serialize;

use crate::{
    commands::policy::reach::graph::{Edge, Graph, Line},
    output::{Format, count, json_lines, list, table},
};

/// Prints what hosts reach.
pub fn hosts(found: impl Iterator<Item = Reach>, format: Format, graph: bool) -> io::Result<()> {
    if format == Format::Json {
        return json_lines(found);
    }
    let mut drawn = Graph::default();
    let (mut rows, mut closed) = (Vec::new(), 0);
    for pair in found {
        let (src, dst) = (pair.src.to_string(), pair.dst.to_string());
        let is_open = !pair.allowed.is_empty();
        if graph {
            drawn.nodes([&src, &dst]);
            if is_open {
                drawn.edge(Edge::new(&src, &dst, &pair.summary(), Line::Plain));
            }
        } else if is_open {
            rows.push([src, dst, pair.summary(), addresses(&pair.addresses)]);
        } else {
            closed += 1;
        }
    }
    if graph {
        return drawn.print();
    }
    table(["FROM", "TO", "ALLOWED", "ADDRESSES"], rows)?;
    not_shown(closed);
    Ok(())
}

/// Prints what the members of segments reach.
pub fn segments(
    found: impl Iterator<Item = SegmentReach>,
    format: Format,
    graph: bool,
) -> io::Result<()> {
    if format == Format::Json {
        return json_lines(found);
    }
    let mut drawn = Graph::default();
    let (mut rows, mut closed) = (Vec::new(), 0);
    for SegmentReach { src, dst, extent } in found {
        if graph {
            drawn.nodes([&src, &dst]);
            for (line, label) in lines(&extent, Line::Plain) {
                drawn.edge(Edge::new(&src, &dst, &label, line));
            }
        } else if extent.is_empty() {
            closed += 1;
        } else {
            let Extent { all, some } = &extent;
            rows.push([src, dst, ports(all), ports(some)]);
        }
    }
    if graph {
        return drawn.print();
    }
    table(["FROM", "TO", "ALL", "SOME"], rows)?;
    not_shown(closed);
    Ok(())
}

fn not_shown(closed: usize) {
    if closed > 0 {
        eprintln!("{} not shown: nothing passes", count(closed, "pair"));
    }
}

/// A difference, by host or by segment.
pub trait Changed: Serialize {
    /// Who opens, and to whom.
    fn ends(&self) -> [String; 2];
    /// What opens and what closes, in words; none where nothing does.
    fn words(&self) -> [Option<String>; 2];
    /// What more there is to say.
    fn note(&self) -> String;
}

impl Changed for Change {
    fn ends(&self) -> [String; 2] {
        [self.src.to_string(), self.dst.to_string()]
    }

    fn words(&self) -> [Option<String>; 2] {
        let v4 = self.addresses.iter().any(|(src, _)| src.is_ipv4());
        let v6 = self.addresses.iter().any(|(src, _)| src.is_ipv6());
        [&self.opens, &self.closes].map(|spans| (!spans.is_empty()).then(|| summary(spans, v4, v6)))
    }

    fn note(&self) -> String {
        addresses(&self.addresses)
    }
}

impl Changed for SegmentChange {
    fn ends(&self) -> [String; 2] {
        [self.src.clone(), self.dst.clone()]
    }

    fn words(&self) -> [Option<String>; 2] {
        [&self.opens, &self.closes].map(|extent| (!extent.is_empty()).then(|| extent.summary()))
    }

    fn note(&self) -> String {
        let is_some = [&self.opens, &self.closes]
            .iter()
            .any(|extent| !extent.some.is_empty());
        if is_some {
            "some members"
        } else {
            "all members"
        }
        .to_owned()
    }
}

/// Prints changes; whether there are none.
pub fn changes<T: Changed>(
    found: impl Iterator<Item = T>,
    format: Format,
    graph: bool,
) -> io::Result<bool> {
    let mut is_same = true;
    if format == Format::Json {
        json_lines(found.inspect(|_| is_same = false))?;
        return Ok(is_same);
    }
    let mut drawn = Graph::default();
    let mut rows = Vec::new();
    for change in found {
        is_same = false;
        let [src, dst] = change.ends();
        let [opens, closes] = change.words();
        drawn.nodes([&src, &dst]);
        for (words, sign, line) in [(opens, "+", Line::Opens), (closes, "-", Line::Closes)] {
            let Some(words) = words else { continue };
            if graph {
                drawn.edge(Edge::new(&src, &dst, &words, line));
            } else {
                let (src, dst) = (src.clone(), dst.clone());
                rows.push([sign.to_owned(), src, dst, words, change.note()]);
            }
        }
    }
    if graph {
        drawn.print()?;
    } else if is_same {
        eprintln!("no difference");
    } else {
        table(["", "FROM", "TO", "FLOWS", "WHERE"], rows)?;
    }
    Ok(is_same)
}

/// What of an extent is drawn how.
fn lines(extent: &Extent, all: Line) -> impl Iterator<Item = (Line, String)> {
    let Extent { all: of_all, some } = extent;
    let drawn = [(all, of_all), (Line::Some, some)];
    drawn
        .into_iter()
        .filter_map(|(line, spans)| (!spans.is_empty()).then(|| (line, ports(spans))))
}

/// Of an extent's two lists one, for people.
fn ports(spans: &[policy::PortSpan]) -> String {
    if spans.is_empty() {
        return "-".to_owned();
    }
    let extent = Extent {
        all: spans.to_vec(),
        some: Vec::new(),
    };
    extent.summary()
}

fn addresses(pairs: &policy::reach::AddressPairs) -> String {
    list(pairs.iter().map(|(src, dst)| format!("{src}->{dst}")))
}
