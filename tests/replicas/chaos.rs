//! Seeded runs: clients and faults of every kind at once; then the faults end, and everybody must come to agree, with
//! each other and with what clients were told.

use std::thread;

use orset::sim::{Fault, Faults, Options, Tally, run_many, trace};

/// In clusters of 2, 3, 4 and 5 nodes together.
const SEEDS: u64 = 2_000;
const STEPS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn options(nodes: usize, seed: u64) -> Options {
    Options { seed, nodes, steps: STEPS, faults: Faults::all() }
}

#[test]
fn whatever_befalls_them_replicas_come_to_agree_on_what_clients_were_told() {
    let seeds = number("ORSET_SEEDS").unwrap_or(SEEDS);
    let (first, each) = number("ORSET_SEED").map_or((0, seeds.div_ceil(4)), |seed| (seed, 1));
    let mut tally = Tally::default();
    for nodes in 2..=5 {
        match run_many(&options(nodes, first), each, 2, &|_| ()) {
            Ok(some) => tally.add(&some),
            Err(failure) => {
                let (steps, command) = (failure.last_steps.join("\n"), failure.shortest.command());
                panic!("{steps}\n{}\nreplay: {command}", failure.what);
            }
        }
    }
    println!("{tally:?}");
    if tally.seeds >= SEEDS {
        let reached = [
            tally.torn_tails,
            tally.indexes_trusted,
            tally.cuts_to_prefix,
            tally.cuts_to_subset,
            tally.crashes_in_recovery,
            tally.write_errors,
            tally.short_writes,
            tally.failed_syncs,
            tally.disk_full,
            tally.damaged,
            tally.rollbacks,
            tally.copies,
            tally.lost,
        ];
        assert!(reached.into_iter().all(|figure| figure > 40), "the runs are not what they are meant to be: {tally:?}");
        assert!(tally.state_deltas > tally.seeds, "{tally:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_last_message() {
    for seed in 0..6 {
        let here = trace(&options(4, seed));
        let elsewhere = thread::spawn(move || trace(&options(4, seed))).join().unwrap();
        assert!(here.is_ok());
        assert_eq!(here, elsewhere);
        assert_ne!(here, trace(&options(4, seed + 1)));
    }
}

#[test]
fn where_nothing_could_be_set_aside_on_a_full_disk_the_next_start_may_wait_for_room() {
    // Its disk is full at a start, and again when a superseded snapshot's removal is lost with the power.
    let found_without = [
        Fault::Late,
        Fault::Cut,
        Fault::Stop,
        Fault::PowerAfterStart,
        Fault::WriteError,
        Fault::ShortWrite,
        Fault::FailedSync,
    ];
    let faults = found_without.into_iter().fold(Faults::all(), Faults::without);
    let options = Options { seed: 612, nodes: 5, steps: 255, faults };
    run_many(&options, 1, 1, &|_| ()).unwrap_or_else(|failure| panic!("{}", failure.what));
}
