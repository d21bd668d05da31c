//! orset beside crates that hold the same set in memory: crdts, automerge, loro, yrs (target 15).
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml             all of them
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- yrs      some
//! ```
//!
//! Each does the same: one replica makes 100,000 operations (70 % adds of new elements of 16 bytes, 30 % removes of one
//! that is there), another takes them over, the set is saved and loaded; then the first makes 1 % more, and the second is
//! brought up to date by whatever the library has for that, told what the second holds. Rounds of all sides alternate,
//! and a time is the median of its rounds. The same seed makes the same operations for each.
//!
//! What a set is in each library:
//!
//! | | a set | synchronised by |
//! |---|---|---|
//! | crdts | `Orswot`: natively | the operations themselves (it keeps none: the caller would have to), or the whole state |
//! | automerge | a map keyed by element; a concurrent add wins | sync messages, both ways; or the changes since the other's heads |
//! | loro | a map keyed by element; the last writer wins, so a concurrent add may be lost | updates since the other's version |
//! | yrs | the same | an update against the other's state vector |
//! | orset | natively, on disk | its JSON lines, digests and all |
//!
//! orset's times are of a store on disk: each batch of at most 1,024 operations is synced before it counts, as is each
//! save. The others' are of memory, and their saves are bytes that nobody has written anywhere.

#[path = "../../support/figures.rs"]
#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod figures;
#[path = "../../support/pair.rs"]
#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod pair;

mod in_memory;
mod ours;
mod set;
mod workload;

use std::collections::BTreeMap;

use figures::Figure;
use in_memory::{Automerge, Crdts, Loro, Yrs};
use ours::Orset;
use set::{Measured, measure};
use workload::{Names, Workload};

const ROUNDS: usize = 3;
const OPS: usize = 100_000;
const SEED: u64 = 15;
/// The library's name, and one round of it.
type Contestant = (&'static str, fn(&Workload) -> Measured);

const CONTESTANTS: [Contestant; 5] = [
    ("orset", measure::<Orset>),
    ("crdts", measure::<Crdts>),
    ("automerge", measure::<Automerge>),
    ("loro", measure::<Loro>),
    ("yrs", measure::<Yrs>),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| CONTESTANTS.iter().all(|(known, _)| known != name)) {
        eprintln!("no library {unknown:?}; there are: {}", CONTESTANTS.map(|(name, _)| name).join(" "));
        std::process::exit(2);
    }
    let takes_part = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    for names in [Names::Scattered, Names::Numbered] {
        let workload = Workload::new(names, OPS, SEED);
        let mut rounds: BTreeMap<&str, Vec<Measured>> = BTreeMap::new();
        for _ in 0..ROUNDS {
            for (name, round) in CONTESTANTS.iter().filter(|(name, _)| takes_part(name)) {
                rounds.entry(name).or_default().push(round(&workload));
            }
        }
        let results: BTreeMap<&str, Measured> =
            rounds.into_iter().map(|(name, rounds)| (name, Measured::median(rounds))).collect();
        println!("\nelements {}:", names.example());
        table(&results);
        record(names, &results);
    }
}

/// All figures of all of them, as a table.
fn table(results: &BTreeMap<&str, Measured>) {
    let columns: Vec<&str> =
        CONTESTANTS.iter().map(|(name, _)| *name).filter(|name| results.contains_key(name)).collect();
    println!("| | {} |\n|---|{}", columns.join(" | "), "---:|".repeat(columns.len()));
    let Some(first) = results.values().next() else { return };
    for (row, (what, unit, _)) in first.values.iter().enumerate() {
        let cells: Vec<String> = columns.iter().map(|name| figures::number(results[name].values[row].2)).collect();
        println!("| {what}, {unit} | {} |", cells.join(" | "));
    }
    for name in columns {
        for (what, bytes) in &results[name].details {
            println!("{name}: {what}: {} bytes", figures::number(*bytes as f64));
        }
    }
}

fn record(names: Names, results: &BTreeMap<&str, Measured>) {
    let Some(ours) = results.get("orset") else { return };
    let others = || results.iter().filter(|(name, _)| **name != "orset");
    for (row, (what, unit, value)) in ours.values.iter().enumerate() {
        let mut figure = Figure::of(15, format!("{what}, elements {}", names.example())).ours(unit, *value);
        for (name, measured) in others() {
            figure = figure.peer(name, measured.values[row].2);
        }
        if *what == set::SYNC {
            let best = others().map(|(_, measured)| measured.values[row].2).fold(f64::INFINITY, f64::min);
            if best.is_finite() {
                figure = figure.at_most("of the best other", value / best, 1.0);
            }
            for (name, measured) in results {
                for (what, bytes) in &measured.details {
                    figure = figure.detail(format!("{name}: {what}: {} bytes", figures::number(*bytes as f64)));
                }
            }
        } else if *unit == "ms" {
            figure = figure.detail("ours is durable, theirs is not");
        }
        figure.record();
    }
}
