//! Judges a run: pure functions from a [`History`] to [`Results`], which is `results.json`.
//!
//! One checker per workload says what is wrong with the answers ([`or_set`], [`set_full`], [`answers`]); [`figures`]
//! counts what is common to all. A checker never calls a correct node wrong: where the history cannot decide, it is
//! silent. Every anomaly names the lines of the history that prove it. The rules, one by one: `docs/bench.md`.

pub mod answers;
pub mod figures;
pub mod or_set;
pub mod set_full;

mod convergence;
mod key;
mod losses;
mod results;

pub use results::{
    Anomaly, AnomalyKind, Availability, Demand, DrainFigures, EchoFigures, NetFigures, NodeFigures, OrSetFigures,
    Quantiles, Results, SetFullFigures, Stale, Stats, StatsOfKind, UniqueIdsFigures, Validity,
};

use super::history::{History, Workload};

/// What a run is held to beside the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CheckOptions {
    /// Which share of the operations must be answered well.
    pub availability: Demand,
}

/// Judges a run.
#[must_use]
pub fn check(history: &History, options: &CheckOptions) -> Results {
    let mut findings = Findings::default();
    let mut results = figures::figures(history, options, &mut findings);
    match history.run.workload {
        Workload::OrSet => results.or_set = Some(or_set::check(history, &mut findings)),
        Workload::GSet | Workload::Broadcast => results.set_full = Some(set_full::check(history, &mut findings)),
        Workload::Echo => results.echo = Some(answers::check_echo(history, &mut findings)),
        Workload::UniqueIds => results.unique_ids = Some(answers::check_unique_ids(history, &mut findings)),
    }
    results.valid = findings.validity();
    results.anomaly_counts = findings.counts;
    results.anomalies = findings.anomalies;
    results.unknown = findings.unknown;
    results
}

/// So many anomalies of one kind are told in full; the others are only counted.
pub const TOLD_OF_A_KIND: u64 = 32;

/// What the checkers found so far.
#[derive(Debug, Default)]
pub struct Findings {
    anomalies: Vec<Anomaly>,
    counts: std::collections::BTreeMap<AnomalyKind, u64>,
    unknown: Vec<String>,
}

impl Findings {
    /// Something is wrong. `anomaly` is asked for the details unless there are many of the kind already.
    pub fn anomaly(&mut self, kind: AnomalyKind, anomaly: impl FnOnce() -> Anomaly) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= TOLD_OF_A_KIND {
            self.anomalies.push(anomaly());
        }
    }

    /// Something could not be judged.
    pub fn unknown(&mut self, why: impl Into<String>) {
        self.unknown.push(why.into());
    }

    fn validity(&self) -> Validity {
        match (self.counts.is_empty(), self.unknown.is_empty()) {
            (false, _) => Validity::Invalid,
            (true, false) => Validity::Unknown,
            (true, true) => Validity::Valid,
        }
    }
}
