//! The fuzzer's cases, without a fuzzer: every input under `fuzz/cases/` does no harm.
//!
//! What is done with an input is in `fuzz/harness/`, the same code for the fuzzer and for this. What a fuzzer has found is
//! put into `fuzz/cases/<target>/` under a name that says what it was.

use std::path::{Path, PathBuf};

#[path = "../fuzz/harness/mod.rs"]
mod harness;

use harness::{TARGETS, first_cases::first_cases, run};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn dir_of(target: &str) -> PathBuf {
    root().join("fuzz/cases").join(target)
}

/// Runs all cases of a target; a panic in one is told with its name.
fn run_cases(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let entries = std::fs::read_dir(dir_of(name)).unwrap();
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 7, "{name} has only {} cases", cases.len());
    for case in cases {
        let input = std::fs::read(&case).unwrap();
        let outcome = std::panic::catch_unwind(|| run(*target, &input));
        assert!(outcome.is_ok(), "case {}: see above", case.strip_prefix(root()).unwrap().display());
    }
}

#[test]
fn protocol_line() {
    run_cases("protocol_line");
}

#[test]
fn sync_message() {
    run_cases("sync_message");
}

#[test]
fn log_segment() {
    run_cases("log_segment");
}

#[test]
fn snapshot() {
    run_cases("snapshot");
}

#[test]
fn manifest() {
    run_cases("manifest");
}

/// The fuzzer, these tests and the directories know the same targets.
#[test]
fn every_target_has_its_binary_and_its_cases() {
    let names = |dir: &str| {
        let entries = std::fs::read_dir(root().join("fuzz").join(dir)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let mut targets = TARGETS.map(|(name, _)| name.to_owned());
    targets.sort();
    assert_eq!(names("cases"), targets);
    assert_eq!(names("fuzz_targets"), targets);
}

#[test]
#[ignore = "writes the cases that a fuzzer starts from; for when a format or the protocol has changed"]
fn write_first_cases() {
    for (target, _) in TARGETS {
        std::fs::create_dir_all(dir_of(target)).unwrap();
        for (name, input) in first_cases(target, root()) {
            std::fs::write(dir_of(target).join(name), input).unwrap();
        }
    }
}
