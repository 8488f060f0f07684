//! What the fuzz targets run, for any bytes. Here, so that an ordinary test runs the corpus too.

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    Direction, Effect, IdentityTable, Inventory, Population, Revision,
    classify::classify,
    compile::compile as compile_host,
    evaluate::{Evidence, SideVerdict, evaluate},
    host_policy::{HostPolicy, RuleId},
    parse::parse as parse_files,
    problem::Problems,
    source::SourceFile,
    testing::{Scenario, scenario},
};

/// Takes bytes for a policy file and for an inventory. Whatever they are, the answer is a value or
/// problems that have a place in the file.
///
/// # Panics
/// When a problem has no such place.
pub fn parse(bytes: &[u8]) {
    let Ok(content) = std::str::from_utf8(bytes) else {
        return;
    };
    let file = SourceFile {
        path: "fuzz.yaml".to_owned(),
        content: content.to_owned(),
    };
    let lines = content.split(['\n', '\r']).count();
    let has_places = |problems: Problems| {
        assert!(!problems.0.is_empty(), "an error without a problem");
        for problem in problems.0 {
            assert!((1..=lines).contains(&(problem.line as usize)), "{problem}");
            assert!(problem.column >= 1 && problem.width >= 1, "{problem}");
            assert!(!problem.render().is_empty());
        }
    };
    if let Err(problems) = parse_files(std::slice::from_ref(&file)) {
        has_places(problems);
    }
    if let Err(problems) = Inventory::parse(&file) {
        has_places(problems);
    }
}

/// Takes the first 32 bytes for the seed of a [`scenario`], and judges each of its flows both by the reference
/// and by the compiled tables.
///
/// # Panics
/// When they differ.
pub fn compile(bytes: &[u8]) {
    // A seed, not the choices themselves: the generator asks for more of those than any input has.
    let seed: [u8; 32] = std::array::from_fn(|at| bytes.get(at).copied().unwrap_or_default());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    // What the generator's filters reject is no scenario.
    if let Ok(tree) = scenario().new_tree(&mut runner) {
        compare(&tree.current());
    }
}

fn compare(scenario: &Scenario) {
    let Scenario {
        files: _,
        set,
        inventory,
        flows,
    } = scenario;
    let mut identities = IdentityTable::default();
    let population = Population::new(set, inventory, &mut identities);
    for host in &inventory.hosts {
        let subject = set.subject(host, &mut identities);
        let policy = compile_host(set, Revision(1), &population, &subject);
        assert_eq!(policy.check(), Ok(()));
        let Ok(tables) = classify(&policy) else {
            panic!("a small policy is too large: {policy:?}");
        };
        for flow in flows {
            let verdict = evaluate(set, inventory, flow);
            for (direction, own, peer, expected) in [
                (
                    Direction::Egress,
                    flow.source,
                    flow.destination,
                    verdict.egress,
                ),
                (
                    Direction::Ingress,
                    flow.destination,
                    flow.source,
                    verdict.ingress,
                ),
            ] {
                if host.addresses.contains(&own) {
                    let cell = tables.decide(direction, peer, flow.port);
                    let found = SideVerdict {
                        enforced: evidence(&policy, cell.enforced),
                        staged: evidence(&policy, cell.staged),
                    };
                    assert_eq!(found, expected, "{direction} {flow:?}");
                }
            }
        }
    }
}

fn evidence(policy: &HostPolicy, rule: RuleId) -> Evidence {
    let rule = &policy.rules[rule.0 as usize];
    Evidence {
        effect: rule.action.effect().unwrap_or(Effect::Deny),
        tier: rule.tier,
        origin: rule.origin.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::{fs, path::Path};

    /// What was once found stays mended, also without a fuzzer.
    fn run(corpus: &str, target: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(corpus);
        let mut inputs = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            eprintln!("{}", path.display());
            target(&fs::read(&path).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "{} is empty", folder.display());
    }

    #[test]
    fn no_input_of_the_corpus_breaks_the_parser() {
        run("parse", super::parse);
    }

    #[test]
    fn on_every_input_of_the_corpus_the_compiler_and_the_reference_agree() {
        run("compile", super::compile);
    }
}
