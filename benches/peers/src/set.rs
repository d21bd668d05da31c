//! What is asked of each library, and how it is measured.

use std::time::Instant;

use crate::workload::{Change, Workload};

/// So many operations are one transaction, commit or group commit.
pub const BATCH: usize = 1024;

/// The name of the figure that the target is about.
pub const SYNC: &str = "bytes to sync 1 %";

/// A replica of a set.
pub trait Set: Sized {
    /// An empty one; the two replicas are 0 and 1.
    fn new(replica: usize) -> Self;

    /// Does some operations, as one transaction.
    fn apply(&mut self, changes: &[Change]);

    /// Does what may be done beside the operations.
    fn settle(&mut self) {}

    /// Takes over everything that another replica holds: what a new replica does.
    fn merge(&mut self, other: &mut Self);

    /// Saves it, and says how many bytes that took: what counts first, then what else there is.
    fn save(&mut self) -> Vec<(String, usize)>;

    /// Loads what was saved last, and forgets what it held.
    fn load(self) -> Self;

    /// Brings another replica up to date, and says in how many bytes: the way that counts first, then others.
    fn sync(self, other: Self) -> Vec<(String, usize)>;

    /// How many elements there are.
    fn len(&mut self) -> usize;
}

/// What was measured of one library.
pub struct Measured {
    /// Name, unit and value, the same of each library.
    pub values: Vec<(&'static str, &'static str, f64)>,
    /// The parts of what was saved, and bytes to bring the other up to date, by how.
    pub details: Vec<(String, usize)>,
}

impl Measured {
    /// The medians of several rounds.
    pub fn median(mut rounds: Vec<Self>) -> Self {
        let mut median = rounds.pop().expect("at least one round");
        for (row, value) in median.values.iter_mut().enumerate() {
            let mut all: Vec<f64> = rounds.iter().map(|round| round.values[row].2).chain([value.2]).collect();
            all.sort_by(f64::total_cmp);
            value.2 = all[all.len() / 2];
        }
        median
    }
}

/// One round.
pub fn measure<S: Set>(workload: &Workload) -> Measured {
    let mut values = Vec::new();
    let mut first = S::new(0);
    let started = Instant::now();
    workload.common.chunks(BATCH).for_each(|changes| first.apply(changes));
    values.push(("apply 100k operations", "ms", ms(started)));
    let started = Instant::now();
    first.settle();
    values.push(("bring the index along (in the program: meanwhile, in its own thread)", "ms", ms(started)));
    let mut second = S::new(1);
    let started = Instant::now();
    second.merge(&mut first);
    values.push(("take all over into an empty replica", "ms", ms(started)));
    second.settle();
    let started = Instant::now();
    let mut details = first.save();
    values.push(("save", "ms", ms(started)));
    values.push(("bytes saved", "bytes", details[0].1 as f64));
    let started = Instant::now();
    let mut first = first.load();
    values.push(("load", "ms", ms(started)));
    workload.more.chunks(BATCH).for_each(|changes| first.apply(changes));
    first.settle();
    assert_eq!(first.len(), workload.elements, "it holds what it should");
    let syncs = first.sync(second);
    values.push((SYNC, "bytes", syncs[0].1 as f64));
    details.extend(syncs);
    Measured { values, details }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
