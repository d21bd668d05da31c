//! `orset sim`.

use std::io::Write;
use std::time::Instant;

use clap::Args;

use super::unless_closed;
use crate::sim::{self, Failure, Options, Tally};

/// What `orset sim` ends with.
pub const EXIT_CODES: &str = "Exit codes:
  0  all is well
  1  a violation was found; the last lines say which, and how to see it again
  2  wrong usage";

/// Options of the simulation.
#[derive(Args, Debug)]
pub struct SimArgs {
    /// The first seed: everything is drawn from it
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How many seeds, from the first on
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=50))]
    nodes: u16,
    /// How many steps a seed: a pause, perhaps a fault, and a client's request
    #[arg(long, value_name = "S", default_value_t = 200)]
    steps: u64,
}

/// Runs the seeds, and says how they went. Gives the exit code.
pub fn run(args: &SimArgs) -> anyhow::Result<u8> {
    super::start_logging("off");
    let started = Instant::now();
    let mut tally = Tally::default();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        match sim::run(&Options { seed, nodes: usize::from(args.nodes), steps: args.steps }) {
            Ok(one) => tally.add(&one),
            Err(failure) => {
                unless_closed(write_failure(&mut std::io::stdout().lock(), &failure))?;
                return Ok(1);
            }
        }
    }
    unless_closed(write_summary(&mut std::io::stdout().lock(), args.seeds, &tally, started.elapsed().as_secs_f64()))?;
    Ok(0)
}

fn write_failure(out: &mut dyn Write, failure: &Failure) -> std::io::Result<()> {
    let Options { seed, nodes, steps } = failure.options;
    writeln!(out, "The last steps, with the virtual time in ms:")?;
    for step in &failure.last_steps {
        writeln!(out, "{step}")?;
    }
    writeln!(out, "seed {seed}: {}", failure.what)?;
    writeln!(out, "replay: orset sim --seed {seed} --nodes {nodes} --steps {steps}")?;
    writeln!(out, "violation found")
}

fn write_summary(out: &mut dyn Write, seeds: u64, tally: &Tally, seconds: f64) -> std::io::Result<()> {
    let Tally { adds, removed, lost, messages, state_deltas, slowest_ms } = tally;
    writeln!(out, "seeds               {seeds}")?;
    writeln!(out, "adds                {adds}")?;
    writeln!(out, "tags removed        {removed}")?;
    writeln!(out, "lost with stores    {lost}")?;
    writeln!(out, "messages            {messages}")?;
    writeln!(out, "state deltas        {state_deltas}")?;
    writeln!(out, "slowest agreement   {slowest_ms} virtual ms")?;
    writeln!(out, "time                {seconds:.1} s")?;
    writeln!(out, "all is well")
}
