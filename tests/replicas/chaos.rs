//! Seeded runs: clients and faults of every kind at once; then the faults end, and everybody must come to agree, with
//! each other and with what clients were told.

use orset::sim::{Options, Tally, run};

const SEEDS: u64 = 300;
const STEPS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn whatever_befalls_them_replicas_come_to_agree_on_what_clients_were_told() {
    let seeds = match number("ORSET_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ORSET_SEEDS").unwrap_or(SEEDS),
    };
    let (mut tally, count) = (Tally::default(), seeds.end - seeds.start);
    for seed in seeds {
        let nodes = 2 + usize::try_from(seed % 4).unwrap();
        match run(&Options { seed, nodes, steps: STEPS }) {
            Ok(one) => tally.add(&one),
            Err(failure) => {
                let (steps, options) = (failure.last_steps.join("\n"), failure.options);
                panic!(
                    "{steps}\n{}\nreplay: orset sim --seed {seed} --nodes {nodes} --steps {}",
                    failure.what, options.steps
                );
            }
        }
    }
    println!("{count} seeds: {tally:?}");
    if count >= SEEDS {
        let Tally { adds, removed, lost, state_deltas, .. } = tally;
        assert!(removed > adds / 10 && state_deltas > count && lost > 0, "the runs are not what they are meant to be");
    }
}
