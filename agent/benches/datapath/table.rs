//! The results for people: a table in Markdown and a plot.

use std::fmt::Write as _;

use crate::{
    figures::Figure,
    results::{Firewall, Measure, Results},
    traffic::Kind,
};

const COLOURS: [(&str, &str); 3] = [
    ("nftables", "#888888"),
    ("iptables", "#c08040"),
    ("Bulkhead", "#2060c0"),
];

fn of_kind(kind: &str, rules: usize) -> Firewall {
    match kind {
        "nftables" => Firewall::Nftables(rules),
        "iptables" => Firewall::Iptables(rules),
        _ => Firewall::Bulkhead(rules),
    }
}

pub fn markdown(results: &Results, figures: &[Figure], sizes: &[usize]) -> String {
    let mut text = String::from(
        "# The cost of a packet\n\n\
         Written by `cargo xtask bench datapath`: one interleaved run, medians of its rounds, all firewalls side by side.\n\
         Packets go over a veth from one network namespace to another; a figure is the time of the sending thread, in which the whole path runs.\n\
         A rule is an address that may come to a port, a subnet that may, or one that may not. At 100,000 rules ten addresses share an identity:\n\
         Bulkhead then has some 12,700 rules, and nftables and ipset have 100,000 elements.\n\
         Figures that speak of no number of rules are means over all numbers of rules.\n\n\
         ![What opening a flow costs](datapath.svg)\n\n## The goals\n\n| figure | value | unit | goal | |\n|---|---|---|---|---|\n",
    );
    for figure in figures {
        let Figure {
            name,
            value,
            unit,
            goal,
            ..
        } = figure;
        let met = if goal.is_met(*value) { "met" } else { "short" };
        let _ = writeln!(text, "| `{name}` | {value:.3} | {unit} | {goal} | {met} |");
    }
    let short: Vec<String> = figures.iter().filter_map(Figure::shortfall).collect();
    if !short.is_empty() {
        text += "\nWhat stays short, and what bounds it:\n\n";
        for line in short {
            let _ = writeln!(text, "- {line}.");
        }
    }
    for measure in Measure::ALL {
        let unit = match measure {
            Measure::Asked("apply" | "address") => "milliseconds",
            Measure::Asked("memory" | "maps") => "MiB",
            _ => "nanoseconds",
        };
        let _ = writeln!(text, "\n## {measure}, {unit}\n");
        let per_second = match measure {
            Measure::Packets(_) | Measure::Read(_) => Some("packets/s"),
            Measure::Connect => Some("connections/s"),
            Measure::RoundTrip => Some("round trips/s"),
            Measure::Megabyte => Some("MB/s"),
            Measure::Asked(_) => None,
        };
        match per_second {
            Some(rate) => {
                let _ = writeln!(
                    text,
                    "| | {unit} | {rate} | to nothing | added, to nftables' |\n|---|---|---|---|---|"
                );
            }
            None => {
                let _ = writeln!(text, "| | {unit} |\n|---|---|");
            }
        }
        for firewall in Firewall::all(sizes) {
            let Some(value) = results.value(measure, firewall) else {
                continue;
            };
            if per_second.is_none() {
                let _ = writeln!(text, "| {firewall} | {value:.2} |");
                continue;
            }
            let nothing = results
                .value(measure, Firewall::Nothing)
                .unwrap_or(f64::NAN);
            let rules = match firewall {
                Firewall::Nftables(rules)
                | Firewall::Iptables(rules)
                | Firewall::Bulkhead(rules) => rules,
                _ => 1_000,
            };
            let added = results
                .added(measure, firewall, Firewall::Nftables(rules))
                .unwrap_or(f64::NAN);
            let _ = writeln!(
                text,
                "| {firewall} | {value:.0} | {:.0} | {:.2} | {added:.2} |",
                1e9 / value,
                value / nothing
            );
        }
    }
    text
}

/// What opening a flow adds, over the number of rules.
pub fn plot(results: &Results, sizes: &[usize]) -> String {
    let measure = Measure::Packets(Kind::New);
    let nothing = results
        .value(measure, Firewall::Nothing)
        .unwrap_or_default();
    let added = |firewall| results.value(measure, firewall).unwrap_or(f64::NAN) - nothing;
    let most = Firewall::all(sizes)
        .into_iter()
        .map(added)
        .fold(1.0, f64::max);
    let (width, height, left, bottom) = (640.0, 360.0, 70.0, 40.0);
    let x = |place: usize| {
        left + (width - left - 120.0) * place as f64 / (sizes.len() - 1).max(1) as f64
    };
    let y = |value: f64| height - bottom - (height - bottom - 30.0) * value / most;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"16\">nanoseconds that the first packet of a flow costs more than with nothing, by number of rules</text>\n"
    );
    for step in 0..=4 {
        let value = most * f64::from(step) / 4.0;
        let at = y(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{:.0}\" y1=\"{at:.0}\" y2=\"{at:.0}\" stroke=\"#dddddd\"/><text x=\"8\" y=\"{at:.0}\">{value:.0}</text>",
            width - 120.0
        );
    }
    for (place, rules) in sizes.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\">{rules}</text>",
            x(place) - 12.0,
            height - 14.0
        );
    }
    for (kind, colour) in COLOURS {
        let values: Vec<f64> = sizes
            .iter()
            .map(|rules| added(of_kind(kind, *rules)))
            .collect();
        let points: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(place, value)| format!("{:.1},{:.1}", x(place), y(*value)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{:.0}\" y=\"{:.0}\" fill=\"{colour}\">{kind}</text>",
            points.join(" "),
            x(sizes.len() - 1) + 8.0,
            y(values.last().copied().unwrap_or_default())
        );
    }
    svg + "</svg>\n"
}
