//! The tests of the tests: bugs are planted one after another, and the simulation must catch each within the number of
//! seeds that is stated for it. `orset sim --plant all` prints the same as a table.
//!
//! Only with the feature that plants them: `cargo test --features planted-bugs --test planted`.

use orset::planted::Bug;
use orset::sim::plant::{STARTS, seek};
use orset::sim::{Faults, Options};

/// Seeds without a planted bug, from each start: what is "caught" there is a false alarm, or a bug of ours.
const CLEAN_SEEDS: u64 = 20;

/// A bug that may take more seeds than this is sought only if `ORSET_PLANTED=all`: that takes minutes.
const SHORT: u64 = 200;

/// One test, as one bug is planted for the whole process.
#[test]
fn every_planted_bug_is_caught_within_its_bound_and_nothing_is_without_one() {
    let first = Options { seed: 0, nodes: 2, steps: 300, faults: Faults::all() };
    let found = seek(None, &first, CLEAN_SEEDS);
    assert!(found.iter().all(Option::is_none), "without a planted bug: {found:?}");
    let mut missed = Vec::new();
    let long = std::env::var("ORSET_PLANTED").is_ok_and(|value| value == "all");
    for bug in Bug::ALL.into_iter().filter(|bug| long || bug.about().within_seeds <= SHORT) {
        let (about, catches) = (bug.about(), seek(Some(bug), &first, bug.about().within_seeds));
        let seeds: Vec<_> = catches.iter().map(|catch| catch.as_ref().map(|catch| catch.seeds)).collect();
        println!("{}: {seeds:?} of {}", about.name, about.within_seeds);
        if catches.iter().any(Option::is_none) {
            missed.push(about.name);
        }
    }
    assert!(missed.is_empty(), "not caught from each of {STARTS} starts: {missed:?}");
}

#[test]
fn names_and_bounds_are_as_they_are_used() {
    for (n, bug) in Bug::ALL.into_iter().enumerate() {
        let about = bug.about();
        assert_eq!(Bug::named(about.name), Some(bug));
        assert!(((1..=10).contains(&about.invariant) || about.invariant == 14) && about.within_seeds > 0, "{about:?}");
        assert!(!Bug::ALL[..n].contains(&bug), "{about:?} is listed twice");
    }
}
