//! The tests of the tests: how many seeds it takes until a planted bug is caught.

use std::thread;

use super::rules::Rule;
use super::run::{Options, attempt};
use super::story::Story;
use crate::planted::{self, Bug};

/// The search for a bug begins at so many different seeds, far from each other.
pub const STARTS: u64 = 3;
const APART: u64 = 1_000_000;

/// A bug that was caught.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catch {
    /// How many seeds were run until then.
    pub seeds: u64,
    /// What was wrong, in words, and where in the source that was found.
    pub what: String,
}

/// Plants `bug`, and runs seeds from each of the starts on, on two to five nodes, until it is caught or `bound` seeds have
/// been run: one outcome for each start. Without a bug, whatever is caught is wrong.
///
/// # Panics
/// Never: what a run panics of is caught.
pub fn seek(bug: Option<Bug>, first: &Options, bound: u64) -> Vec<Option<Catch>> {
    planted::plant(bug);
    let outcomes = thread::scope(|scope| {
        let starts = (0..STARTS).map(|n| first.seed.wrapping_add(n * APART));
        let searches: Vec<_> = starts.map(|seed| scope.spawn(move || seek_from(seed, first, bound))).collect();
        searches.into_iter().map(|search| search.join().expect("a run catches its panics")).collect()
    });
    planted::plant(None);
    outcomes
}

fn seek_from(start: u64, first: &Options, bound: u64) -> Option<Catch> {
    (0..bound).find_map(|n| {
        let seed = start.wrapping_add(n);
        let nodes = 2 + usize::try_from(seed % 4).expect("below four");
        let what = attempt(&Options { seed, nodes, ..*first }, &Story::untold()).err()?;
        Some(Catch { seeds: n + 1, what })
    })
}

impl Catch {
    /// The rule that was seen to be broken; or in which file the product's own assertion is.
    pub fn check(&self) -> String {
        match self.what.split_once(": ") {
            Some((rule, _)) if Rule::ALL.iter().any(|known| known.to_string() == rule) => rule.to_owned(),
            _ => {
                let place = self.what.rsplit_once('(').map_or("", |(_, place)| place);
                format!("an assertion in {}", place.split(':').next().unwrap_or_default())
            }
        }
    }
}
