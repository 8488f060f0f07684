//! The fuzz targets on their committed corpora: what was once found stays mended, without a fuzzer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use bulkhead_policy::testing::fuzz;

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
    run("parse", fuzz::parse);
}

#[test]
fn on_every_input_of_the_corpus_the_compiler_and_the_reference_agree() {
    run("compile", fuzz::compile);
}
