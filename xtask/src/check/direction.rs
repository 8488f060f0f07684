//! Who may depend on whom, from what `cargo metadata` says.
//!
//! Normal and build dependencies count; what only tests use does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// One member of the workspace.
struct Rule {
    member: &'static str,
    /// The other members that it may name in its manifest.
    may_use: &'static [&'static str],
    /// Packages that must not be reachable from it, however far away.
    never: &'static [&'static str],
}

const POLICY: &str = "bulkhead-policy";
const PROTO: &str = "bulkhead-proto";
const DATAPATH: &str = "bulkhead-datapath";
const AYA: &str = "aya";

/// The table: `policy <- proto <- controller, agent, cli` and `datapath <- agent, agent-ebpf`.
const RULES: &[Rule] = &[
    Rule {
        member: POLICY,
        may_use: &[],
        never: &["tokio", "tonic", "prost", AYA],
    },
    Rule {
        member: DATAPATH,
        may_use: &[],
        never: &["tokio", "tonic", "prost"],
    },
    Rule {
        member: PROTO,
        may_use: &[POLICY],
        never: &[DATAPATH, AYA],
    },
    Rule {
        member: "bulkhead-agent-ebpf",
        may_use: &[DATAPATH],
        never: &["tokio", "tonic", "prost"],
    },
    Rule {
        member: "bulkhead-agent",
        may_use: &[POLICY, PROTO, DATAPATH],
        never: &[],
    },
    Rule {
        member: "bulkhead-controller",
        may_use: &[POLICY, PROTO],
        never: &[DATAPATH, AYA],
    },
    Rule {
        member: "bulkhead-cli",
        may_use: &[POLICY, PROTO],
        never: &[DATAPATH, AYA],
    },
    // They run the programs as users do, and know nothing of the inside.
    Rule {
        member: "bulkhead-tests",
        may_use: &[],
        never: &[],
    },
    Rule {
        member: "xtask",
        may_use: &[],
        never: &["tokio"],
    },
];

/// What breaks the table, a line each; empty when all is well.
///
/// # Errors
///
/// This is not the output of `cargo metadata`.
pub fn findings(metadata: &Value) -> Result<Vec<String>> {
    let graph = Graph::read(metadata).context("this is not the output of `cargo metadata`")?;
    let mut findings = Vec::new();
    for member in &graph.members {
        let Some(rule) = RULES.iter().find(|rule| rule.member == member) else {
            findings.push(format!(
                "{member} stands in no row of the table of dependency directions: add one to xtask/src/check/direction.rs"
            ));
            continue;
        };
        for used in graph
            .uses(member)
            .filter(|used| graph.members.contains(*used))
        {
            if !rule.may_use.contains(&used.as_str()) {
                findings.push(match rule.may_use {
                    [] => format!("{member} depends on {used}, and may depend on no member"),
                    some => format!(
                        "{member} depends on {used}, and may only on {}",
                        some.join(", ")
                    ),
                });
            }
        }
        for never in rule.never {
            if let Some(path) = graph.path(member, never) {
                findings.push(format!(
                    "{member} must not know {never}: {}",
                    path.join(" -> ")
                ));
            }
        }
    }
    for rule in RULES
        .iter()
        .filter(|rule| !graph.members.contains(rule.member))
    {
        findings.push(format!(
            "{} stands in the table of dependency directions and is no member",
            rule.member
        ));
    }
    Ok(findings)
}

/// Packages by name. Two versions of one package are one node: the rules do not tell them apart.
struct Graph {
    members: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read(metadata: &Value) -> Option<Self> {
        let mut names = BTreeMap::new();
        for package in metadata["packages"].as_array()? {
            names.insert(package["id"].as_str()?, package["name"].as_str()?);
        }
        let name = |id: &Value| Some((*names.get(id.as_str()?)?).to_owned());

        let members = metadata["workspace_members"]
            .as_array()?
            .iter()
            .map(name)
            .collect::<Option<_>>()?;
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array()? {
            let uses = edges.entry(name(&node["id"])?).or_default();
            for dependency in node["deps"].as_array()? {
                // A kind is null for a normal dependency, "build" or "dev".
                let kinds = dependency["dep_kinds"].as_array()?;
                if kinds.iter().any(|kind| kind["kind"] != "dev") {
                    uses.insert(name(&dependency["pkg"])?);
                }
            }
        }
        Some(Self { members, edges })
    }

    fn uses(&self, package: &str) -> impl Iterator<Item = &String> {
        self.edges.get(package).into_iter().flatten()
    }

    /// The shortest way from one package to another that it must not know.
    fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(package) = queue.pop_front() {
            if package == to {
                let mut path = vec![to.to_owned()];
                let mut at = to;
                while at != from {
                    at = came_from.get(at)?;
                    path.insert(0, at.to_owned());
                }
                return Some(path);
            }
            for used in self.uses(package) {
                if used != from && !came_from.contains_key(used.as_str()) {
                    came_from.insert(used, package);
                    queue.push_back(used);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    /// Metadata with every member of the table and these dependencies: from, to, kind.
    fn metadata(dependencies: &[(&str, &str, Option<&str>)]) -> Value {
        let members: Vec<&str> = RULES.iter().map(|rule| rule.member).collect();
        let ends = dependencies.iter().flat_map(|(from, to, _)| [*from, *to]);
        let packages: BTreeSet<&str> = members.iter().copied().chain(ends).collect();
        let nodes: Vec<Value> = packages
            .iter()
            .map(|package| {
                let of = dependencies.iter().filter(|(from, ..)| from == package);
                let deps: Vec<Value> = of
                    .map(|(_, to, kind)| json!({ "pkg": to, "dep_kinds": [{ "kind": kind }] }))
                    .collect();
                json!({ "id": package, "deps": deps })
            })
            .collect();
        let packages: Vec<Value> = packages
            .iter()
            .map(|name| json!({ "id": name, "name": name }))
            .collect();
        json!({ "packages": packages, "workspace_members": members, "resolve": { "nodes": nodes } })
    }

    #[test]
    fn the_direction_of_the_design_is_accepted() {
        let metadata = metadata(&[
            ("bulkhead-proto", "bulkhead-policy", None),
            ("bulkhead-agent", "bulkhead-proto", None),
            ("bulkhead-agent", "bulkhead-datapath", None),
            ("bulkhead-agent", "aya", None),
            ("bulkhead-agent-ebpf", "bulkhead-datapath", None),
        ]);
        assert_eq!(findings(&metadata).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_that_points_the_wrong_way_is_named() {
        let metadata = metadata(&[
            ("bulkhead-policy", "bulkhead-proto", None),
            ("bulkhead-cli", "bulkhead-controller", None),
        ]);
        assert_eq!(
            findings(&metadata).unwrap(),
            [
                "bulkhead-cli depends on bulkhead-controller, and may only on bulkhead-policy, bulkhead-proto",
                "bulkhead-policy depends on bulkhead-proto, and may depend on no member",
            ]
        );
    }

    #[test]
    fn a_forbidden_package_is_found_however_far_away() {
        let metadata = metadata(&[
            ("bulkhead-policy", "helper", Some("build")),
            ("helper", "deeper", None),
            ("deeper", "helper", None),
            ("deeper", "tokio", None),
        ]);
        assert_eq!(
            findings(&metadata).unwrap(),
            ["bulkhead-policy must not know tokio: bulkhead-policy -> helper -> deeper -> tokio"]
        );
    }

    #[test]
    fn what_only_tests_use_does_not_count() {
        let metadata = metadata(&[("bulkhead-policy", "tokio", Some("dev"))]);
        assert_eq!(findings(&metadata).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_member_without_a_row_and_a_row_without_a_member_are_named() {
        let mut metadata = metadata(&[("newcomer", "helper", None)]);
        let members = metadata["workspace_members"].as_array_mut().unwrap();
        members.retain(|member| member != "xtask");
        members.push("newcomer".into());
        let findings = findings(&metadata).unwrap();
        assert!(
            findings
                .iter()
                .any(|it| it.starts_with("newcomer stands in no row")),
            "{findings:?}"
        );
        assert!(
            findings
                .iter()
                .any(|it| it.starts_with("xtask stands in the table")),
            "{findings:?}"
        );
        assert_eq!(findings.len(), 2);
    }
}
